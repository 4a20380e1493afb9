"""Softmax over keys in blocks that stay in a core's cache, in plain PyTorch on any device.

What is held beyond inputs and results is one block of logits (two in the backward pass), never
``[b, n]`` numbers. A block stays in the cache, so that what is no matrix product (exclusion,
maximum, exponential, sum) costs little beside the products; smaller ones than that only mean more
calls.

Three things keep it little. Logits are taken in base 2, as ``exp2`` costs half of ``exp``. The
level that they are taken relative to stays 0 while it can, and then nothing is subtracted. And it
moves only when a row's sum could overflow, not with each new maximum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rhyme.kernels.common import Exclusion, Found, weighing
from rhyme.kernels.pairs import LeftOut, allowed_rows
from rhyme.kernels.product import add_product, inner_by, worth_onednn

_ROWS = 256  # queries compared at once
_KEYS = 2048  # keys of a block, at most
_HOST_BYTES = 2**19  # of a block of logits and its keys, for each thread
_DEVICE_BYTES = 64 * 2**20
_SLACK = 32.0  # logits in base 2 may leave their level by so much
_LOG2_E = math.log2(math.e)
_ROUNDED = 1e-3  # logits may be rounded by so much before their weights are watched


def _width(height: int, queries: Tensor) -> int:
    """Keys of a block, a multiple of 64."""
    on_host = queries.device.type == "cpu"
    size = _HOST_BYTES * torch.get_num_threads() if on_host else _DEVICE_BYTES
    numbers = size // queries.element_size()
    return min(max(numbers // (height + queries.shape[1]) // 64 * 64, 64), _KEYS)


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, max(size, 1)):
        yield slice(start, min(start + size, length))


def forward_pass(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    want_mean: bool,
) -> Found:
    """See :meth:`rhyme.kernels.attend.Passes.forward_pass`."""
    b = len(queries)
    payload = keys if values is None else values
    powers = queries.new_empty(2, b)
    mean = queries.new_empty(b, payload.shape[1]) if want_mean else None
    blocks = _Blocks(queries, keys, exclusion)
    for rows in blocks.rows():
        scaled = queries[rows] * (scale * _LOG2_E)
        sums = _Sums(scaled, None if mean is None else mean[rows])
        for part in blocks.parts():
            sums.add(blocks.logits(rows, part, scaled, keys), payload[part])
        powers[0, rows], powers[1, rows] = sums.finish()
    counts = allowed_rows(exclusion, b, len(keys), queries.device)
    largest, total = powers
    return Found(powers, mean, (largest + total.log2()) / _LOG2_E, largest / _LOG2_E, counts)


class _Blocks:
    """Blocks of queries and keys, and the logits of one."""

    def __init__(
        self, queries: Tensor, keys: Tensor, exclusion: Exclusion, both: bool = False
    ) -> None:
        self.b, self.n = len(queries), len(keys)
        self.height = min(_ROWS, self.b)
        self.width = min(_width(self.height, queries), self.n)
        self.onednn = worth_onednn(queries, keys)  # it brings memory of its own
        self.buffer = queries.new_empty(0 if self.onednn else (1 + both) * self.height * self.width)
        self.left_out = LeftOut(
            exclusion, self.b, self.n, _ROWS, max(self.width, 1), queries.device
        )

    def rows(self) -> Iterator[slice]:
        return _slices(self.b, _ROWS)

    def parts(self) -> Iterator[slice]:
        return _slices(self.n, self.width)

    def logits(self, rows: slice, part: slice, scaled: Tensor, keys: Tensor) -> Tensor:
        """``scaled · keys`` of a block, −inf where excluded; the next may overwrite it.

        The same numbers bit for bit in both passes: a weight is taken from the difference to the
        largest, and that is exact where both are huge.
        """
        out = self.inner(scaled, keys[part])
        self.left_out.strike(out, rows, part)
        return out

    def inner(self, left: Tensor, right: Tensor, place: int = 0) -> Tensor:
        """A product of the size of a block: place 0 is that of its logits, 1 is there with both."""
        size, room = len(left) * len(right), None
        if not self.onednn:
            room = self.buffer[place * size : (place + 1) * size].view(len(left), len(right))
        return inner_by(self.onednn, left, right, room)

    def joint(
        self, rows: slice, part: slice, factors: Tensor, offsets: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two halves of ``factors · keys + offsets``; −inf in the first where excluded."""
        out = self.inner(factors, keys[part]).add_(offsets)
        first, second = out.chunk(2)
        self.left_out.strike(first, rows, part)
        return first, second


class _Sums:
    """Of the exponentials of a row and of the values they weigh, relative to a level.

    The level is 0 unless the first logits of a row are far from it, or later ones far above. So it
    stays near enough to the largest for sums to be finite and lose nothing. It is itself a logit,
    and nothing but the level is ever taken off one: differences near the largest are exact.
    """

    def __init__(self, scaled: Tensor, mean: Tensor | None) -> None:
        b = len(scaled)
        self.level: Tensor | None = None  # 0 in all rows
        self.largest = scaled.new_full((b, 1), -torch.inf)
        self.total = scaled.new_zeros(b, 1)
        self.mean = None if mean is None else mean.zero_()
        self.fresh = True  # some rows have not met an allowed key

    def add(self, logits: Tensor, values: Tensor) -> None:
        """Add a block of logits, which are overwritten."""
        largest = torch.maximum(self.largest, logits.amax(1, keepdim=True))
        above = largest if self.level is None else largest - self.level
        if self.fresh or not float(above.max()) <= _SLACK:
            self._move(above, largest)
        self.largest = largest
        weights = logits if self.level is None else logits.sub_(self.level)
        weights = weights.exp2_()
        self.total += weights.sum(1, keepdim=True)
        if self.mean is not None:
            add_product(self.mean, weights, values)

    def _move(self, above: Tensor, largest: Tensor) -> None:
        met = self.largest > -torch.inf
        far = (above > _SLACK) | (~met & (above < -_SLACK) & (above > -torch.inf))
        if bool(far.any()):
            before = torch.zeros_like(largest) if self.level is None else self.level
            self.level = torch.where(far, largest, before)
            down = torch.where(met, torch.exp2(before - self.level), 1)
            self.total *= down
            if self.mean is not None:
                self.mean *= down
        self.fresh = bool((largest == -torch.inf).any())

    def finish(self) -> tuple[Tensor, Tensor]:
        """The largest logit and the sum relative to it; the mean is made of its sum."""
        if self.mean is not None:
            self.mean /= torch.where(self.total > 0, self.total, 1)
        level = 0 if self.level is None else self.level
        by = torch.where(self.largest == -torch.inf, 0, level - self.largest)
        return self.largest[:, 0], (self.total * torch.exp2(by))[:, 0]


def _rounded(queries: Tensor, keys: Tensor, scale: Tensor | float) -> bool:
    """Whether logits may be so large that rounding alone lifts them above their log-sum-exp.

    The norms bound them, so ordinary ones need no further pass over each block.
    """
    if not len(queries) or not len(keys):
        return False
    longest = (torch.linalg.vector_norm(x, dim=1).max() for x in (queries, keys))
    bound = math.prod(float(x) for x in longest) * abs(float(scale)) * _LOG2_E
    return not bound * torch.finfo(queries.dtype).eps <= _ROUNDED  # so NaN counts as large


def backward_pass(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    powers: Tensor,
    mean: Tensor | None,
    grad_mean: Tensor | None,
    grad_lse: Tensor | None,
    need_queries: bool,
    need_keys: bool,
    need_values: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """See :meth:`rhyme.kernels.attend.Passes.backward_pass`."""
    on_queries = torch.zeros_like(queries) if need_queries else None
    # Gradients of keys and values are summed across, [d, n]: no block is read along its columns.
    on_keys = _across(keys) if need_keys else None
    on_values = _across(values) if values is not None and need_values else None
    level = queries.new_zeros(len(queries), 1)  # gradient of a logit = weight (g·v + level)
    if grad_lse is not None:
        level += grad_lse[:, None]
    if grad_mean is not None and mean is not None:
        level -= (grad_mean * mean).sum(1, keepdim=True)
    top, share = (x[:, None] for x in weighing(powers))
    level *= share  # so a weight is 2^(logit − top), and what it multiplies is scaled instead
    payload, on_payload = (keys, on_keys) if values is None else (values, on_values)
    blocks = _Blocks(queries, keys, exclusion, both=grad_mean is not None)
    rounded = _rounded(queries, keys, scale)
    for rows in blocks.rows():
        base_2 = queries[rows] * (scale * _LOG2_E)
        grad = None if grad_mean is None else grad_mean[rows] * share[rows]
        joint = None
        if grad is not None and values is None and not rounded:
            # both products are with the keys: one of twice the rows
            joint = torch.cat([base_2, grad]), torch.cat([-top[rows], level[rows]])
        scaled_across = None if on_keys is None else (queries[rows] * scale).T.contiguous()
        grad_across = None if grad is None or on_payload is None else grad.T.contiguous()
        for part in blocks.parts():
            slope = None
            if joint is not None:
                weights, slope = blocks.joint(rows, part, *joint, keys)
            else:
                weights = blocks.logits(rows, part, base_2, keys).sub_(top[rows])
            if rounded:
                weights.clamp_(max=0)  # a weight is 1 at most
            weights.exp2_()
            if on_payload is not None and grad_across is not None:
                add_product(on_payload[:, part], grad_across, weights)
            if grad is None:
                slope = weights.mul_(level[rows])
            else:
                if slope is None:
                    slope = blocks.inner(grad, payload[part], place=1).add_(level[rows])
                slope *= weights
            if on_queries is not None:
                add_product(on_queries[rows], slope, keys[part])
            if on_keys is not None and scaled_across is not None:
                add_product(on_keys[:, part], scaled_across, slope)
    if on_queries is not None:
        on_queries *= scale
    keys_along, values_along = (
        None if x is None else x.T.contiguous() for x in (on_keys, on_values)
    )
    return on_queries, keys_along, values_along


def _across(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape[::-1])
