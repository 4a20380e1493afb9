"""Softmax over a queue on a GPU: the passes of :mod:`rhyme.kernels.attend`, in Triton.

The keys are split over programs, as flash decoding does it: 256 queries make four tiles only, and a
GPU has 132 multiprocessors. Each program leaves a largest logit, a sum and a weighted sum; a second
kernel merges them. The backward pass for the queries is split likewise. No logits are written.

float16 and bfloat16 are multiplied as they are and summed in float32; float32 is multiplied in
parts that matrix units take, six products of bfloat16 or three of TF32, as exact as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional

from rhyme.kernels.common import Exclusion, Found
from rhyme.kernels.triton import queue_kernels
from rhyme.kernels.triton.blocks import (
    Blocks,
    blocks,
    multiprocessors,
    power,
    precision,
    unfit,
)
from rhyme.kernels.triton.pairs import arguments

kernels: Any = queue_kernels  # the annotations of a kernel are not those of its call
WIDEST = {torch.float16: 256, torch.bfloat16: 256, torch.float32: 128}
"""Dimensions of each type up to which a tile and its sums fit into a multiprocessor."""

Backward = tuple[Tensor | None, Tensor | None, Tensor | None]


def refusal(queries: Tensor, keys: Tensor, values: Tensor | None) -> str | None:
    """Why the kernels do not take these inputs, or None; the portable passes take all others."""
    reason = unfit(queries.device)
    if reason is not None:
        return reason
    given = (queries, keys) if values is None else (queries, keys, values)
    for tensor in given:
        if tensor.dtype not in WIDEST:
            return f"it takes float16, bfloat16 and float32, not {tensor.dtype}"
        if len(tensor) >= 2**31 - 2**16:
            return "it takes fewer than 2^31 rows"
    widest = WIDEST[_common(given)]
    if not 1 <= keys.shape[1] <= widest:
        return f"it takes 1 to {widest} dimensions, not {keys.shape[1]}"
    if values is not None and not 1 <= values.shape[1] <= 256 - keys.shape[1]:
        # the entropy has the keys averaged beside the values
        return f"it takes 256 dimensions of keys and values, not {keys.shape[1]} and more"
    return None


def forward_pass(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    want_mean: bool,
) -> Found:
    """The softmax of each query over its allowed keys.

    Args:
        queries: ``[b, d]``.
        keys: ``[n, d]``.
        values: ``[n, e]``; None for the keys.
        scale: 1/τ, a number or a scalar on the GPU.
        exclusion: the pairs that must not meet.
        want_mean: whether to average the values.

    Returns:
        See :class:`rhyme.kernels.common.Found`; in float32.
    """
    width = (keys if values is None else values).shape[1]
    queries, keys, values = _alike(queries, keys, values)
    b, n = len(queries), len(keys)
    e = (keys if values is None else values).shape[1]
    if b == 0 or n == 0:
        lse = queries.new_full((b,), -torch.inf, dtype=torch.float32)
        mean = lse.new_zeros(b, width) if want_mean else None
        powers = torch.stack([lse, torch.zeros_like(lse)])
        none = lse.new_zeros(b, dtype=torch.int64)
        return Found(powers, mean, lse, lse.clone(), none)
    lse = queries.new_empty(b, dtype=torch.float32)
    mean = lse.new_empty(b, e) if want_mean else None
    powers, maximum = lse.new_empty(2, b), torch.empty_like(lse)
    allowed = torch.empty_like(lse, dtype=torch.int64)
    counted = not exclusion.empty
    sizes = blocks("queue_forward", queries.dtype, max(queries.shape[1], e), queries.device)
    grid, tiles = _split(sizes, b, n, queries.device)
    parts = grid[1]
    top, total = lse.new_empty(2, parts, b)
    sums = lse.new_empty((parts, b, e) if want_mean else (1,))
    count = lse.new_empty((parts, b) if counted else (1,), dtype=torch.int32)
    kernels.forward[grid](
        **_inputs(queries, keys, values, scale, exclusion, sizes),
        top=top, total=total, sums=sums, count=count, tiles=tiles, MEAN=want_mean,
    )  # fmt: skip
    expected = torch.empty_like(lse) if want_mean and values is None else None
    kernels.merge[(b,)](
        queries, top, total, sums, count, powers, lse, maximum, allowed,
        lse if mean is None else mean, lse if expected is None else expected,
        b, e, n, parts, queries.stride(0), scale,
        MEAN=want_mean, EXPECTED=expected is not None, LEARNED=isinstance(scale, Tensor),
        COUNTED=counted, PARTS=triton.next_power_of_2(parts), STEP=16, WIDTH=_tile(e), num_warps=4,
    )  # fmt: skip
    if mean is not None and width < e:
        mean = mean[:, :width].contiguous()
    return Found(powers, mean, lse, maximum, allowed, expected)


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
) -> Backward:
    """The gradients of :func:`forward_pass`.

    Args:
        queries: ``[b, d]``, and so on, as there.
        keys: ``[n, d]``.
        values: ``[n, e]`` or None.
        scale: 1/τ.
        exclusion: the pairs that must not meet.
        powers: ``[2, b]``, as returned there.
        mean: ``[b, e]``, as returned there; needed with ``grad_mean``.
        grad_mean: ``[b, e]``, gradient of the mean, or None.
        grad_lse: ``[b]``, gradient of the log-sum-exp, or None.
        need_queries: whether the queries need a gradient.
        need_keys: whether the keys do. Without values they get that of the values too.
        need_values: whether the values do.

    Returns:
        Gradients of queries, keys and values in float32; None where not needed.
    """
    b, d = queries.shape
    n, e = len(keys), (keys if values is None else values).shape[1]
    width = e
    nothing = b == 0 or n == 0 or (grad_mean is None and grad_lse is None)
    dq = queries.new_zeros(b, d, dtype=torch.float32) if need_queries and nothing else None
    dk = keys.new_zeros(n, d, dtype=torch.float32) if need_keys else None
    dv = keys.new_zeros(n, e, dtype=torch.float32) if need_values and values is not None else None
    if nothing:
        return dq, dk, dv
    if need_queries and grad_mean is None and mean is not None and values is None:
        assert grad_lse is not None
        dq = mean * (grad_lse * scale)[:, None]  # the gradient of the log-sum-exp is the mean
        need_queries = False
    queries, keys, values = _alike(queries, keys, values)
    if values is not None:
        e = values.shape[1]
        mean = None if mean is None else _whole(mean)
        grad_mean = None if grad_mean is None else _whole(grad_mean)
        dv = None if dv is None else dv.new_zeros(n, e)
    if grad_mean is not None:
        grad_mean = grad_mean.contiguous()
    stand_in = powers
    given: dict[str, Any] = {
        "g": stand_in if grad_mean is None else grad_mean,
        "powers": powers,
        "MEAN": grad_mean is not None,
    }
    if need_queries:
        sizes = blocks("queue_backward", queries.dtype, max(d, e), queries.device)
        grid, tiles = _split(sizes, b, n, queries.device)
        out = powers.new_empty(grid[1], b, d)
        kernels.backward_queries[grid](
            **_inputs(queries, keys, values, scale, exclusion, sizes),
            **given,
            z=stand_in if mean is None else mean.contiguous(),
            on_lse=stand_in if grad_lse is None else grad_lse.contiguous(),
            out=out, tiles=tiles, ON_LSE=grad_lse is not None,
        )  # fmt: skip
        dq = out[0] if grid[1] == 1 else out.sum(0)
    if need_keys or dv is not None:
        sizes = blocks("queue_keys", queries.dtype, max(d, e), queries.device)
        level = _level(queries.dtype, mean, grad_mean, grad_lse)
        kernels.backward_keys[(triton.cdiv(n, sizes.keys),)](
            **_inputs(queries, keys, values, scale, exclusion, sizes),
            **given,
            level=level,
            dk=stand_in if dk is None else dk,
            dv=stand_in if dv is None else dv,
            NEED_KEYS=dk is not None,
            NEED_VALUES=grad_mean is not None and (dv is not None or values is None),
        )
    return dq, dk, None if dv is None else dv[:, :width]


def _common(given: Sequence[Tensor]) -> torch.dtype:
    """The type to multiply in: float32 unless all are of one smaller type."""
    types = {t.dtype for t in given}
    return types.pop() if len(types) == 1 else torch.float32


def _alike(
    queries: Tensor, keys: Tensor, values: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All of one type, and rows without gaps."""
    given = [t for t in (queries, keys, values) if t is not None]
    dtype = _common(given)
    given = [t.to(dtype) if t.stride(1) == 1 else t.to(dtype).contiguous() for t in given]
    return given[0], given[1], _whole(given[2]) if values is not None else None


def _tile(width: int) -> int:
    """Dimensions of a tile: narrower ones would be laid out in memory in ways of their own."""
    return max(64, power(width))


def _whole(values: Tensor) -> Tensor:
    """Values as wide as their tile, with zeros.

    On an H100, Triton 3.6 gave wrong sums for tiles of values that were partly masked.
    """
    e = values.shape[1]
    return values if _tile(e) == e else functional.pad(values, (0, _tile(e) - e))


def _split(sizes: Blocks, b: int, n: int, device: torch.device) -> tuple[tuple[int, int], int]:
    """The grid, tiles of queries by parts of the keys, and the tiles of keys in a part."""
    rows, keys = triton.cdiv(b, sizes.rows), triton.cdiv(n, sizes.keys)
    parts = max(1, min(keys, multiprocessors(device) * sizes.resident // rows))
    tiles = triton.cdiv(keys, parts)
    return (rows, triton.cdiv(keys, tiles)), tiles


def _inputs(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    sizes: Blocks,
) -> dict[str, Any]:
    """What all kernels are given."""
    payload = keys if values is None else values
    return {
        "q": queries,
        "k": keys,
        "v": payload,
        "b": len(queries),
        "n": len(keys),
        "d": queries.shape[1],
        "e": payload.shape[1],
        "q_stride": queries.stride(0),
        "k_stride": keys.stride(0),
        "v_stride": payload.stride(0),
        "scale": scale,
        "LEARNED": isinstance(scale, Tensor),
        **arguments(exclusion, queries),
        "VALUES": values is not None,
        "ROWS": sizes.rows,
        "KEYS": sizes.keys,
        "DEPTH": _tile(queries.shape[1]),
        "WIDTH": _tile(payload.shape[1]),
        "PRECISION": precision(queries.dtype, sizes.exact),
        "num_warps": sizes.warps,
        "num_stages": sizes.stages,
    }


def _level(
    dtype: torch.dtype, mean: Tensor | None, grad_mean: Tensor | None, grad_lse: Tensor | None
) -> Tensor:
    """``g_lse − g·z``, with g rounded as it enters the products."""
    if grad_mean is None or mean is None:
        assert grad_lse is not None
        return grad_lse.float().contiguous()
    level = -(grad_mean.to(dtype).float() * mean).sum(1)
    return level if grad_lse is None else level + grad_lse
