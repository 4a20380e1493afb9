r"""InfoNCE against a queue, within a batch, in both directions, and among all views (NT-Xent).

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
from rhyme.kernels import (
    Kernel,
    QueueSummary,
    in_batch_log_sum_exp,
    queue_log_sum_exp,
    self_log_sum_exp,
    symmetric_log_sum_exp,
)
from rhyme.kernels.common import Temperature, no_autocast, transformed
from rhyme.kernels.rows import row_products
from rhyme.objectives.output import ObjectiveOutput, told_of_rows


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: Temperature,
    valid: Tensor | None = None,
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
        valid: bool ``[b]``; False leaves the row out: its value is 0, and no mean counts it.
        anchor_groups: int64 ``[b]``: negatives of the anchor's own group are left out.
        negative_groups: int64 ``[n]``; negative ids are nobody's and never left out.
        extra_mask: bool ``[b, n]``, True leaves the pair out.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        One value for each anchor. A row that is left out, or has no negative, is not valid.
        Diagnostics: ``positive_cosine``, ``hardest_negative_cosine``, ``accuracy`` (share of
        anchors nearer to the positive than to every negative), ``masked_rows``,
        ``masked_fraction`` (of the pairs of all rows). Where some rows can be invalid, they are of
        all ranks' rows, so call it on all of them.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive.
    """
    if anchors.shape != positives.shape:
        raise DataError(
            "anchors and positives must have the same shape",
            value=(tuple(anchors.shape), tuple(positives.shape)),
        )
    if valid is not None and valid.shape != (len(anchors),):
        raise DataError("valid must be [b]", value=(tuple(valid.shape), (len(anchors),)))
    summary = queue_log_sum_exp(
        anchors,
        negatives,
        temperature=temperature,
        query_groups=anchor_groups,
        key_groups=negative_groups,
        mask=extra_mask,
        kernel=kernel,
    )
    some = not (valid is None and anchor_groups is None and extra_mask is None)
    return _against(anchors, positives, summary, temperature, len(negatives), some, valid)


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
    extra_negatives: Tensor | None = None,
    extra_groups: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """Each anchor has to find one of the keys among all the others, e.g. the keys of all ranks.

    Args:
        anchors: ``[b, d]`` unit rows.
        keys: ``[n, d]`` unit rows, gathered; the gradient reaches them too.
        positive_index: int64 ``[b]``, the key that is each anchor's positive. It is kept whatever
            the groups say.
        temperature: τ > 0, a number or a learned scalar.
        exclude: bool ``[b, n]``, True takes the key out of the anchor's negatives. Where groups or
            indices say the same, they cost no matrix.
        self_index: int64 ``[b]``, the key that is the anchor itself, which is no negative.
        anchor_groups: int64 ``[b]``: other keys of the anchor's group are no negatives.
        key_groups: int64 ``[n]``.
        extra_negatives: ``[m, d]`` unit rows that are everybody's negatives, e.g. a queue.
        extra_groups: int64 ``[m]``: extra negatives of the anchor's group are left out.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        As :func:`info_nce`.

    Raises:
        DataError: shapes do not fit, or an index names a key that is not there (on a CPU; there is
            no look at a GPU's values).
        ConfigError: the temperature is not positive.
    """
    b = len(anchors)
    apart: list[Tensor] = []
    for name, index in (("positive_index", positive_index), ("self_index", self_index)):
        if index is not None and index.shape != (b,):
            raise DataError(f"{name} must be [b]", value=(tuple(index.shape), (b,)))
        if index is not None:
            apart.append(index)
    _check_positives(positive_index, len(keys))
    summary = in_batch_log_sum_exp(
        anchors,
        keys,
        temperature=temperature,
        anchor_groups=anchor_groups,
        key_groups=key_groups,
        mask=exclude,
        skip=torch.stack(apart, dim=1),
        kernel=kernel,
    )
    summary = _beside(
        summary, anchors, extra_negatives, temperature, anchor_groups, extra_groups, kernel
    )
    n = len(keys) + (0 if extra_negatives is None else len(extra_negatives))
    some = not (exclude is None and self_index is None and anchor_groups is None)
    return _against(anchors, keys[positive_index], summary, temperature, n, some)


def _check_positives(index: Tensor, n: int) -> None:
    """Refuse an anchor without a positive: a negative index would count from the last key."""
    unseen = torch.compiler.is_compiling() or transformed()
    if unseen or not len(index) or index.device.type != "cpu":
        return
    least, most = int(index.min()), int(index.max())
    if least < 0 or most >= n:
        raise DataError(
            "positive_index names a key that is not there",
            value=(least, most, n),
            remedy="every anchor needs a positive from 0 on: leave out those without one",
        )


def info_nce_symmetric(
    first: Tensor,
    second: Tensor,
    *,
    temperature: Temperature,
    groups: Tensor | None = None,
    extra_negatives: Tensor | None = None,
    extra_groups: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """Each item's first row finds its second among those of all items, and the other way round.

    The objective of CLIP (arXiv 2103.00020), where rows of one kind are compared with those of the
    other kind only. Rows are gathered over the ranks with gradient, so each of the 2B rows of the
    global batch has 1 positive and B − 1 negatives. Over all rows the mean is that of both
    directions, as in the paper.

    Args:
        first: ``[b, d]`` unit rows of the local items, e.g. of their pictures.
        second: ``[b, d]`` unit rows of the same items, e.g. of their sound.
        temperature: τ > 0, a number or a learned scalar.
        groups: int64 ``[b]``: other items of an item's group are no negatives.
        extra_negatives: ``[m, d]`` unit rows, the same on all ranks, that are negatives in both
            directions.
        extra_groups: int64 ``[m]``: extra negatives of an item's group are left out.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        ``[2b]`` values, those of ``first`` before those of ``second``; otherwise as
        :func:`info_nce`.

    Raises:
        DataError: shapes do not fit, also between ranks.
        ConfigError: the temperature is not positive.
    """
    own, everyone = _items(first, second, groups, "both sides")
    skip = own[:, None]
    if distributed.world_size() == 1:
        pair = symmetric_log_sum_exp(
            first,
            second,
            temperature=temperature,
            first_groups=groups,
            second_groups=groups,
            skip=skip,
            kernel=kernel,
        )
    else:
        keys = distributed.gather(torch.stack([first, second], dim=1), grad=True)
        pair = [
            in_batch_log_sum_exp(
                anchors,
                keys[:, other],
                temperature=temperature,
                anchor_groups=groups,
                key_groups=everyone,
                skip=skip,
                kernel=kernel,
            )
            for anchors, other in ((first, 1), (second, 0))
        ]
    summary = QueueSummary(*(torch.cat(parts) for parts in zip(*pair, strict=True)))
    anchors, positives = torch.cat([first, second]), torch.cat([second, first])
    owners = None if groups is None else groups.repeat(2)
    summary = _beside(summary, anchors, extra_negatives, temperature, owners, extra_groups, kernel)
    n = len(first) * distributed.world_size()
    n += 0 if extra_negatives is None else len(extra_negatives)
    return _against(anchors, positives, summary, temperature, n, groups is not None)


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
    own, everyone = _items(first, second, groups, "both views")
    n = len(first) * distributed.world_size()
    skip = torch.stack([torch.cat([own, own + n]), torch.cat([own + n, own])], dim=1)
    anchors = torch.cat([first, second])
    if distributed.world_size() == 1:
        summary = self_log_sum_exp(
            anchors,
            temperature=temperature,
            groups=None if groups is None else groups.repeat(2),
            skip=skip,
            kernel=kernel,
        )
    else:
        views = distributed.gather(torch.stack([first, second], dim=1), grad=True)
        summary = in_batch_log_sum_exp(
            anchors,
            torch.cat([views[:, 0], views[:, 1]]),
            temperature=temperature,
            anchor_groups=None if groups is None else groups.repeat(2),
            key_groups=None if everyone is None else everyone.repeat(2),
            skip=skip,
            kernel=kernel,
        )
    positives = torch.cat([second, first])
    return _against(anchors, positives, summary, temperature, 2 * n, groups is not None)


def _items(
    first: Tensor, second: Tensor, groups: Tensor | None, what: str
) -> tuple[Tensor, Tensor | None]:
    """The numbers of the local items in the global batch, and the groups of all."""
    if first.shape != second.shape:
        raise DataError(
            f"{what} must have the same shape", value=(tuple(first.shape), tuple(second.shape))
        )
    start = distributed.rank() * len(first)
    own = torch.arange(start, start + len(first), device=first.device)
    return own, None if groups is None else distributed.gather(groups)


def _beside(
    summary: QueueSummary,
    anchors: Tensor,
    extra: Tensor | None,
    temperature: Temperature,
    anchor_groups: Tensor | None,
    extra_groups: Tensor | None,
    kernel: Kernel,
) -> QueueSummary:
    """What anchors find in the batch and among extra negatives, which stay where they are."""
    if extra is None:
        if extra_groups is not None:
            raise DataError("extra_groups are given without extra_negatives")
        return summary
    here = queue_log_sum_exp(
        anchors,
        extra,
        temperature=temperature,
        query_groups=None if extra_groups is None else anchor_groups,
        key_groups=extra_groups,
        kernel=kernel,
    )
    return QueueSummary(
        _log_add_exp(summary.log_sum_exp, here.log_sum_exp),
        torch.maximum(summary.hardest, here.hardest),
        summary.allowed + here.allowed,
    )


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """``logaddexp``, whose gradient is NaN where both are −inf; here it is 0."""
    none = (a == -torch.inf) & (b == -torch.inf)
    both = torch.logaddexp(torch.where(none, 0, a), torch.where(none, 0, b))
    return torch.where(none, -torch.inf, both)


def _against(
    anchors: Tensor,
    positives: Tensor,
    summary: QueueSummary,
    temperature: Temperature,
    n: int,
    some: bool,
    kept: Tensor | None = None,
) -> ObjectiveOutput:
    with no_autocast(anchors.device):
        cosine = row_products(anchors, positives)
        valid = summary.allowed > 0
        if kept is not None:
            valid = valid & kept
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
            **told_of_rows(
                valid,
                some=some,
                positive_cosine=cosine,
                hardest_negative_cosine=summary.hardest,
                accuracy=nearer.to(cosine),
            ),
            "masked_fraction": 1 - (summary.allowed.to(cosine) / max(n, 1)).mean(),
        },
    )
