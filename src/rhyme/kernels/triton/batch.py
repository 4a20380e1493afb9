"""Softmax within a batch on a GPU: the passes of :mod:`rhyme.kernels.tiles`, in Triton and cuBLAS.

Forward, one kernel computes a tile of logits and leaves the sums of its exponentials, by row and by
column; logits are not written. Backward, a kernel computes the tiles again and writes the gradient
of the inner products for one square chunk at a time, in the inputs' type, and two plain matrix
products make of that the gradients of both sides, summed in float32: two of the four products run
at the rate of the library, and what is held is one chunk. Sums are made in a fixed order.

bfloat16 is multiplied as it is; float32 as three TF32 products in the kernels, and in the library
as PyTorch is told to (TF32 only where ``torch.backends.cuda.matmul.allow_tf32`` says so).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from rhyme.kernels.common import Exclusion, no_autocast, weighing
from rhyme.kernels.tiles import Form, Sums
from rhyme.kernels.triton import batch_kernels
from rhyme.kernels.triton.blocks import (
    Blocks,
    blocks,
    multiprocessors,
    power,
    precision,
    unfit,
)
from rhyme.kernels.triton.pairs import arguments

kernels: Any = batch_kernels  # the annotations of a kernel are not those of its call
LOG2E = 1.4426950408889634
HELD = 2**26
"""Bytes of partial sums of the columns that are held at once."""


class Totals(NamedTuple):
    """What the forward pass finds.

    Attributes:
        rows: ``[b]`` each.
        columns: ``[n]`` each, in the form ``"both"``; else None.
        limit: float32 scalar, no base 2 logit is larger. Where it is small the sums are relative to
            it, else to the largest logit.
    """

    rows: Sums
    columns: Sums | None
    limit: Tensor


def refusal(first: Tensor, second: Tensor) -> str | None:
    """Why the kernels do not take these inputs, or None; the portable passes take all others."""
    reason = unfit(first.device)
    if reason is not None:
        return reason
    if {first.dtype, second.dtype} - {torch.bfloat16, torch.float32}:
        return f"it takes bfloat16 and float32, not {first.dtype} and {second.dtype}"
    if max(len(first), len(second)) >= 2**31 - 2**16:
        return "it takes fewer than 2^31 rows"
    if first.shape[1] < 1:
        return "it takes rows of at least one dimension"
    return None


def forward(
    first: Tensor,
    second: Tensor,
    scale: Tensor | float,
    exclusion: Exclusion,
    form: Form,
) -> Totals:
    """Log-sum-exp and largest logit of each row of ``scale · first @ second.T``, and each column.

    Args:
        first: ``[b, d]``.
        second: ``[n, d]``; ``first`` itself in the form ``"self"``.
        scale: 1/τ, a number or a scalar on the GPU.
        exclusion: the pairs left out; symmetric in the form ``"self"``.
        form: which sums.
    """
    first, second = _alike(first, second)
    b, n, both = len(first), len(second), form == "both"
    limit = _limit(first, second, scale)
    rows, columns = _nothing(limit, b), _nothing(limit, n) if both else None
    if b == 0 or n == 0:
        return Totals(rows, columns, limit)
    sizes = blocks("batch_sums", first.dtype, first.shape[1], first.device)
    tall = triton.cdiv(b, sizes.rows)
    parts, tiles = _parts(sizes, tall, n, first.device)
    row_parts = limit.new_empty(2, parts, b)
    each = min(tall, max(1, HELD // (8 * n))) if both else tall  # tiles of rows in a launch
    chunks = triton.cdiv(tall, each)
    col_parts = limit.new_empty((2, each, n) if both else (2, 1))
    col_sums = limit.new_empty((2, chunks, n) if both else (2, 1))
    given = _inputs(first, second, limit, scale, exclusion, sizes)
    for chunk in range(chunks):
        height = min(each, tall - chunk * each)
        for bounded in (True, False):
            kernels.sums[(height, parts)](
                **given,
                row_sum=row_parts[0], row_top=row_parts[1],
                col_sum=col_parts[0], col_top=col_parts[1],
                first_row=chunk * each * sizes.rows, b=b, tiles=tiles,
                EVEN=b % sizes.rows == 0 and n % sizes.keys == 0,
                BOUNDED=bounded, COLUMNS=both,
            )  # fmt: skip
        if both:
            found = col_sums[0, chunk], col_sums[1, chunk]
            _merge(col_parts, limit, found, None, height, n)
    _merge(row_parts, limit, (rows.powers[1], rows.powers[0]), rows, parts, b)
    if columns is not None:
        at = columns.powers[1], columns.powers[0]
        _merge(col_sums, limit, at, columns, chunks, n)
    return Totals(rows, columns, limit)


def backward(
    first: Tensor,
    second: Tensor,
    scale: Tensor | float,
    exclusion: Exclusion,
    form: Form,
    totals: Totals,
    on_rows: Tensor,
    on_columns: Tensor | None,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of both sets of vectors.

    Args:
        first: as in :func:`forward`, like all up to ``form``.
        second: as there.
        scale: as there.
        exclusion: as there.
        form: as there.
        totals: what it returned.
        on_rows: ``[b]`` gradient of the rows' log-sum-exps.
        on_columns: ``[n]`` gradient of the columns', in the form ``"both"``.
        needed: whether the gradient of ``first``, and of ``second``, is asked for.

    Returns:
        Gradients of ``first`` and ``second`` in float32, None where not needed. In the form
        ``"self"`` all of it belongs to ``first``.
    """
    first, second = _alike(first, second)
    (b, d), n = first.shape, len(second)
    need_first, need_second = needed[0], needed[1] and form != "self"
    on_first = first.new_zeros(b, d, dtype=torch.float32) if need_first else None
    on_second = first.new_zeros(n, d, dtype=torch.float32) if need_second else None
    if b == 0 or n == 0 or not (need_first or need_second):
        return on_first, on_second
    given = (first, second, scale, exclusion, form, totals, on_rows, on_columns)
    for high, wide, weights in chunks(*given):
        with no_autocast(first.device):
            if on_first is not None:
                _add(on_first[high], weights, second[wide], whole=wide.start == 0)
            if on_second is not None:
                _add(on_second[wide], weights.T, first[high], whole=high.start == 0)
    return on_first, on_second


def chunks(
    first: Tensor,
    second: Tensor,
    scale: Tensor | float,
    exclusion: Exclusion,
    form: Form,
    totals: Totals,
    on_rows: Tensor,
    on_columns: Tensor | None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The gradient of the inner products, chunk by chunk: rows, columns, and what lies there.

    Each is overwritten by the next one. Arguments as in :func:`backward`, of one type.
    """
    b, n = len(first), len(second)
    rows, columns = weighing(totals.rows.powers), None
    if form == "self":
        columns, on_columns = rows, on_rows  # its logits are their own transpose
    elif totals.columns is not None and on_columns is not None:
        columns = weighing(totals.columns.powers)
    sizes = blocks("batch_weights", first.dtype, first.shape[1], first.device)
    span = _spans(sizes, b, n, first.element_size())
    buffer = first.new_empty(span)
    given = {
        **_inputs(first, second, totals.limit, scale, exclusion, sizes),
        "row_top": rows[0],
        "row_share": rows[1],
        "row_grad": on_rows.contiguous(),
        "col_top": rows[0] if columns is None else columns[0],
        "col_share": rows[1] if columns is None else columns[1],
        "col_grad": on_rows if on_columns is None else on_columns.contiguous(),
        "out": buffer,
        "out_stride": span[1],
        "COLUMNS": columns is not None,
    }
    for top in range(0, b, span[0]):
        for left in range(0, n, span[1]):
            high, wide = slice(top, min(top + span[0], b)), slice(left, min(left + span[1], n))
            width = wide.stop - left
            tall = triton.cdiv(high.stop - top, sizes.rows)
            parts, tiles = _parts(sizes, tall, width, first.device)
            place = {"first_row": top, "first_col": left, "b": high.stop, "n": wide.stop}
            for bounded in (True, False):
                kernels.weights[(tall, parts)](
                    **{**given, **place}, tiles=tiles,
                    EVEN=width % sizes.keys == 0, BOUNDED=bounded,
                )  # fmt: skip
            yield high, wide, buffer[: high.stop - top, :width]


def _add(total: Tensor, left: Tensor, right: Tensor, whole: bool) -> None:
    """``total += left @ right`` in float32; ``whole`` means that total is still zero."""
    if left.dtype is torch.float32:
        torch.addmm(total, left, right, beta=0 if whole else 1, out=total)
    elif whole:
        torch.mm(left, right, out_dtype=torch.float32, out=total)
    else:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one type, float32 unless they share a smaller one, and rows without gaps."""
    dtype = first.dtype if first.dtype is second.dtype else torch.float32
    first, second = first.to(dtype), second.to(dtype)
    return (
        first if first.stride(1) == 1 else first.contiguous(),
        second if second.stride(1) == 1 else second.contiguous(),
    )


def _limit(first: Tensor, second: Tensor, scale: Tensor | float) -> Tensor:
    """What no base 2 logit exceeds, by the norms (Cauchy and Schwarz)."""
    if len(first) == 0 or len(second) == 0:
        return first.new_zeros((), dtype=torch.float32)
    norms = torch.linalg.vector_norm(first, dim=1, dtype=torch.float32).amax()
    if second is not first:
        other = torch.linalg.vector_norm(second, dim=1, dtype=torch.float32).amax()
    else:
        other = norms
    # a little more, since the norms are rounded too
    return norms * other * (scale.abs() if isinstance(scale, Tensor) else scale) * (LOG2E * 1.0001)


def _parts(sizes: Blocks, tall: int, n: int, device: torch.device) -> tuple[int, int]:
    """Groups of columns, so many that all multiprocessors end alike, and the tiles of each."""
    wide = triton.cdiv(n, sizes.keys)
    slots = multiprocessors(device) * sizes.resident
    tiles = triton.cdiv(wide, max(1, min(wide, triton.cdiv(8 * slots, tall))))
    return triton.cdiv(wide, tiles), tiles


def _spans(sizes: Blocks, b: int, n: int, size: int) -> tuple[int, int]:
    """Rows and columns of a chunk: about as many, all chunks alike, and none larger than allowed.

    Both products of a chunk then have tiles for all multiprocessors, over a long sum.
    """
    most = sizes.chunk // size
    side = int(most**0.5)
    wide = _share(n, max(side, most // max(b, 1)), sizes.keys)
    return _share(b, most // wide, sizes.rows), wide


def _share(n: int, most: int, tile: int) -> int:
    """``n`` in as few equal parts of whole tiles as are not larger than allowed."""
    most = max(tile, most // tile * tile)
    each = triton.cdiv(n, triton.cdiv(n, most))
    return triton.cdiv(each, tile) * tile


def _nothing(like: Tensor, n: int) -> Sums:
    """What is said of ``n`` rows without a pair."""
    lse, largest, top = like.new_full((3, n), -torch.inf)
    return Sums(lse, largest, torch.stack([top, torch.zeros_like(top)]))


def _merge(
    parts: Tensor,
    limit: Tensor,
    out: tuple[Tensor, Tensor],
    final: Sums | None,
    count: int,
    n: int,
) -> None:
    """Sums and maxima of ``count`` parts into ``out``, and logarithms if they are the last ones."""
    size = 128
    lse, highest = (out[0], out[1]) if final is None else final[:2]
    kernels.merge[(triton.cdiv(n, size),)](
        parts[0], parts[1], limit, out[0], out[1], lse, highest, count, n,
        FINAL=final is not None, STEP=16, SIZE=size, num_warps=4,
    )  # fmt: skip


def _inputs(
    first: Tensor,
    second: Tensor,
    limit: Tensor,
    scale: Tensor | float,
    exclusion: Exclusion,
    sizes: Blocks,
) -> dict[str, Any]:
    """What both kernels are given."""
    d = first.shape[1]
    return {
        "x": first,
        "y": second,
        "limit": limit,
        "scale": scale,
        "n": len(second),
        "d": d,
        "x_stride": first.stride(0),
        "y_stride": second.stride(0),
        **arguments(exclusion, first),
        "LEARNED": isinstance(scale, Tensor),
        "ROWS": sizes.rows,
        "COLS": sizes.keys,
        "DEPTH": sizes.depth or power(d),
        "WHOLE": sizes.depth == 0,
        "PRECISION": precision(first.dtype, sizes.exact),
        "num_warps": sizes.warps,
        "num_stages": sizes.stages,
    }
