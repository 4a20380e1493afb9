"""Softmax over keys in blocks that stay in a core's cache, in plain PyTorch on any device.

What is held beyond the inputs and results is one block of logits (in the backward pass two), never
``[b, n]`` numbers. A block is small enough for the second-level cache, so that the passes over it
that are no matrix product (exclusion, maximum, exponential, sum) cost a few percent.

Logits are taken in base 2: the factor ``log2 e`` goes into the scaled queries, and ``exp2`` is
cheaper than ``exp``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rhyme.kernels.common import Exclusion, Found

_ROWS = 256  # queries compared at once
_HOST_BLOCK = 2**17  # logits of a block: 512 KiB in float32
_DEVICE_BLOCK = 2**24
_KEYS = 4096  # keys of a block at most
_SLACK = 32.0  # in base 2: sums may grow by 2^32 before they are scaled down


class _Pairs:
    """The excluded pairs of each block of keys, as indices where they are few."""

    def __init__(self, exclusion: Exclusion, b: int, n: int, block: int, device: torch.device):
        self.mask = exclusion.mask
        self.groups: tuple[Tensor, Tensor] | None = None
        self.b, self.n, self.block = b, n, block
        starts = torch.arange(0, n + block, block, device=device).clamp_(max=n)
        counts = torch.zeros(len(starts) - 1, dtype=torch.int64, device=device)
        if exclusion.query_groups is not None and exclusion.key_groups is not None:
            # "nobody's" is -2 among the queries and -1 among the keys, so they do not match
            owners = torch.where(exclusion.query_groups < 0, -2, exclusion.query_groups)
            keys = torch.where(exclusion.key_groups < 0, -1, exclusion.key_groups)
            self.groups = (owners, keys)
            self.owners, self.order = owners.sort()
            self.first = torch.searchsorted(self.owners, keys)
            self.matches = torch.searchsorted(self.owners, keys, right=True) - self.first
            until = torch.cat([counts[:1], self.matches.cumsum(0)])[starts]
            counts = counts + until.diff()
        self.skip: Tensor | None = None
        if exclusion.skip is not None:
            own, order = exclusion.skip.flatten().sort()
            self.skip, self.rows = own, order // max(exclusion.skip.shape[1], 1)
            at = torch.searchsorted(own, starts)
            counts = counts + at.diff()
            self.bounds: list[int] = at.tolist()
        self.counts: list[int] = counts.tolist()

    def fill(self, logits: Tensor, index: int, value: float, tally: Tensor | None = None) -> None:
        """Put ``value`` into the excluded pairs of block ``index``, and count them by row."""
        start = index * self.block
        width = logits.shape[1]
        if self.mask is None and not self.counts[index]:
            return
        if self.mask is not None or self.counts[index] > logits.numel() // 8:
            excluded = self._dense(start, width, index, logits.device)
            logits.masked_fill_(excluded, value)
            if tally is not None:
                tally += excluded.sum(1)
            return
        flat = self._sparse(start, width, index)
        logits.view(-1).index_fill_(0, flat, value)
        if tally is not None:
            tally += torch.bincount(flat // width, minlength=self.b)

    def _sparse(self, start: int, width: int, index: int) -> Tensor:
        found: list[Tensor] = []
        if self.groups is not None:
            matches = self.matches[start : start + width]
            (columns,) = matches.nonzero(as_tuple=True)
            counts = matches[columns]
            ends = counts.cumsum(0)
            columns = columns.repeat_interleave(counts)
            # position within its run of equal owners
            within = torch.arange(len(columns), device=columns.device)
            within = within - (ends - counts).repeat_interleave(counts)
            rows = self.order[self.first[start + columns] + within]
            found.append(rows * width + columns)
        if self.skip is not None:
            chosen = slice(self.bounds[index], self.bounds[index + 1])
            found.append(self.rows[chosen] * width + self.skip[chosen] - start)
        flat = torch.cat(found)
        return flat.unique() if self.skip is not None else flat

    def _dense(self, start: int, width: int, index: int, device: torch.device) -> Tensor:
        if self.mask is not None:
            excluded = self.mask[:, start : start + width]
            if not self.counts[index]:
                return excluded
            excluded = excluded.clone()
        else:
            excluded = torch.zeros(self.b, width, dtype=torch.bool, device=device)
        if self.groups is not None:
            owners, keys = self.groups
            excluded |= owners[:, None] == keys[start : start + width]
        if self.skip is not None:
            chosen = slice(self.bounds[index], self.bounds[index + 1])
            excluded[self.rows[chosen], self.skip[chosen] - start] = True
        return excluded


def _part(exclusion: Exclusion, rows: slice) -> Exclusion:
    return Exclusion(
        None if exclusion.query_groups is None else exclusion.query_groups[rows],
        exclusion.key_groups,
        None if exclusion.mask is None else exclusion.mask[rows],
        None if exclusion.skip is None else exclusion.skip[rows],
    )


def _block(rows: int, device: torch.device) -> int:
    """Keys of a block, a multiple of 64."""
    logits = _HOST_BLOCK if device.type == "cpu" else _DEVICE_BLOCK
    return min(max(logits // max(rows, 1) // 64 * 64, 64), _KEYS)


def _rows(queries: Tensor) -> Iterator[slice]:
    for start in range(0, len(queries), _ROWS):
        yield slice(start, min(start + _ROWS, len(queries)))


def forward_pass(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    want_mean: bool,
) -> Found:
    """See :meth:`rhyme.kernels.attention.Passes.forward_pass`."""
    b = len(queries)
    payload = keys if values is None else values
    lse, maximum = queries.new_empty(b), queries.new_empty(b)
    mean = queries.new_empty(b, payload.shape[1]) if want_mean else None
    allowed = torch.empty(b, dtype=torch.int64, device=queries.device)
    scaled = queries * (scale * math.log2(math.e))
    for rows in _rows(queries):
        part = None if mean is None else mean[rows]
        found = _forward(scaled[rows], keys, payload, _part(exclusion, rows), part)
        lse[rows], maximum[rows], allowed[rows] = found
    return lse, mean, maximum, allowed


def _forward(
    scaled: Tensor, keys: Tensor, payload: Tensor, exclusion: Exclusion, mean: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    b, n, size = len(scaled), len(keys), _block(len(scaled), scaled.device)
    pairs = _Pairs(exclusion, b, n, size, scaled.device)
    lowest = torch.finfo(scaled.dtype).min
    maximum = scaled.new_full((b, 1), -torch.inf)
    shift = scaled.new_full((b, 1), lowest)  # what the logits are taken relative to
    total = scaled.new_zeros(b, 1)
    left_out = torch.zeros(b, dtype=torch.int64, device=scaled.device)
    buffer = scaled.new_empty(b * min(size, n))
    if mean is not None:
        mean.zero_()
    for index, start in enumerate(range(0, n, size)):
        block = keys[start : start + size]
        logits = torch.mm(scaled, block.T, out=buffer[: b * len(block)].view(b, len(block)))
        pairs.fill(logits, index, -torch.inf, left_out)
        highest = logits.amax(1, keepdim=True)
        torch.maximum(maximum, highest, out=maximum)
        if bool((highest > shift + _SLACK).any()):
            raised = torch.where(highest > shift + _SLACK, highest, shift)
            down = torch.exp2(shift - raised)
            total *= down
            if mean is not None:
                mean *= down
            shift = raised
        weights = logits.sub_(shift).exp2_()
        total += weights.sum(1, keepdim=True)
        if mean is not None:
            mean.addmm_(weights, payload[start : start + size])
    some = total > 0
    if mean is not None:
        mean /= torch.where(some, total, 1)
    lse = torch.where(some, shift + total.log2(), -torch.inf)
    to_nats = math.log(2)
    return lse[:, 0] * to_nats, maximum[:, 0] * to_nats, n - left_out


def backward_pass(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    log_sum_exp: Tensor,
    mean: Tensor | None,
    grad_mean: Tensor | None,
    grad_lse: Tensor | None,
    need_queries: bool,
    need_keys: bool,
    need_values: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """See :meth:`rhyme.kernels.attention.Passes.backward_pass`."""
    on_queries = torch.zeros_like(queries) if need_queries else None
    on_keys = torch.zeros_like(keys) if need_keys else None
    on_values = torch.zeros_like(values) if values is not None and need_values else None
    for rows in _rows(queries):
        _backward(
            queries[rows],
            keys,
            values,
            scale,
            _part(exclusion, rows),
            log_sum_exp[rows],
            None if mean is None else mean[rows],
            None if grad_mean is None else grad_mean[rows],
            None if grad_lse is None else grad_lse[rows],
            None if on_queries is None else on_queries[rows],
            on_keys,
            on_values,
        )
    if on_queries is not None:
        on_queries *= scale
    return on_queries, on_keys, on_values


def _backward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    log_sum_exp: Tensor,
    mean: Tensor | None,
    grad_mean: Tensor | None,
    grad_lse: Tensor | None,
    on_queries: Tensor | None,
    on_keys: Tensor | None,
    on_values: Tensor | None,
) -> None:
    """Add the gradients of one block of queries; that of the queries lacks the scale."""
    b, n, size = len(queries), len(keys), _block(len(queries), queries.device)
    pairs = _Pairs(exclusion, b, n, size, queries.device)
    payload = keys if values is None else values
    on_payload = on_keys if values is None else on_values
    scaled = queries * scale
    base_2 = scaled * math.log2(math.e)
    # rows without an allowed key: every logit is excluded, so any finite number serves
    lse = torch.where(log_sum_exp > -torch.inf, log_sum_exp, 0)[:, None] * math.log2(math.e)
    level = queries.new_zeros(b, 1)  # of the gradient of a logit over its weight
    if grad_lse is not None:
        level += grad_lse[:, None]
    if grad_mean is not None and mean is not None:
        level -= (grad_mean * mean).sum(1, keepdim=True)
    first = queries.new_empty(b * min(size, n))
    second = torch.empty_like(first)
    for index, start in enumerate(range(0, n, size)):
        block = keys[start : start + size]
        shape, length = (b, len(block)), b * len(block)
        weights = torch.mm(base_2, block.T, out=first[:length].view(shape))
        pairs.fill(weights, index, -torch.inf)
        weights.sub_(lse).exp2_()
        slope = second[:length].view(shape)
        if grad_mean is None:
            torch.mul(weights, level, out=slope)
        else:
            if on_payload is not None:
                on_payload[start : start + size].addmm_(weights.T, grad_mean)
            torch.mm(grad_mean, payload[start : start + size].T, out=slope)
            slope.add_(level).mul_(weights)
        if on_queries is not None:
            on_queries.addmm_(slope, block)
        if on_keys is not None:
            on_keys[start : start + size].addmm_(slope.T, scaled)
