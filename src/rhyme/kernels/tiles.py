r"""Log-sum-exps of all rows and columns of a matrix of inner products, tile by tile.

Of the logits ``l = scale · first @ second.T`` only a tile exists at a time, small enough for the
cache; the backward pass computes it again. Three forms share the walk:

* ``"rows"``: lse_i = log Σ_j exp l_ij;
* ``"both"``: also lse_j = log Σ_i exp l_ij of the columns, from the same tiles;
* ``"self"``: rows of one set against each other, l = lᵀ. Only tiles on and above the diagonal are
  computed; what lies below is their transpose.

With upstream gradients g_i of the rows and h_j of the columns, the gradient of a logit is

    W_ij = g_i exp(l_ij − lse_i) + h_j exp(l_ij − lse_j),

and those of the vectors are ``scale · W @ second`` and ``scale · Wᵀ @ first``. The log-sum-exp does
not enter as one number, whose rounding grows with the logits: with the largest logit m of a row and
the sum Σ of the exponentials relative to it, a weight is exp(l − m) and the gradient g / Σ.

Exponentials are powers of two (``torch.exp2`` takes half the time of ``torch.exp`` on a CPU), of
logits scaled by log₂e. Where the norms of all vectors bound the logits, one constant keeps powers
and sums in range: then there is no running maximum to follow, rows and columns share one
exponential, and ``W = 2^(l − c) · (a_i + b_j)``. Rows that lie so far below the bound that they
would lose digits are noticed afterwards, and all is done again with running maxima. The choice
looks at values, which would stall a GPU; there, maxima are always followed.

This is the portable implementation of :func:`forward` and :func:`backward`; others keep to their
signatures and meaning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rhyme.kernels.common import Exclusion
from rhyme.kernels.pairs import LeftOut
from rhyme.kernels.product import add_product, inner_by, worth_onednn

Form = Literal["rows", "both", "self"]

SIDE = 512  # a tile of 512 x 512 is 1 MiB in float32: two cores hold it in their own caches
_DEVICE_SIDE = 4096  # elsewhere a small tile would not fill the device
_LOG2E = math.log2(math.e)
_ROUNDED = 1e-3  # where logits may be rounded by more, each weight is watched: no constant serves
# Powers of two stay below 2^high, so sums over 2^40 of them are in range; sums below 2^low are not
# trusted. Between the two, the smallest normal number is 2^-46 (2^-300) of a sum.
_RANGE = {torch.float32: (60.0, -80.0), torch.float64: (500.0, -700.0)}


class Sums(NamedTuple):
    """One side of the matrix.

    Attributes:
        log_sum_exp: one number a row (or column); −inf where no pair is allowed.
        largest: the largest allowed logit; −inf where there is none.
        powers: ``[2, n]``, what the backward pass weighs by: the largest logit in base 2, −inf
            where there is none, and the sum of 2^(logit − largest). Where the implementation took
            a constant off all logits, the sum is relative to that instead.
    """

    log_sum_exp: Tensor
    largest: Tensor
    powers: Tensor


class Totals(NamedTuple):
    """What the forward pass finds.

    Attributes:
        rows: ``[b]`` each.
        columns: ``[n]`` each, in the form ``"both"``; else None.
        shift: what the implementation wants to know again in the backward pass.
    """

    rows: Sums
    columns: Sums | None
    shift: float | None


Tile = tuple[slice, slice, Tensor]


def forward(
    first: Tensor, second: Tensor, scale: Tensor | float, exclusion: Exclusion, form: Form
) -> Totals:
    """Log-sum-exp and maximum of each row, and of each column if asked for.

    Args:
        first: ``[b, d]``, float32 or float64.
        second: ``[n, d]`` of the same type; ``first`` itself in the form ``"self"``.
        scale: 1/τ, a number or a scalar of that type.
        exclusion: the pairs left out; symmetric in the form ``"self"``.
        form: which sums.
    """
    shift = _shift(first, second, scale)
    if shift is not None:
        found = _shifted(first, second, scale, exclusion, form, shift)
        if found is not None:
            return found
    return _running(first, second, scale, exclusion, form)


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
        Gradients of ``first`` and ``second``, None where not needed. In the form ``"self"`` all
        of it belongs to ``first``.
    """
    triangle = form == "self"
    rows = _Side(totals.rows.powers, on_rows * scale, totals.shift)
    columns = None
    if triangle:
        columns = rows
    elif totals.columns is not None and on_columns is not None:
        columns = _Side(totals.columns.powers, on_columns * scale, totals.shift)
    on_first = torch.zeros_like(first) if needed[0] else None
    # Of the second set the gradient is summed across, [d, n]: a tile is never read along columns.
    across = second.new_zeros(second.shape[::-1]) if triangle or needed[1] else None
    spare, flipped, at = _buffer(first, second), first, None
    for i, j, tile in _tiles(first, second, scale, exclusion, triangle):
        weights = _weights(tile, spare, i, j, rows, columns, totals.shift)
        if on_first is not None:
            add_product(on_first[i], weights, second[j])
        if across is not None and not (triangle and i == j):
            if at != i:
                flipped, at = first[i].T.contiguous(), i
            add_product(across[:, j], flipped, weights)
    if triangle and on_first is not None and across is not None:
        return on_first.add_(across.T), None
    return on_first, None if across is None else across.T.contiguous()


class _Side:
    """What one side weighs a tile by: 2^(l − level) · factor.

    With a constant taken off all logits, that serves as the level.
    """

    def __init__(self, powers: Tensor, gradient: Tensor, shift: float | None) -> None:
        largest, total = powers
        # without an allowed pair there is no weight to scale, whatever comes, NaN too
        self.factor = torch.where(total == 0, 0, gradient / total)
        if shift is None:
            self.level = torch.where(largest == -torch.inf, 0, largest)


def _weights(
    tile: Tensor,
    spare: Tensor,
    i: slice,
    j: slice,
    rows: _Side,
    columns: _Side | None,
    shift: float | None,
) -> Tensor:
    """The gradient of the tile's logits, in the memory of the tile."""
    spare = spare[: tile.numel()].view(tile.shape)
    if shift is not None:
        if shift:
            tile.sub_(shift)
        tile.exp2_()
        if columns is None:
            return tile.mul_(rows.factor[i, None])
        return tile.mul_(torch.add(rows.factor[i, None], columns.factor[j], out=spare))
    # The logits are those of the forward pass bit for bit, the largest is one of them, and the
    # difference of two huge numbers near each other is exact. A weight is 1 at most.
    if columns is not None:
        torch.sub(tile, columns.level[j], out=spare).clamp_(max=0).exp2_()
        spare.mul_(columns.factor[j])
    tile.sub_(rows.level[i, None]).clamp_(max=0).exp2_().mul_(rows.factor[i, None])
    return tile if columns is None else tile.add_(spare)


def _side(x: Tensor) -> int:
    return SIDE if x.device.type == "cpu" else _DEVICE_SIDE


def _buffer(first: Tensor, second: Tensor) -> Tensor:
    side = _side(first)
    return first.new_empty(min(side, len(first)) * min(side, len(second)))


def _tiles(
    first: Tensor, second: Tensor, scale: Tensor | float, exclusion: Exclusion, triangle: bool
) -> Iterator[Tile]:
    """Rows, columns and base 2 logits of each tile, excluded ones −inf; one buffer for all."""
    b, n, side = len(first), len(second), _side(first)
    left_out = LeftOut(exclusion, b, n, side, side, first.device)
    onednn = worth_onednn(first, second)
    buffer = None if onednn else _buffer(first, second)  # oneDNN brings its own
    for top in range(0, b, side):
        i = slice(top, min(top + side, b))
        scaled = first[i] * (scale * _LOG2E)
        for left in range(top if triangle else 0, n, side):
            j = slice(left, min(left + side, n))
            height, width = i.stop - top, j.stop - left
            room = None if buffer is None else buffer[: height * width].view(height, width)
            tile = inner_by(onednn, scaled, second[j], room)
            left_out.strike(tile, i, j)
            yield i, j, tile


def _shift(first: Tensor, second: Tensor, scale: Tensor | float) -> float | None:
    """What to take off all base 2 logits so that no power overflows; None if nothing is known."""
    if first.device.type != "cpu" or not len(first) or not len(second):
        return None
    largest = (torch.linalg.vector_norm(x, dim=1).max() for x in (first, second))
    bound = math.prod(float(x) for x in largest) * abs(float(scale)) * _LOG2E
    if not bound * torch.finfo(first.dtype).eps <= _ROUNDED:
        return None
    return max(0.0, bound - _RANGE[first.dtype][0])


def _empty(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_zeros(len(x)), x.new_full((len(x),), -torch.inf)


def _shifted(
    first: Tensor,
    second: Tensor,
    scale: Tensor | float,
    exclusion: Exclusion,
    form: Form,
    shift: float,
) -> Totals | None:
    """The sums of 2^(l − shift); None if some are too small to be trusted."""
    triangle = form == "self"
    rows = _empty(first)
    columns = None if form == "rows" else rows if triangle else _empty(second)
    ones = first.new_ones(_side(first))
    for i, j, tile in _tiles(first, second, scale, exclusion, triangle):
        across = None if triangle and i == j else columns
        _raise(rows[1][i], tile.amax(1))
        if across is not None:
            _raise(across[1][j], tile.amax(0))
        if shift:
            tile.sub_(shift)
        tile.exp2_()
        rows[0][i].addmv_(tile, ones[: tile.shape[1]])
        if across is not None:
            across[0][j].addmv_(tile.T, ones[: tile.shape[0]])
    least = 2.0 ** _RANGE[first.dtype][1]
    for total, largest in (rows, *(() if columns is None else (columns,))):
        if bool(((total < least) & (largest > -torch.inf)).any()):
            return None
    return _totals(rows, columns if form == "both" else None, shift)


def _running(
    first: Tensor, second: Tensor, scale: Tensor | float, exclusion: Exclusion, form: Form
) -> Totals:
    """The sums of 2^(l − m), where m is the maximum of the row or column so far."""
    triangle = form == "self"
    rows = _empty(first)
    columns = None if form == "rows" else rows if triangle else _empty(second)
    spare = _buffer(first, second)
    for i, j, tile in _tiles(first, second, scale, exclusion, triangle):
        if columns is not None and not (triangle and i == j):
            _follow(tile, 0, columns[0][j], columns[1][j], spare)
        _follow(tile, 1, rows[0][i], rows[1][i], spare)
    return _totals(rows, columns if form == "both" else None, None)


def _raise(largest: Tensor, found: Tensor) -> None:
    torch.maximum(largest, found, out=largest)


def _follow(tile: Tensor, dim: int, total: Tensor, largest: Tensor, spare: Tensor) -> None:
    """Add a tile to sums that are kept relative to their maximum."""
    higher = torch.maximum(largest, tile.amax(dim))
    level = torch.where(higher == -torch.inf, 0, higher)
    powers = torch.sub(tile, level.unsqueeze(dim), out=spare[: tile.numel()].view(tile.shape))
    total.mul_(torch.exp2(largest - level)).add_(powers.exp2_().sum(dim))
    largest.copy_(higher)


def _totals(
    rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor] | None, shift: float | None
) -> Totals:
    def natural(side: tuple[Tensor, Tensor]) -> Sums:
        total, largest = side
        level = torch.where(largest == -torch.inf, 0, largest) if shift is None else shift
        powers = torch.stack([largest, total])
        return Sums((total.log2() + level) / _LOG2E, largest / _LOG2E, powers)

    return Totals(natural(rows), None if columns is None else natural(columns), shift)
