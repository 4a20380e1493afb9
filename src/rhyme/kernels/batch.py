r"""Softmax within a batch, where the keys want a gradient too.

With rows *a* and *k* and temperature τ, l_ij = a_i·k_j / τ, the functions here return

    lse_i = log Σ_j exp l_ij    of rows, and of columns in the symmetric form,

with gradients for both sides, in memory that grows with the number of rows and not with that of
pairs: logits are computed tile by tile, and once more in the backward pass (:mod:`.tiles`; on a
GPU ``triton.batch``).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rhyme.kernels import eager, tiles
from rhyme.kernels.attention import QueueSummary
from rhyme.kernels.common import (
    Exclusion,
    Kernel,
    Temperature,
    check_kernel,
    check_rows,
    check_temperature,
    full_precision,
    full_type,
    no_autocast,
    plain,
    triton_passes,
)
from rhyme.kernels.pairs import allowed
from rhyme.kernels.tiles import Form, Sums


class SymmetricSummary(NamedTuple):
    """Both directions of one comparison.

    Attributes:
        rows: of each row of ``first`` among those of ``second``, ``[b]``.
        columns: of each row of ``second`` among those of ``first``, ``[n]``.
    """

    rows: QueueSummary
    columns: QueueSummary


class _LogSumExp(torch.autograd.Function):
    """Log-sum-exps and maxima of both sides, and their gradients, whatever implements them."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        scale: Tensor | float,
        exclusion: Exclusion,
        form: Form,
        passes: Any,
    ) -> tuple[Tensor, ...]:
        totals = passes.forward(first, second, scale, exclusion, form)
        sides = totals.rows if totals.columns is None else (*totals.rows, *totals.columns)
        learned = scale if isinstance(scale, Tensor) else None
        # the outputs go the way that makes no cycle; the rest of the totals stays
        ctx.save_for_backward(first, second, learned, *sides)
        ctx.totals = totals._replace(rows=None, columns=None)
        ctx.settings = (scale if learned is None else None, exclusion, form, passes)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*sides[1::3])
        return tuple(x for at, x in enumerate(sides) if at % 3 < 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # it may be called where the forward pass was not: within autocast
        with no_autocast(ctx.saved_tensors[0].device):
            return _gradients(ctx, grads)


def _gradients(ctx: Any, grads: tuple[Any, ...]) -> Any:
    """What a node hands back for each of its inputs."""
    first, second, scale, *sides = ctx.saved_tensors
    fixed, exclusion, form, passes = ctx.settings
    scale = fixed if scale is None else scale
    upstream: list[Tensor | None] = list(grads[::2])
    need_first, need_second, need_scale = ctx.needs_input_grad[:3]
    if all(g is None for g in upstream):
        return (None,) * 6
    if torch.is_grad_enabled():  # create_graph: second derivatives go through the plain form
        inputs = (first, second, scale)
        found = _again(inputs, exclusion, form, upstream, ctx.needs_input_grad[:3])
        return (*found, None, None, None)
    on_rows, *rest = (
        torch.zeros_like(side) if g is None else g
        for g, side in zip(upstream, sides[::3], strict=True)
    )
    totals = ctx.totals._replace(rows=Sums(*sides[:3]), columns=Sums(*sides[3:]) if rest else None)
    on_first, on_second = passes.backward(
        first,
        second,
        scale,
        exclusion,
        form,
        totals,
        on_rows,
        rest[0] if rest else None,
        (need_first or need_scale, need_second),
    )
    on_scale = None
    if need_scale:
        # logits are scale · a·k, so scale ∂/∂scale = a·∂/∂a; half of it where k is a too
        on_scale = (first * cast(Tensor, on_first)).sum() / scale
        on_scale = on_scale / 2 if form == "self" else on_scale
    # one after the other, so that not all of both is held in both types
    on_first = None if on_first is None else on_first.to(first.dtype)
    on_second = None if on_second is None else on_second.to(first.dtype)
    return on_first, on_second, on_scale, None, None, None


def _again(
    inputs: tuple[Tensor, Tensor, Tensor | float],
    exclusion: Exclusion,
    form: Form,
    upstream: list[Tensor | None],
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again."""
    # aliases: the same tensor may come in twice
    first, second, scale = (x.view_as(x) if isinstance(x, Tensor) else x for x in inputs)
    wanted = [x for x, need in zip((first, second, scale), needed, strict=True) if need]
    first, second = full_precision(cast(Tensor, first), cast(Tensor, second))
    sides = eager.log_sum_exps(first, second, scale, exclusion, form)[::2]
    known = [(x, g) for x, g in zip(sides, upstream, strict=True) if g is not None]
    outputs, on_outputs = zip(*known, strict=True)
    found = torch.autograd.grad(
        outputs, cast(list[Tensor], wanted), on_outputs, create_graph=True, allow_unused=True
    )
    grads = iter(found)
    return [next(grads) if need else None for need in needed]


def _summaries(
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
    b, n = len(first), len(second)
    exclusion.check(b, n)
    with no_autocast(first.device):
        passes: Any = None
        if not plain(kernel):
            passes = triton_passes(kernel, "rhyme.kernels.triton.batch", first, second) or tiles
        if passes is None or passes is tiles:
            first, second = full_precision(first, second)
        if form == "self":
            second = first  # not a second copy of it
        scale = 1 / temperature
        if isinstance(scale, Tensor):
            scale = scale.reshape(()).to(first.device, full_type(first, second))
        if passes is None:
            found = eager.log_sum_exps(first, second, scale, exclusion, form)
        else:
            found = cast(
                tuple[Tensor, ...],
                _LogSumExp.apply(first, second, scale, exclusion, form, passes),
            )
        counts = allowed(exclusion, b, n, first.device)
        with torch.no_grad():
            hardest = [largest / scale for largest in found[1::2]]
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
        ConfigError: the temperature is not positive, or the kernel unknown or not able to serve.
    """
    exclusion = Exclusion(anchor_groups, key_groups, mask, skip)
    return _summaries(anchors, keys, temperature, exclusion, "rows", kernel)[0]


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
        ConfigError: the temperature is not positive, or the kernel unknown or not able to serve.
    """
    exclusion = Exclusion(first_groups, second_groups, mask, skip)
    rows, columns = _summaries(first, second, temperature, exclusion, "both", kernel)
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
        ConfigError: the temperature is not positive, or the kernel unknown or not able to serve.
    """
    exclusion = Exclusion(groups, groups, None, skip)
    return _summaries(rows, rows, temperature, exclusion, "self", kernel)[0]
