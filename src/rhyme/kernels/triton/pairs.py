# pyright: basic, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
"""What kernels share: :class:`rhyme.kernels.common.Exclusion` within a tile, and the scale."""

from typing import Any

import torch
import triton
import triton.language as tl

from rhyme.kernels.common import Exclusion

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
NOBODY = tl.constexpr(-(2**62))  # matches no key, nobody's either


@triton.jit
def factor_of(scale, LEARNED: tl.constexpr):
    """What inner products are multiplied by, a number or a scalar on the GPU."""
    if LEARNED:  # noqa: SIM108
        factor = tl.load(scale).to(tl.float32)
    else:  # one return: both branches are of one type to the compiler
        factor = scale
    return factor


@triton.jit
def weight(x):
    """2^x, 1 at most: huge logits and their level are rounded by whole powers; NaN stays."""
    return tl.exp2(tl.where(x > 0.0, 0.0, x))


@triton.jit
def weighing_of(powers, b, rows, inside):
    """:func:`rhyme.kernels.common.weighing` of some rows; 0 and 0 beyond the last."""
    largest = tl.load(powers + rows, mask=inside, other=float("-inf"))
    total = tl.load(powers + b + rows, mask=inside, other=0.0)
    level = tl.where(largest == float("-inf"), 0.0, largest)
    share = tl.where(total == 0.0, 0.0, 1.0 / tl.where(total == 0.0, 1.0, total))
    return level, share


@triton.jit
def owners_of(row_owner, rows, inside, GROUPS: tl.constexpr):
    """The owner of each row of the tile; anything where there are no groups."""
    owner = rows.to(tl.int64)
    if GROUPS:
        owner = tl.load(row_owner + rows, mask=inside, other=-1)
        owner = tl.where(owner < 0, NOBODY, owner)
    return owner


@triton.jit
def meets(
    owner, rows, cols, inside, n, key_owner, skip, skip_stride, mask, mask_stride,
    GROUPS: tl.constexpr, SKIPS: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Bool, the rows by the columns of the tile; False beyond the last key."""
    known = cols < n
    ok = tl.broadcast_to(known[None, :], [rows.shape[0], cols.shape[0]])
    if GROUPS:
        other = tl.load(key_owner + cols, mask=known, other=-1)
        ok = ok & (owner[:, None] != other[None, :])
    for m in tl.static_range(SKIPS):
        own = tl.load(skip + rows * skip_stride + m, mask=inside, other=-1)
        ok = ok & (own[:, None] != cols[None, :])
    if MASK:
        out = tl.load(
            mask + rows.to(tl.int64)[:, None] * mask_stride + cols[None, :],
            mask=inside[:, None] & known[None, :], other=1,
        )  # fmt: skip
        ok = ok & (out == 0)
    return ok


def arguments(exclusion: Exclusion, stand_in: torch.Tensor) -> dict[str, Any]:
    """What the kernels are told of an exclusion; a stand-in is never read."""
    rows, keys = exclusion.query_groups, exclusion.key_groups
    skip, mask = exclusion.skip, exclusion.mask
    if mask is not None:
        mask = mask.contiguous().view(torch.uint8)
    if skip is not None:
        skip = skip.contiguous()
    return {
        "row_owner": stand_in if rows is None else rows.contiguous(),
        "key_owner": stand_in if keys is None else keys.contiguous(),
        "skip": stand_in if skip is None else skip,
        "mask": stand_in if mask is None else mask,
        "skip_stride": 0 if skip is None else skip.stride(0),
        "mask_stride": 0 if mask is None else mask.stride(0),
        "GROUPS": rows is not None,
        "SKIPS": 0 if skip is None else skip.shape[1],
        "MASK": mask is not None,
    }
