# pyright: basic, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
"""The kernels behind :mod:`rhyme.kernels.triton.batch`; logits are in base 2 throughout.

A program takes a tile of rows and walks over a group of tiles of columns. Where the norms bound the
logits (``limit``), all exponentials are taken relative to that bound, and one exponential serves
rows and columns; else maxima are followed. Both forms are launched, and one of them returns at
once: the choice stands on the GPU, where the norms are, and nobody waits for it.
"""

import triton
import triton.language as tl

from rhyme.kernels.triton.pairs import LN2, LOG2E, factor_of, meets, owners_of, weight

SAFE = tl.constexpr(50.0)  # in base 2: then 2^(2·50) times a gradient stays in range


@triton.jit
def rows_of(x, at, inside, start, d, stride, DEPTH: tl.constexpr):
    """A tile of vectors, from dimension ``start`` on."""
    depth = start + tl.arange(0, DEPTH)
    return tl.load(
        x + at[:, None] * stride + depth[None, :],
        mask=inside[:, None] & (depth < d)[None, :], other=0.0,
    )  # fmt: skip


@triton.jit
def products(
    x, y, held, rows, cols, inside, known, d, x_stride, y_stride,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, WHOLE: tl.constexpr,
    TURNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The inner products of a tile; ``held`` are the rows where they were loaded before.

    ``TURNED`` gives columns by rows.
    """
    if WHOLE:
        other = rows_of(y, cols.to(tl.int64), known, 0, d, y_stride, DEPTH)
        if TURNED:
            acc = tl.dot(other, tl.trans(held), input_precision=PRECISION)
        else:
            acc = tl.dot(held, tl.trans(other), input_precision=PRECISION)
    else:
        if TURNED:  # noqa: SIM108
            acc = tl.zeros([COLS, ROWS], tl.float32)
        else:
            acc = tl.zeros([ROWS, COLS], tl.float32)
        depth = tl.arange(0, DEPTH)
        left_at = x + rows.to(tl.int64)[:, None] * x_stride + depth[None, :]
        right_at = y + cols.to(tl.int64)[:, None] * y_stride + depth[None, :]
        for start in range(0, d, DEPTH):
            there = (start + depth < d)[None, :]
            left = tl.load(left_at, mask=inside[:, None] & there, other=0.0)
            right = tl.load(right_at, mask=known[:, None] & there, other=0.0)
            if TURNED:
                acc = tl.dot(right, tl.trans(left), acc, input_precision=PRECISION)
            else:
                acc = tl.dot(left, tl.trans(right), acc, input_precision=PRECISION)
            left_at += DEPTH
            right_at += DEPTH
    return acc


@triton.jit(do_not_specialize=["first_row", "b", "n", "tiles"])
def sums(
    x, y, limit, scale, row_owner, key_owner, skip, mask,
    row_sum, row_top, col_sum, col_top,
    first_row, b, n, d, x_stride, y_stride, skip_stride, mask_stride, tiles,
    BOUNDED: tl.constexpr, COLUMNS: tl.constexpr, LEARNED: tl.constexpr,
    EVEN: tl.constexpr, GROUPS: tl.constexpr, SKIPS: tl.constexpr, MASK: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums and maxima of a tile of rows over a group of columns, and of each column over the rows.

    Bounded, a sum is that of 2^(l − limit); else of 2^(l − maximum).
    """
    bound = tl.load(limit)
    if (bound <= SAFE) != BOUNDED:
        return
    factor = factor_of(scale, LEARNED) * LOG2E
    height = tl.program_id(0)
    part = tl.program_id(1)
    rows = first_row + height * ROWS + tl.arange(0, ROWS)
    inside = rows < b
    held = rows_of(x, rows.to(tl.int64), inside, 0, d, x_stride, DEPTH)
    owner = owners_of(row_owner, rows, inside, GROUPS)
    first = part * tiles * COLS
    last = tl.minimum(first + tiles * COLS, n)
    total = tl.zeros([ROWS], tl.float32)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    # Columns by rows: what is summed anew in each tile lies within a thread and its neighbours, and
    # what goes on over the tiles is gathered elementwise, in pairs of a thread, and summed once.
    gathered = tl.zeros([COLS // 16, 8, ROWS], tl.float32)
    high = tl.full([COLS // 16, 8, ROWS], float("-inf"), tl.float32)
    out = height.to(tl.int64) * n
    for start in range(first, last, COLS):
        cols = start + tl.arange(0, COLS)
        known = cols < n
        s = products(
            x, y, held, rows, cols, inside, known, d, x_stride, y_stride,
            ROWS, COLS, DEPTH, WHOLE, True, PRECISION,
        )  # fmt: skip
        s = s * factor
        if GROUPS or SKIPS > 0 or MASK or not EVEN:
            ok = meets(
                owner, rows, cols, inside, n, key_owner, skip, skip_stride, mask, mask_stride,
                GROUPS, SKIPS, MASK,
            )  # fmt: skip
            s = tl.where(tl.trans(ok & inside[:, None]), s, float("-inf"))
        if BOUNDED:
            p = tl.exp2(s - bound)
            gathered += tl.sum(tl.reshape(p, [COLS // 16, 2, 8, ROWS]), 1)
            high = tl.maximum(high, tl.max(tl.reshape(s, [COLS // 16, 2, 8, ROWS]), 1))
            if COLUMNS:
                tl.store(col_sum + out + cols, tl.sum(p, 1), mask=known)
                tl.store(col_top + out + cols, tl.max(s, 1), mask=known)
        else:
            new = tl.maximum(top, tl.max(s, 0))
            base = tl.where(new == float("-inf"), 0.0, new)
            total = total * tl.exp2(top - base) + tl.sum(tl.exp2(s - base[None, :]), 0)
            top = new
            if COLUMNS:
                highest = tl.max(s, 1)
                level = tl.where(highest == float("-inf"), 0.0, highest)
                amount = tl.sum(tl.exp2(s - level[:, None]), 1)
                tl.store(col_sum + out + cols, amount, mask=known)
                tl.store(col_top + out + cols, highest, mask=known)
    at = part.to(tl.int64) * b + rows
    if BOUNDED:
        total = tl.sum(tl.sum(gathered, 1), 0)
        top = tl.max(tl.max(high, 1), 0)
    tl.store(row_sum + at, total, mask=inside)
    tl.store(row_top + at, top, mask=inside)


@triton.jit(do_not_specialize=["parts", "n"])
def merge(
    sums, tops, limit, amounts, highest, lse, largest, parts, n,
    FINAL: tl.constexpr, STEP: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The parts ``[parts, n]`` put together; natural logarithms too if they are the last ones."""
    bound = tl.load(limit)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    known = at < n
    total = tl.zeros([SIZE], tl.float32)
    top = tl.full([SIZE], float("-inf"), tl.float32)
    for start in range(0, parts, STEP):
        some = start + tl.arange(0, STEP)
        where = some.to(tl.int64)[:, None] * n + at[None, :]
        there = (some < parts)[:, None] & known[None, :]
        piece = tl.load(sums + where, mask=there, other=0.0)
        high = tl.load(tops + where, mask=there, other=float("-inf"))
        new = tl.maximum(top, tl.max(high, 0))
        if bound <= SAFE:
            total += tl.sum(piece, 0)
        else:
            base = tl.where(new == float("-inf"), 0.0, new)
            total = total * tl.exp2(top - base) + tl.sum(piece * tl.exp2(high - base[None, :]), 0)
        top = new
    tl.store(amounts + at, total, mask=known)
    tl.store(highest + at, top, mask=known)
    if FINAL:
        level = tl.where(top == float("-inf"), 0.0, top)
        if bound <= SAFE:
            level = tl.zeros([SIZE], tl.float32) + bound
        found = tl.where(total == 0.0, float("-inf"), (level + tl.log2(total)) * LN2)
        tl.store(lse + at, found, mask=known)
        tl.store(largest + at, top * LN2, mask=known)


@triton.jit
def slopes(top, share, grad, at, inside, slope):
    """What a side's exponentials are multiplied by, and taken relative to if not to the bound."""
    level = tl.load(top + at, mask=inside, other=0.0)
    share = tl.load(share + at, mask=inside, other=0.0)
    by = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) * slope * share
    return tl.where(share != 0.0, by, 0.0), level


@triton.jit(do_not_specialize=["first_row", "first_col", "b", "n", "tiles"])
def weights(
    x, y, limit, scale, row_owner, key_owner, skip, mask,
    row_top, col_top, row_share, col_share, row_grad, col_grad, out,
    first_row, first_col, b, n, d, x_stride, y_stride, skip_stride, mask_stride, out_stride, tiles,
    BOUNDED: tl.constexpr, COLUMNS: tl.constexpr, LEARNED: tl.constexpr, EVEN: tl.constexpr,
    GROUPS: tl.constexpr, SKIPS: tl.constexpr, MASK: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of the inner products, of ``first_row`` to ``b`` and ``first_col`` to ``n``."""
    bound = tl.load(limit)
    if (bound <= SAFE) != BOUNDED:
        return
    slope = factor_of(scale, LEARNED)
    factor = slope * LOG2E
    height = tl.program_id(0)
    part = tl.program_id(1)
    rows = first_row + height * ROWS + tl.arange(0, ROWS)
    inside = rows < b
    held = rows_of(x, rows.to(tl.int64), inside, 0, d, x_stride, DEPTH)
    owner = owners_of(row_owner, rows, inside, GROUPS)
    by_row, row_level = slopes(row_top, row_share, row_grad, rows, inside, slope)
    first = part * tiles * COLS
    last = tl.minimum(first + tiles * COLS, n - first_col)
    line = (rows - first_row).to(tl.int64)[:, None] * out_stride
    for start in range(first, last, COLS):
        place = start + tl.arange(0, COLS)
        cols = first_col + place
        known = cols < n
        s = products(
            x, y, held, rows, cols, inside, known, d, x_stride, y_stride,
            ROWS, COLS, DEPTH, WHOLE, False, PRECISION,
        )  # fmt: skip
        s = s * factor
        if GROUPS or SKIPS > 0 or MASK or not EVEN:
            ok = meets(
                owner, rows, cols, inside, n, key_owner, skip, skip_stride, mask, mask_stride,
                GROUPS, SKIPS, MASK,
            )  # fmt: skip
            s = tl.where(ok, s, float("-inf"))
        if COLUMNS:
            by_col, col_level = slopes(col_top, col_share, col_grad, cols, known, slope)
        if BOUNDED:
            if COLUMNS:
                w = tl.exp2(s - bound) * (by_row[:, None] + by_col[None, :])
            else:
                w = tl.exp2(s - bound) * by_row[:, None]
        else:
            w = weight(s - row_level[:, None]) * by_row[:, None]
            if COLUMNS:
                w += weight(s - col_level[None, :]) * by_col[None, :]
        at = out + line + tl.max_contiguous(tl.multiple_of(place, COLS), COLS)[None, :]
        w = w.to(out.dtype.element_ty)
        if EVEN:  # without a mask rows are written in whole words
            tl.store(at, w, mask=inside[:, None])
        else:
            tl.store(at, w, mask=inside[:, None] & known[None, :])
