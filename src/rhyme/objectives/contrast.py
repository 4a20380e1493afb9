r"""InfoNCE against a queue, within a batch, and its symmetric form NT-Xent.

For an anchor *a*, its positive *p*, negatives *n* ∈ *N* and temperature τ

    L = −log  exp(a·p/τ) / (exp(a·p/τ) + Σ_{n∈N} exp(a·n/τ))
      = log(1 + exp(lse_N − a·p/τ)),        lse_N = log Σ_{n∈N} exp(a·n/τ).

The second line is what is computed: it is exact where the first would lose digits, at both ends.
(van den Oord et al., arXiv 1807.03748; MoCo, arXiv 1911.05722; SimCLR, arXiv 2002.05709.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.errors import DataError
from rhyme.kernels import Kernel, QueueSummary, queue_log_sum_exp
from rhyme.kernels.common import Temperature, full_precision, no_autocast
from rhyme.objectives.output import ObjectiveOutput, masked_mean


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: Temperature,
    anchor_groups: Tensor | None = None,
    negative_groups: Tensor | None = None,
    extra_mask: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """Each anchor has to find its positive among negatives that all anchors share, e.g. a queue.

    With all similarities equal the value is ``ln(1 + n)``.

    Args:
        anchors: ``[b, d]`` unit rows.
        positives: ``[b, d]`` unit rows, the positive of each anchor.
        negatives: ``[n, d]`` unit rows.
        temperature: τ > 0, a number or a learned scalar.
        anchor_groups: int64 ``[b]``: negatives of the anchor's own group are left out.
        negative_groups: int64 ``[n]``; negative ids are nobody's and never left out.
        extra_mask: bool ``[b, n]``, True leaves the pair out.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        One value for each anchor. A row without any negative is not valid. Diagnostics:
        ``positive_cosine``, ``hardest_negative_cosine``, ``accuracy`` (share of anchors nearer to
        the positive than to every negative), ``masked_rows``, ``masked_fraction`` (of pairs).

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive.
    """
    if anchors.shape != positives.shape:
        raise DataError(
            "anchors and positives must have the same shape",
            value=(tuple(anchors.shape), tuple(positives.shape)),
        )
    summary = queue_log_sum_exp(
        anchors,
        negatives,
        temperature=temperature,
        query_groups=anchor_groups,
        key_groups=negative_groups,
        mask=extra_mask,
        kernel=kernel,
    )
    return _against(anchors, positives, summary, temperature, len(negatives))


def info_nce_in_batch(
    anchors: Tensor,
    keys: Tensor,
    positive_index: Tensor,
    *,
    temperature: Temperature,
    exclude: Tensor | None = None,
    self_index: Tensor | None = None,
    anchor_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """Each anchor has to find one of the keys among all the others, e.g. the keys of all ranks.

    Args:
        anchors: ``[b, d]`` unit rows.
        keys: ``[n, d]`` unit rows, gathered; the gradient reaches them too.
        positive_index: int64 ``[b]``, the key that is each anchor's positive. It is kept whatever
            the groups say.
        temperature: τ > 0, a number or a learned scalar.
        exclude: bool ``[b, n]``, True takes the key out of the anchor's negatives.
        self_index: int64 ``[b]``, the key that is the anchor itself, which is no negative.
        anchor_groups: int64 ``[b]``: other keys of the anchor's group are no negatives.
        key_groups: int64 ``[n]``.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        As :func:`info_nce`.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive.
    """
    b, n = len(anchors), len(keys)
    for name, index in (("positive_index", positive_index), ("self_index", self_index)):
        if index is not None and index.shape != (b,):
            raise DataError(f"{name} must be [b]", value=(tuple(index.shape), (b,)))
    mask = torch.zeros(b, n, dtype=torch.bool, device=keys.device) if exclude is None else exclude
    mask = mask.scatter(1, positive_index[:, None], True)
    if self_index is not None:
        mask = mask.scatter_(1, self_index[:, None], True)
    summary = queue_log_sum_exp(
        anchors,
        keys,
        temperature=temperature,
        query_groups=anchor_groups,
        key_groups=key_groups,
        mask=mask,
        kernel=kernel,
    )
    return _against(anchors, keys[positive_index], summary, temperature, n)


def nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    temperature: Temperature,
    groups: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """SimCLR's objective: each view finds the other view of its item among all views of the batch.

    Views are gathered over the ranks with gradient, so each of the 2B views of the global batch has
    1 positive and 2(B − 1) negatives. This is the paper's mean over ordered pairs; the published
    code has twice its value.

    Args:
        first: ``[b, d]`` unit rows, one view of each local item.
        second: ``[b, d]`` unit rows, the other.
        temperature: τ > 0, a number or a learned scalar.
        groups: int64 ``[b]``: other items of an item's group are no negatives.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        ``[2b]`` values, those of ``first`` before those of ``second``; otherwise as
        :func:`info_nce`.

    Raises:
        DataError: shapes do not fit, also between ranks.
        ConfigError: the temperature is not positive.
    """
    if first.shape != second.shape:
        raise DataError(
            "both views must have the same shape", value=(tuple(first.shape), tuple(second.shape))
        )
    views = distributed.gather(torch.stack([first, second], dim=1), grad=True)
    n = len(views)
    rows = distributed.rank_slice(n)
    own = torch.arange(rows.start, rows.stop, device=first.device)
    everyone = None if groups is None else distributed.gather(groups)
    return info_nce_in_batch(
        torch.cat([first, second]),
        torch.cat([views[:, 0], views[:, 1]]),
        torch.cat([own + n, own]),
        temperature=temperature,
        self_index=torch.cat([own, own + n]),
        anchor_groups=None if groups is None else groups.repeat(2),
        key_groups=None if everyone is None else everyone.repeat(2),
        kernel=kernel,
    )


def _against(
    anchors: Tensor, positives: Tensor, summary: QueueSummary, temperature: Temperature, n: int
) -> ObjectiveOutput:
    with no_autocast(anchors.device):
        anchors, positives = full_precision(anchors, positives)
        cosine = (anchors * positives).sum(1)
        valid = summary.allowed > 0
        lse = torch.where(valid, summary.log_sum_exp, 0)
        gap = lse - cosine / temperature
        values = torch.where(valid, torch.logaddexp(gap, torch.zeros_like(gap)), 0)
    cosine = cosine.detach()
    # a tie is no hit: collapsed features must not be right by the rounding of two sums
    nearer = cosine - summary.hardest > 8 * torch.finfo(cosine.dtype).eps
    return ObjectiveOutput(
        values,
        valid,
        {
            "positive_cosine": masked_mean(cosine, valid),
            "hardest_negative_cosine": masked_mean(summary.hardest, valid),
            "accuracy": masked_mean(nearer.to(cosine), valid),
            "masked_rows": (~valid).sum().to(cosine),
            "masked_fraction": 1 - (summary.allowed / max(n, 1)).mean(),
        },
    )
