"""Objectives over all pairs of frames of two clips of a video (VFS, arXiv 2103.17263)."""

from __future__ import annotations

import torch
from torch import Tensor

from rhyme.errors import DataError
from rhyme.kernels import Kernel, queue_log_sum_exp
from rhyme.kernels.common import Temperature, full_precision, no_autocast
from rhyme.objectives.output import ObjectiveOutput, masked_mean, told_of_rows


def pair_distance(predictions: Tensor, targets: Tensor) -> ObjectiveOutput:
    """``2 − 2 cos`` between frames of two clips of an item, the mean over all pairs of them.

    From 0, where all frames are alike, to 4; 2 for directions that have nothing in common. It has
    no negatives: a constant is its minimum, which a stop-gradient on the targets and a predictor
    before them keep away (SimSiam, arXiv 2011.10566).

    Args:
        predictions: ``[b, t, d]`` unit rows.
        targets: ``[b, u, d]`` unit rows. The gradient reaches them too: detach them.

    Returns:
        One value for each item, all valid; diagnostic ``positive_cosine``.

    Raises:
        DataError: shapes do not fit.
    """
    _check_pairs(predictions, targets)
    with no_autocast(predictions.device):
        predictions, targets = full_precision(predictions, targets)
        cosine = (predictions @ targets.mT).mean(dim=(1, 2))
    valid = torch.ones(len(cosine), dtype=torch.bool, device=cosine.device)
    told = {"positive_cosine": masked_mean(cosine.detach(), valid)}
    return ObjectiveOutput(2 - 2 * cosine, valid, told)


def multi_positive_info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: Temperature,
    anchor_groups: Tensor | None = None,
    negative_groups: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """Each anchor has to find each of its positives, one at a time, among shared negatives.

    The other positives of an anchor are in no denominator: the value of a pair is that of
    :func:`info_nce` with this positive alone. With all similarities equal it is ``ln(1 + n)``.

    Args:
        anchors: ``[b, t, d]`` unit rows: ``t`` frames of each item.
        positives: ``[b, u, d]`` unit rows: the positives of all of an item's anchors.
        negatives: ``[n, d]`` unit rows.
        temperature: τ > 0, a number or a learned scalar.
        anchor_groups: int64 ``[b]``: negatives of the item's own group are left out.
        negative_groups: int64 ``[n]``; negative ids are nobody's and never left out.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        One value for each anchor, ``[b * t]`` item by item, the mean over its positives.
        Diagnostics as those of :func:`info_nce`; ``accuracy`` is the share of pairs that are nearer
        than every negative.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive.
    """
    _check_pairs(anchors, positives)
    t = anchors.shape[1]
    summary = queue_log_sum_exp(
        anchors.flatten(0, 1),
        negatives,
        temperature=temperature,
        query_groups=None if anchor_groups is None else anchor_groups.repeat_interleave(t),
        key_groups=negative_groups,
        kernel=kernel,
    )
    with no_autocast(anchors.device):
        anchors, positives = full_precision(anchors, positives)
        cosine = (anchors @ positives.mT).flatten(0, 1)
        valid = summary.allowed > 0
        lse = torch.where(valid, summary.log_sum_exp, 0)[:, None]
        gap = lse - cosine / temperature
        values = torch.logaddexp(gap, torch.zeros_like(gap)).mean(dim=1)
    cosine, hardest = cosine.detach(), summary.hardest
    nearer = (cosine - hardest[:, None] > 8 * torch.finfo(cosine.dtype).eps).to(cosine)
    return ObjectiveOutput(
        torch.where(valid, values, 0),
        valid,
        {
            **told_of_rows(
                valid,
                some=anchor_groups is not None,
                positive_cosine=cosine.mean(dim=1),
                hardest_negative_cosine=hardest,
                accuracy=nearer.mean(dim=1),
            ),
            "masked_fraction": 1 - (summary.allowed.to(cosine) / max(len(negatives), 1)).mean(),
        },
    )


def _check_pairs(one: Tensor, other: Tensor) -> None:
    if one.ndim != 3 or other.ndim != 3 or one.shape[::2] != other.shape[::2]:
        raise DataError(
            "expected two clips of the same items, [b, t, d] and [b, u, d]",
            value=(tuple(one.shape), tuple(other.shape)),
        )
