r"""Softmax within a batch, where the keys want a gradient too.

With rows *a* and *k* and temperature τ, l_ij = a_i·k_j / τ, the functions here return

    lse_i = log Σ_j exp l_ij    of rows, and of columns in the symmetric form,

with gradients for both sides, in memory that grows with the number of rows and not with that of
pairs: logits are computed tile by tile, and once more in the backward pass (:mod:`.tiles`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rhyme.kernels import tiles
from rhyme.kernels.attention import QueueSummary
from rhyme.kernels.common import (
    Exclusion,
    Kernel,
    Temperature,
    check_kernel,
    check_rows,
    check_temperature,
    full_precision,
    no_autocast,
)
from rhyme.kernels.pairs import allowed
from rhyme.kernels.tiles import Form, Sums, Totals


class SymmetricSummary(NamedTuple):
    """Both directions of one comparison.

    Attributes:
        rows: of each row of ``first`` among those of ``second``, ``[b]``.
        columns: of each row of ``second`` among those of ``first``, ``[n]``.
    """

    rows: QueueSummary
    columns: QueueSummary


class _LogSumExp(torch.autograd.Function):
    """Log-sum-exps and maxima; ``first`` is divided by the temperature already."""

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, exclusion: Exclusion, form: Form
    ) -> tuple[Tensor, ...]:
        totals = tiles.forward(first, second, exclusion, form)
        rows, columns = totals.rows, totals.columns
        sides = rows if columns is None else (*rows, *columns)
        ctx.exclusion, ctx.form, ctx.shift = exclusion, form, totals.shift
        ctx.save_for_backward(first, second, *sides)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*sides[1::2])
        return tuple(sides)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        first, second, *sides = ctx.saved_tensors
        upstream: list[Tensor | None] = list(grads[::2])
        if all(g is None for g in upstream):
            return None, None, None, None
        needed = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # create_graph: second derivatives go through the plain form
            return *_again(ctx, first, second, upstream, needed), None, None
        rows = Sums(sides[0], sides[1])
        columns = Sums(sides[2], sides[3]) if len(sides) > 2 else None
        given = [
            torch.zeros_like(side) if g is None else g
            for g, side in zip(upstream, sides[::2], strict=True)
        ]
        on_first, on_second = tiles.backward(
            first,
            second,
            ctx.exclusion,
            ctx.form,
            Totals(rows, columns, ctx.shift),
            given[0],
            given[1] if len(given) > 1 else None,
            needed,
        )
        return on_first, on_second, None, None


def _again(
    ctx: Any,
    first: Tensor,
    second: Tensor,
    upstream: list[Tensor | None],
    needed: tuple[bool, bool],
) -> tuple[Any, Any]:
    found = _eager(first, second, ctx.exclusion, ctx.form)
    pairs = [(x, g) for x, g in zip(found[::2], upstream, strict=True) if g is not None]
    wanted = [x for x, need in zip((first, second), needed, strict=True) if need]
    if ctx.form == "self":
        wanted = [first]
    outputs, on_outputs = zip(*pairs, strict=True)
    grads = iter(torch.autograd.grad(outputs, wanted, on_outputs, create_graph=True))
    on_first = next(grads) if needed[0] else None
    return on_first, next(grads) if needed[1] and ctx.form != "self" else None


def _eager(first: Tensor, second: Tensor, exclusion: Exclusion, form: Form) -> tuple[Tensor, ...]:
    """The same from the whole matrix, in plain differentiable PyTorch."""
    logits = first @ (first if form == "self" else second).T
    excluded = exclusion.pairs(len(first), len(second), first.device)
    rows = _eager_side(logits, excluded)
    if form != "both":
        return rows
    return *rows, *_eager_side(logits.T, None if excluded is None else excluded.T)


def _eager_side(logits: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
    if not logits.shape[1]:
        nothing = logits.logsumexp(1)  # −inf, in the graph of the rows
        return nothing, nothing.detach()
    if excluded is None:
        return logits.logsumexp(1), logits.detach().amax(1)
    # a row without any pair would be −inf everywhere and give NaN gradients
    some = ~excluded.all(1)
    logits = logits.masked_fill(excluded & some[:, None], -torch.inf)
    lse = torch.where(some, logits.logsumexp(1), -torch.inf)
    return lse, torch.where(some, logits.detach().amax(1), -torch.inf)


def _both_sides(
    first: Tensor,
    second: Tensor,
    temperature: Temperature,
    exclusion: Exclusion,
    form: Form,
    kernel: Kernel,
) -> list[QueueSummary]:
    check_kernel(kernel)
    check_temperature(temperature)
    check_rows(first, second)
    b, n, device = len(first), len(second), first.device
    exclusion.check(b, n)
    with no_autocast(device):
        first, second = full_precision(first, second)
        if isinstance(temperature, Tensor):
            temperature = temperature.to(first)
        # The division is the caller's graph: it yields the temperature's gradient. Of rows against
        # themselves each side gets its half of it, so that the matrix is its own transpose.
        if form == "self":
            root = temperature.sqrt() if isinstance(temperature, Tensor) else temperature**0.5
            first = second = first / root
        else:
            first = first / temperature
        if kernel == "eager":
            found = _eager(first, second, exclusion, form)
        else:
            found = cast(tuple[Tensor, ...], _LogSumExp.apply(first, second, exclusion, form))
        counts = allowed(exclusion, b, n, device)
        with torch.no_grad():
            hardest = [x * temperature for x in found[1::2]]
        return [
            QueueSummary(lse, top, count)
            for lse, top, count in zip(found[::2], hardest, counts, strict=False)
        ]


def in_batch_log_sum_exp(
    anchors: Tensor,
    keys: Tensor,
    *,
    temperature: Temperature,
    anchor_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    mask: Tensor | None = None,
    skip: Tensor | None = None,
    kernel: Kernel = "auto",
) -> QueueSummary:
    """``log Σ_j exp(a_i·k_j / τ)`` over the keys that each anchor may meet.

    The same as :func:`rhyme.kernels.queue_log_sum_exp`, made for keys that want a gradient, e.g.
    those of all ranks. Forward one product of the two matrices, backward three.

    Args:
        anchors: ``[b, d]``.
        keys: ``[n, d]``; ``n = 0`` is allowed.
        temperature: τ > 0, a number or a learned scalar.
        anchor_groups: int64 ``[b]``; keys of the same group are left out.
        key_groups: int64 ``[n]``.
        mask: bool ``[b, n]``, True leaves the pair out.
        skip: int64 ``[b, m]``, keys that each anchor leaves out by index; −1 is none.
        kernel: the implementation.

    Returns:
        See :class:`QueueSummary`. Gradients reach anchors, keys and temperature; in rows without an
        allowed key they are 0.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive, or the kernel unknown.
    """
    exclusion = Exclusion(anchor_groups, key_groups, mask, skip)
    return _both_sides(anchors, keys, temperature, exclusion, "rows", kernel)[0]


def symmetric_log_sum_exp(
    first: Tensor,
    second: Tensor,
    *,
    temperature: Temperature,
    first_groups: Tensor | None = None,
    second_groups: Tensor | None = None,
    mask: Tensor | None = None,
    skip: Tensor | None = None,
    kernel: Kernel = "auto",
) -> SymmetricSummary:
    """The log-sum-exps of all rows and of all columns of ``first·second / τ``, in one pass.

    Forward one product for both directions, backward three.

    Args:
        first: ``[b, d]``.
        second: ``[n, d]``.
        temperature: τ > 0, a number or a learned scalar.
        first_groups: int64 ``[b]``; pairs of one group are left out.
        second_groups: int64 ``[n]``.
        mask: bool ``[b, n]``, True leaves the pair out.
        skip: int64 ``[b, m]``, rows of ``second`` that each row of ``first`` leaves out; −1 is
            none. What is left out is the pair, so it is left out in both directions.
        kernel: the implementation.

    Returns:
        See :class:`SymmetricSummary`.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive, or the kernel unknown.
    """
    exclusion = Exclusion(first_groups, second_groups, mask, skip)
    rows, columns = _both_sides(first, second, temperature, exclusion, "both", kernel)
    return SymmetricSummary(rows, columns)


def self_log_sum_exp(
    rows: Tensor,
    *,
    temperature: Temperature,
    groups: Tensor | None = None,
    skip: Tensor | None = None,
    kernel: Kernel = "auto",
) -> QueueSummary:
    """``log Σ_j exp(z_i·z_j / τ)`` of rows among themselves: each inner product is taken once.

    Half the products of :func:`in_batch_log_sum_exp`, forward and backward.

    Args:
        rows: ``[n, d]``.
        temperature: τ > 0, a number or a learned scalar.
        groups: int64 ``[n]``; rows of one group are left out, also each row itself.
        skip: int64 ``[n, m]``, rows that each row leaves out, usually at least itself; −1 is none.
            Where *i* leaves out *j*, *j* must leave out *i*.
        kernel: the implementation.

    Returns:
        As :func:`in_batch_log_sum_exp`.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive, or the kernel unknown.
    """
    exclusion = Exclusion(groups, groups, None, skip)
    return _both_sides(rows, rows, temperature, exclusion, "self", kernel)[0]
