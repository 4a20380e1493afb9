r"""The soft nearest neighbour in a support, and the cycle that goes there and back.

Out: from an anchor *q* to the mean of support features under the softmax of its similarities,

    α_j = softmax_j(q·u_j / τ_nn),   q̃ = Σ_j α_j u_j,   q̂ = q̃ / ‖q̃‖.

Back: from *q̂* to a positive of the anchor's own video among negatives, by InfoNCE with τ.

With a detached support the gradient reaches the anchor through the weights α only; it vanishes both
for one-hot weights (τ_nn → 0) and for uniform ones (τ_nn → ∞). (CycleContrast, arXiv 2105.06463,
§3.2; Dwibedi et al., arXiv 1904.07846, for cycles through soft neighbours.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rhyme.kernels import Kernel, soft_neighbour
from rhyme.kernels.common import Temperature
from rhyme.objectives.contrast import info_nce
from rhyme.objectives.output import ObjectiveOutput, told_of_rows

_SMALLEST_NORM = 1e-6  # below it the direction of a mean of unit vectors is rounding noise


@dataclass(frozen=True)
class SoftNeighbour:
    """The soft nearest neighbours of a batch of anchors.

    Attributes:
        mean: q̃ ``[b, d]`` with gradient, ‖q̃‖ ≤ 1; 0 where the support is empty.
        neighbour: q̂ ``[b, d]``, unit rows with gradient; 0 in rows that are not valid.
        entropy: ``[b]`` of the weights, nats, detached.
        log_sum_exp: ``[b]`` with gradient; −inf where the support is empty.
        valid: bool ``[b]``; False where every support row is left out, or their mean has no
            direction.
        allowed: int64 ``[b]``, support rows that were not left out.
    """

    mean: Tensor
    neighbour: Tensor
    entropy: Tensor
    log_sum_exp: Tensor
    valid: Tensor
    allowed: Tensor


def soft_nearest_neighbour(
    anchors: Tensor,
    support: Tensor,
    *,
    temperature: Temperature,
    anchor_groups: Tensor | None = None,
    support_groups: Tensor | None = None,
    include_self: Tensor | None = None,
    values: Tensor | None = None,
    kernel: Kernel = "auto",
) -> SoftNeighbour:
    """The mean of the support under the softmax of its similarities to each anchor.

    The weights themselves, for display: :func:`rhyme.kernels.neighbour_weights`.

    Args:
        anchors: ``[b, d]`` unit rows.
        support: ``[s, d]`` unit rows.
        temperature: τ_nn > 0, a number or a learned scalar.
        anchor_groups: int64 ``[b]``: support rows of the anchor's own group are left out.
        support_groups: int64 ``[s]``; negative ids are nobody's and never left out.
        include_self: the anchors' keys ``[b, d]``. Adds to each anchor's support one slot with
            logit ``q·k / τ_nn`` and the anchor itself as value, with its gradient.
        values: ``[s, d]`` averaged in place of the support's rows; a permuted support is the
            control that keeps the weights and destroys their meaning.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        See :class:`SoftNeighbour`.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive.
    """
    found = soft_neighbour(
        anchors,
        support,
        temperature=temperature,
        query_groups=anchor_groups,
        support_groups=support_groups,
        self_key=include_self,
        values=values,
        kernel=kernel,
    )
    norm = torch.linalg.vector_norm(found.mean, dim=1, keepdim=True)
    valid = norm.detach()[:, 0] > _SMALLEST_NORM
    neighbour = torch.where(valid[:, None], found.mean / norm.clamp(min=_SMALLEST_NORM), 0)
    return SoftNeighbour(
        found.mean, neighbour, found.entropy, found.log_sum_exp, valid, found.allowed
    )


def cycle(
    anchors: Tensor,
    positives: Tensor,
    support: Tensor,
    negatives: Tensor,
    *,
    temperature: Temperature,
    neighbour_temperature: Temperature | None = None,
    anchor_groups: Tensor | None = None,
    support_groups: Tensor | None = None,
    negative_groups: Tensor | None = None,
    include_self: Tensor | None = None,
    values: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """Out to the soft nearest neighbour in the support, and back to the own video.

    Args:
        anchors: ``[b, d]`` unit rows.
        positives: ``[b, d]`` unit rows, each of its anchor's video.
        support: ``[s, d]`` unit rows of other videos.
        negatives: ``[n, d]`` unit rows, disjoint from the support.
        temperature: τ of the way back.
        neighbour_temperature: τ_nn of the way out; None for τ.
        anchor_groups: int64 ``[b]``: support and negatives of the own group are left out.
        support_groups: int64 ``[s]``.
        negative_groups: int64 ``[n]``.
        include_self: as in :func:`soft_nearest_neighbour`.
        values: as in :func:`soft_nearest_neighbour`.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        One value for each anchor; a row whose support or negatives are all left out is not valid.
        Diagnostics: those of :func:`info_nce` for the way back (``accuracy`` is the share of valid
        cycles that return), ``support_entropy`` (nats), ``effective_neighbours`` (exp of it),
        ``neighbour_norm`` (‖q̃‖: 1 if all weight falls on one direction), ``neighbour_cosine`` (of
        q̂ with its anchor: near 1, the cycle is no more than an intra-video contrast), and
        ``support_masked_fraction`` (of pairs).

    Raises:
        DataError: shapes do not fit.
        ConfigError: a temperature is not positive.
    """
    out = soft_nearest_neighbour(
        anchors,
        support,
        temperature=temperature if neighbour_temperature is None else neighbour_temperature,
        anchor_groups=anchor_groups,
        support_groups=support_groups,
        include_self=include_self,
        values=values,
        kernel=kernel,
    )
    back = info_nce(
        out.neighbour,
        positives,
        negatives,
        temperature=temperature,
        valid=out.valid,
        anchor_groups=anchor_groups,
        negative_groups=negative_groups,
        kernel=kernel,
    )
    with torch.no_grad():
        norm = torch.linalg.vector_norm(out.mean, dim=1)
        cosine = (out.neighbour * anchors).sum(1)
        left_out = 1 - (out.allowed.to(norm) / max(len(support), 1)).mean()
    diagnostics = dict(back.diagnostics)
    diagnostics.update(
        **told_of_rows(
            back.valid,
            some=True,
            support_entropy=out.entropy,
            effective_neighbours=out.entropy.exp(),
            neighbour_norm=norm,
            neighbour_cosine=cosine,
        ),
        support_masked_fraction=left_out,
    )
    return ObjectiveOutput(back.values, back.valid, diagnostics)
