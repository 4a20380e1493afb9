r"""Objectives on the segments of a clip: shuffle-rank and temporal-coherent contrast.

Both read ``s`` unit vectors a clip, one for each of its temporal segments, as a series head gives
them (DUAL, arXiv 2107.01194, section 3).

*Shuffle-rank* keeps the segments of one clip apart. Of two sets *a* and *b* of the same clip, each
of the 2s vectors *u* has one positive v(u), the vector of its own segment in the other set, and
2s − 2 others *w*:

    R(a, b) = mean over u, w of  log(1 + exp((u·w − u·v(u)) / θ)).

*Temporal coherence* keeps the clips of one video together. Two clips are as similar as all pairs of
their segments are on average, which is the product of the means of their segments:

    S(x, y) = mean over i, j of x_i·y_j = x̄·ȳ.

The means are not brought to length 1 again. A clip whose segments have turned apart has a short
mean, and so a small S with any other: that is what keeps the two objectives in balance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.errors import ConfigError, DataError
from rhyme.kernels.common import full_precision, no_autocast
from rhyme.objectives.output import ObjectiveOutput, masked_mean


def shuffle_segments(clips: Tensor, order: Tensor) -> Tensor:
    """Clips with their segments in another order.

    Args:
        clips: ``[b, t, ...]``, cut into ``s`` segments of ``t / s`` frames.
        order: int64 ``[b, s]``, a permutation a clip: the segment that comes to stand at each
            place.

    Raises:
        DataError: ``t`` does not divide by ``s``, or there is not one order for each clip.
    """
    b, s = order.shape
    if len(clips) != b or clips.shape[1] % s:
        raise DataError(
            "the frames of each clip must divide into the segments of its order",
            value=(tuple(clips.shape), tuple(order.shape)),
        )
    pieces = clips.unflatten(1, (s, -1))
    return pieces[torch.arange(b, device=clips.device)[:, None], order].flatten(1, 2)


def calibrate_segments(vectors: Tensor, order: Tensor) -> Tensor:
    """The segment vectors of shuffled clips, each put back to the place that its segment came from.

    Args:
        vectors: ``[b, s, d]``, one for each place of the shuffled clip.
        order: int64 ``[b, s]`` as given to :func:`shuffle_segments`.
    """
    return vectors.scatter(1, order[..., None].expand_as(vectors), vectors)


def segment_ranking(
    first: Tensor,
    second: Tensor,
    *,
    theta: float = 0.05,
    clamp: float | None = None,
    measured: Tensor | None = None,
) -> ObjectiveOutput:
    """Each segment has to be nearest to itself, seen a second time, among all segments of its clip.

    With all vectors equal the value is ``ln 2``; it goes to 0 as the segments turn apart.

    Args:
        first: ``[b, s, d]`` unit rows, the segments of a clip.
        second: ``[b, s, d]`` unit rows, the same segments in the same order, seen otherwise.
        theta: θ > 0, the softness of the ranking.
        clamp: largest exponent, beyond which a pair gets no gradient (5 in the published code:
            there the worst pairs, with u·w − u·v(u) > 5 θ, are not learnt from); None for none.
        measured: bool ``[b]``, clips that ``accuracy`` is measured on; all by default.

    Returns:
        One value for each clip; with a single segment there is nothing to rank, and no row is
        valid. Diagnostics: ``accuracy`` as :func:`segment_accuracy`, over the measured clips,
        ``positive_cosine`` (of a segment with itself), ``segment_cosine`` (of different segments
        of one set; 1 if all are alike), ``masked_rows``.

    Raises:
        DataError: shapes do not fit.
        ConfigError: θ or the clamp is not positive.
    """
    _check(first, second)
    for name, value in (("theta", theta), ("clamp", clamp)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be positive and finite", value=value, remedy="try 0.05")
    b, s = first.shape[:2]
    if measured is not None and measured.shape != (b,):
        raise DataError("measured must be [b]", value=(tuple(measured.shape), (b,)))
    with no_autocast(first.device):
        first, second = full_precision(first, second)
        positive = (first * second).sum(-1)
        both = torch.cat([first, second], dim=1)
        cosine = both @ both.mT
        exponent = (cosine - torch.cat([positive, positive], dim=1)[..., None]) / theta
        if clamp is not None:
            exponent = exponent.clamp(max=clamp)
        own = torch.eye(s, dtype=torch.bool, device=first.device).repeat(2, 2)
        terms = torch.logaddexp(exponent, torch.zeros_like(exponent)).masked_fill(own, 0.0)
        pairs = 2 * s * (2 * s - 2)
        values = terms.sum(dim=(1, 2)) / max(pairs, 1)
    valid = torch.full((b,), s > 1, device=first.device)
    with torch.no_grad():
        apart = torch.stack([cosine[:, :s, :s], cosine[:, s:, s:]]).masked_fill(own[:s, :s], 0.0)
        hits = segment_accuracy(first, second)
        looked = valid if measured is None else valid & measured
        told = {
            # ranks differ in how many clips they measure, so their means have no common mean
            "accuracy": distributed.mean(hits, looked),
            "positive_cosine": masked_mean(positive.mean(dim=1), valid),
            "segment_cosine": masked_mean(apart.sum(dim=(0, 2, 3)) / max(pairs / 2, 1), valid),
            "masked_rows": (~valid).sum().to(values) * distributed.world_size(),
        }
    return ObjectiveOutput(values, valid, told)


@torch.no_grad()
def segment_accuracy(first: Tensor, second: Tensor) -> Tensor:
    """Share of a clip's segments that are nearer to themselves than to any other of the other set.

    Chance is ``1 / s``. A tie is no hit. Where the second set comes from a shuffled clip, a head
    that ignores its input is right on the segments that kept their place and wrong on the others:
    measure it on clips whose segments have moved.

    Args:
        first: ``[b, s, d]`` unit rows.
        second: ``[b, s, d]`` unit rows of the same segments.

    Returns:
        ``[b]`` in [0, 1], in both directions; 1 for a single segment.

    Raises:
        DataError: shapes do not fit.
    """
    _check(first, second)
    with no_autocast(first.device):
        first, second = full_precision(first, second)
        cosine = first @ second.mT
    own = torch.diagonal(cosine, dim1=1, dim2=2)
    others = cosine.masked_fill(
        torch.eye(cosine.shape[1], dtype=torch.bool, device=cosine.device), -torch.inf
    )
    nearest = torch.stack([others.amax(dim=2), others.amax(dim=1)])
    return (own - nearest > 8 * torch.finfo(cosine.dtype).eps).to(cosine).mean(dim=(0, 2))


def segment_mean(segments: Tensor) -> Tensor:
    """The rows that temporal coherence compares: their products are S.

    Give them to :func:`nt_xent` or :func:`info_nce` as they are: a mean of unit vectors is shorter
    than 1, the more so the further the segments are apart. What those call cosines is S then. The
    order of a clip's segments plays no part.

    Args:
        segments: ``[b, s, d]`` unit rows, the segments of each clip.

    Returns:
        ``[b, d]``.

    Raises:
        DataError: another shape.
    """
    if segments.ndim != 3:
        raise DataError("expected the segments of clips, [b, s, d]", value=tuple(segments.shape))
    return segments.mean(dim=1)


def _check(first: Tensor, second: Tensor) -> None:
    if first.ndim != 3 or first.shape != second.shape:
        raise DataError(
            "expected the segments of the same clips twice, [b, s, d]",
            value=(tuple(first.shape), tuple(second.shape)),
        )
