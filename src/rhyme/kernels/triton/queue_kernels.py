# pyright: basic, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
"""The kernels behind :mod:`rhyme.kernels.triton.queue`; logits are in base 2 throughout.

A program takes a tile of queries and one part of the keys, so that few queries still fill the GPU.
"""

import triton
import triton.language as tl

from rhyme.kernels.triton.pairs import (
    LN2,
    LOG2E,
    factor_of,
    meets,
    owners_of,
    weighing_of,
    weight,
)


@triton.jit(do_not_specialize=["b", "n", "tiles"])
def forward(
    q, k, v, row_owner, key_owner, skip, mask, top, total, sums, count,
    b, n, d, e, q_stride, k_stride, v_stride, skip_stride, mask_stride, scale, tiles,
    VALUES: tl.constexpr, MEAN: tl.constexpr, LEARNED: tl.constexpr, GROUPS: tl.constexpr,
    SKIPS: tl.constexpr, MASK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of each query, over one part of the keys: largest logit, sum, weighted sum, count."""
    slope = factor_of(scale, LEARNED)
    factor = slope * LOG2E
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    first = part * tiles * KEYS
    last = tl.minimum(first + tiles * KEYS, n)
    cols = tl.arange(0, KEYS)
    depth = tl.arange(0, DEPTH)
    width = tl.arange(0, WIDTH)
    inside = rows < b
    wide = (depth < d)[None, :]
    query = tl.load(
        q + rows.to(tl.int64)[:, None] * q_stride + depth[None, :],
        mask=inside[:, None] & wide, other=0.0,
    )  # fmt: skip
    owner = owners_of(row_owner, rows, inside, GROUPS)
    at = (first + cols).to(tl.int64)[:, None]
    key_at = k + at * k_stride + depth[None, :]
    value_at = v + at * v_stride + width[None, :]
    m = tl.full([ROWS], float("-inf"), tl.float32)
    t = tl.zeros([ROWS], tl.float32)
    c = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(first, last, KEYS):
        here = start + cols
        key = tl.load(key_at, mask=(here < n)[:, None] & wide, other=0.0)
        s = tl.dot(query, tl.trans(key), input_precision=PRECISION) * factor
        ok = meets(
            owner, rows, here, inside, n, key_owner, skip, skip_stride, mask, mask_stride,
            GROUPS, SKIPS, MASK,
        )  # fmt: skip
        s = tl.where(ok, s, float("-inf"))
        new = tl.maximum(m, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(m - base)
        t = t * shrink + tl.sum(p, 1)
        m = new
        if GROUPS or SKIPS > 0 or MASK:
            # of the logits, whose layout the sum takes; exact below 2^24 keys
            c += tl.sum(tl.where(s > float("-inf"), 1.0, 0.0), 1)
        if MEAN:
            value = key
            if VALUES:
                value = tl.load(
                    value_at, mask=(here < n)[:, None] & (width < e)[None, :], other=0.0
                )
            acc = acc * shrink[:, None]
            acc = tl.dot(p.to(value.dtype), value, acc, input_precision=PRECISION)
        key_at += KEYS * k_stride
        value_at += KEYS * v_stride
    out = part * b + rows
    tl.store(top + out, m, mask=inside)
    tl.store(total + out, t, mask=inside)
    if GROUPS or SKIPS > 0 or MASK:
        tl.store(count + out, c.to(tl.int32), mask=inside)
    if MEAN:
        tl.store(
            sums + out.to(tl.int64)[:, None] * e + width[None, :], acc,
            mask=inside[:, None] & (width < e)[None, :],
        )  # fmt: skip


@triton.jit(do_not_specialize=["b", "n", "parts"])
def merge(
    q, top, total, sums, count, powers, lse, maximum, allowed, mean, expected,
    b, e, n, parts, q_stride, scale,
    MEAN: tl.constexpr, EXPECTED: tl.constexpr, LEARNED: tl.constexpr, COUNTED: tl.constexpr,
    PARTS: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The parts of one query put together; natural logarithms but for ``powers``."""
    row = tl.program_id(0)
    index = tl.arange(0, PARTS)
    inside = index < parts
    m = tl.load(top + index * b + row, mask=inside, other=float("-inf"))
    t = tl.load(total + index * b + row, mask=inside, other=0.0)
    best = tl.max(m, 0)
    base = tl.where(best == float("-inf"), 0.0, best)
    whole = tl.sum(t * tl.exp2(m - base), 0)
    tl.store(powers + row, best)
    tl.store(powers + b + row, whole)
    tl.store(maximum + row, best * LN2)
    tl.store(lse + row, tl.where(whole == 0.0, float("-inf"), (base + tl.log2(whole)) * LN2))
    if COUNTED:
        c = tl.load(count + index * b + row, mask=inside, other=0)
        tl.store(allowed + row, tl.sum(c.to(tl.int64), 0))
    else:
        tl.store(allowed + row, n.to(tl.int64))
    if MEAN:
        width = tl.arange(0, WIDTH)
        share = 1.0 / tl.where(whole > 0, whole, 1.0)
        acc = tl.zeros([WIDTH], tl.float32)
        for start in range(0, parts, STEP):
            some = start + tl.arange(0, STEP)
            near = tl.load(top + some * b + row, mask=some < parts, other=float("-inf"))
            piece = tl.load(
                sums + (some * b + row).to(tl.int64)[:, None] * e + width[None, :],
                mask=(some < parts)[:, None] & (width < e)[None, :], other=0.0,
            )  # fmt: skip
            acc += tl.sum(piece * tl.exp2(near - base)[:, None], 0)
        average = acc * share
        tl.store(mean + row * e + width, average, mask=width < e)
        if EXPECTED:  # keys are averaged
            query = tl.load(q + row.to(tl.int64) * q_stride + width, mask=width < e, other=0.0)
            inner = tl.sum(query.to(tl.float32) * average, 0)
            tl.store(expected + row, inner * factor_of(scale, LEARNED))


@triton.jit(do_not_specialize=["b", "n", "tiles"])
def backward_queries(
    q, k, v, g, z, powers, on_lse, row_owner, key_owner, skip, mask, out,
    b, n, d, e, q_stride, k_stride, v_stride, skip_stride, mask_stride, scale, tiles,
    VALUES: tl.constexpr, MEAN: tl.constexpr, ON_LSE: tl.constexpr, LEARNED: tl.constexpr,
    GROUPS: tl.constexpr, SKIPS: tl.constexpr, MASK: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scale · Σ_j p_j (g·v_j − g·z + g_lse) k_j over one part of the keys."""
    slope = factor_of(scale, LEARNED)
    factor = slope * LOG2E
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    first = part * tiles * KEYS
    last = tl.minimum(first + tiles * KEYS, n)
    cols = tl.arange(0, KEYS)
    depth = tl.arange(0, DEPTH)
    width = tl.arange(0, WIDTH)
    inside = rows < b
    wide = (depth < d)[None, :]
    query = tl.load(
        q + rows.to(tl.int64)[:, None] * q_stride + depth[None, :],
        mask=inside[:, None] & wide, other=0.0,
    )  # fmt: skip
    owner = owners_of(row_owner, rows, inside, GROUPS)
    base_of, share_of = weighing_of(powers, b, rows, inside)
    level = tl.zeros([ROWS], tl.float32)
    if ON_LSE:
        level += tl.load(on_lse + rows, mask=inside, other=0.0).to(tl.float32)
    grad = query
    if MEAN:
        flat = rows.to(tl.int64)[:, None] * e + width[None, :]
        narrow = inside[:, None] & (width < e)[None, :]
        # rounded as it enters the product, so that both terms of the difference agree
        grad = tl.load(g + flat, mask=narrow, other=0.0).to(query.dtype)
        centre = tl.load(z + flat, mask=narrow, other=0.0)
        level -= tl.sum(grad.to(tl.float32) * centre, 1)
    at = (first + cols).to(tl.int64)[:, None]
    key_at = k + at * k_stride + depth[None, :]
    value_at = v + at * v_stride + width[None, :]
    acc = tl.zeros([ROWS, DEPTH], tl.float32)
    for start in range(first, last, KEYS):
        here = start + cols
        key = tl.load(key_at, mask=(here < n)[:, None] & wide, other=0.0)
        s = tl.dot(query, tl.trans(key), input_precision=PRECISION) * factor
        ok = meets(
            owner, rows, here, inside, n, key_owner, skip, skip_stride, mask, mask_stride,
            GROUPS, SKIPS, MASK,
        )  # fmt: skip
        p = weight(tl.where(ok, s, float("-inf")) - base_of[:, None]) * share_of[:, None]
        if MEAN:
            value = key
            if VALUES:
                value = tl.load(
                    value_at, mask=(here < n)[:, None] & (width < e)[None, :], other=0.0
                )
            inner = tl.dot(grad, tl.trans(value), input_precision=PRECISION)
            p = p * (inner + level[:, None])
        else:
            p = p * level[:, None]
        acc = tl.dot(p.to(key.dtype), key, acc, input_precision=PRECISION)
        key_at += KEYS * k_stride
        value_at += KEYS * v_stride
    tl.store(
        out + (part * b + rows).to(tl.int64)[:, None] * d + depth[None, :], acc * slope,
        mask=inside[:, None] & wide,
    )  # fmt: skip


@triton.jit(do_not_specialize=["b", "n"])
def backward_keys(
    q, k, v, g, powers, level, row_owner, key_owner, skip, mask, dk, dv,
    b, n, d, e, q_stride, k_stride, v_stride, skip_stride, mask_stride, scale,
    VALUES: tl.constexpr, MEAN: tl.constexpr, LEARNED: tl.constexpr, GROUPS: tl.constexpr,
    SKIPS: tl.constexpr, MASK: tl.constexpr, NEED_KEYS: tl.constexpr, NEED_VALUES: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of keys and values; keys that are their own values get both."""
    slope = factor_of(scale, LEARNED)
    factor = slope * LOG2E
    here = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    depth = tl.arange(0, DEPTH)
    width = tl.arange(0, WIDTH)
    wide = (depth < d)[None, :]
    narrow = (width < e)[None, :]
    at = here.to(tl.int64)[:, None]
    key = tl.load(k + at * k_stride + depth[None, :], mask=(here < n)[:, None] & wide, other=0.0)
    value = key
    if VALUES:
        value = tl.load(
            v + at * v_stride + width[None, :], mask=(here < n)[:, None] & narrow, other=0.0
        )
    on_key = tl.zeros([KEYS, DEPTH], tl.float32)
    on_value = tl.zeros([KEYS, WIDTH], tl.float32)
    for start in range(0, b, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = rows < b
        query = tl.load(
            q + rows.to(tl.int64)[:, None] * q_stride + depth[None, :],
            mask=inside[:, None] & wide, other=0.0,
        )  # fmt: skip
        owner = owners_of(row_owner, rows, inside, GROUPS)
        base_of, share_of = weighing_of(powers, b, rows, inside)
        ds = tl.load(level + rows, mask=inside, other=0.0)[:, None]
        s = tl.dot(query, tl.trans(key), input_precision=PRECISION) * factor
        ok = meets(
            owner, rows, here, inside, n, key_owner, skip, skip_stride, mask, mask_stride,
            GROUPS, SKIPS, MASK,
        )  # fmt: skip
        p = weight(tl.where(ok, s, float("-inf")) - base_of[:, None]) * share_of[:, None]
        if MEAN:
            grad = tl.load(
                g + rows.to(tl.int64)[:, None] * e + width[None, :],
                mask=inside[:, None] & narrow, other=0.0,
            ).to(query.dtype)  # fmt: skip
            ds = ds + tl.dot(grad, tl.trans(value), input_precision=PRECISION)
            if NEED_VALUES:
                on_value = tl.dot(
                    tl.trans(p.to(query.dtype)), grad, on_value, input_precision=PRECISION
                )
        if NEED_KEYS:
            ds = (p * ds * slope).to(query.dtype)
            on_key = tl.dot(tl.trans(ds), query, on_key, input_precision=PRECISION)
    if NEED_KEYS:
        if NEED_VALUES and not VALUES:
            on_key += on_value
        tl.store(dk + at * d + depth[None, :], on_key, mask=(here < n)[:, None] & wide)
    if NEED_VALUES and VALUES:
        tl.store(dv + at * e + width[None, :], on_value, mask=(here < n)[:, None] & narrow)
