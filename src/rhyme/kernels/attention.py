r"""Softmax over a queue: its log-sum-exp and its weighted mean.

With queries *q*, keys *u* and temperature τ, both functions look at the same softmax

    l_ij = q_i·u_j / τ,   lse_i = log Σ_j exp l_ij,   α_ij = exp(l_ij − lse_i).

InfoNCE over a queue needs ``lse`` only, and its gradient is ``∂lse/∂q = (Σ_j α_ij u_j)/τ``. The
soft nearest neighbour is ``Σ_j α_ij u_j`` itself; its entropy is ``lse_i − q_i·(Σ_j α_ij u_j)/τ``.
So one pass over the keys that sums up ``exp l_ij`` and ``exp l_ij · u_j`` answers both, and where
only the queries want the gradient of ``lse`` there is no backward pass at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from rhyme.errors import DataError
from rhyme.kernels import eager, streaming
from rhyme.kernels.common import (
    Exclusion,
    Found,
    Kernel,
    Temperature,
    check_kernel,
    check_rows,
    check_temperature,
    full_precision,
    no_autocast,
    triton_passes,
)


class QueueSummary(NamedTuple):
    """What one pass over a queue says about each query.

    Attributes:
        log_sum_exp: ``[b]``, with gradient; −inf where no key is allowed.
        hardest: ``[b]`` largest inner product with an allowed key, detached; −inf without one.
        allowed: int64 ``[b]``, number of allowed keys.
    """

    log_sum_exp: Tensor
    hardest: Tensor
    allowed: Tensor


class SoftNeighbourSummary(NamedTuple):
    """The softmax-weighted mean of a support for each query.

    Attributes:
        mean: ``[b, d]``, with gradient; 0 where nothing is allowed.
        log_sum_exp: ``[b]``, with gradient; −inf where nothing is allowed.
        entropy: ``[b]`` of the weights in nats, detached; 0 where nothing is allowed.
        allowed: int64 ``[b]``, number of allowed support rows (without the query's own slot).
    """

    mean: Tensor
    log_sum_exp: Tensor
    entropy: Tensor
    allowed: Tensor


class Passes(Protocol):
    """The two passes over the keys that an implementation brings; autograd does not look inside."""

    def forward_pass(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor | None,
        scale: Tensor | float,
        exclusion: Exclusion,
        want_mean: bool,
    ) -> Found:
        """Log-sum-exp, mean, largest logit and number of allowed keys of each query.

        Args:
            queries: ``[b, d]``.
            keys: ``[n, d]``.
            values: ``[n, e]``; None averages the keys.
            scale: 1/τ, a number or a scalar.
            exclusion: pairs that do not meet.
            want_mean: whether the mean is needed.

        Returns:
            Logits are ``scale · q·k``. Rows without an allowed key: −inf, 0, −inf, 0.
        """
        ...

    def backward_pass(
        self,
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
        """The gradients of queries, keys and values.

        With ``p = exp(l − lse)``, the gradient of a logit is ``p (g·v − g·mean + h)``.

        Args:
            queries: as in the forward pass, like those up to ``exclusion``.
            keys: as said.
            values: as said; None adds the gradient of the values to that of the keys.
            scale: as said.
            exclusion: as said.
            log_sum_exp: ``[b]`` from the forward pass.
            mean: ``[b, e]`` from it; needed with ``grad_mean``.
            grad_mean: g ``[b, e]``, 0 in rows without an allowed key; None for none.
            grad_lse: h ``[b]``, 0 in such rows; None for none. One of both is given.
            need_queries: whether this gradient is needed, like the next two.
            need_keys: as said.
            need_values: as said; never without values.
        """
        ...


class _Attend(torch.autograd.Function):
    """Gradients of both passes, whatever implements them."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor | None,
        scale: Tensor | float,
        exclusion: Exclusion,
        passes: Passes,
        want_mean: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor]:
        payload = values
        if values is not None and want_mean:
            # the mean of the keys beside that of the values: the entropy needs it
            payload = torch.cat([values, keys.to(values.dtype)], 1)
        lse, mean, maximum, allowed = passes.forward_pass(
            queries, keys, payload, scale, exclusion, want_mean
        )
        key_mean = None
        if mean is not None:
            key_mean = mean.clone() if values is None else mean[:, values.shape[1] :].clone()
            mean = mean if values is None else mean[:, : values.shape[1]].contiguous()
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(maximum, allowed, *([] if key_mean is None else [key_mean]))
        learned = scale if isinstance(scale, Tensor) else None
        ctx.save_for_backward(queries, keys, values, learned, lse, mean, key_mean, allowed)
        ctx.settings = (None if learned is not None else scale, exclusion, passes)
        return lse, mean, key_mean, maximum, allowed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        queries, keys, values, scale, lse, mean, key_mean, allowed = ctx.saved_tensors
        fixed, exclusion, passes = ctx.settings
        scale = fixed if scale is None else scale
        grad_lse, grad_mean = grads[:2]
        if grad_lse is None and grad_mean is None:
            return (None,) * 7
        if torch.is_grad_enabled():
            found = _differentiable(
                queries, keys, values, scale, exclusion, grads[:2], ctx.needs_input_grad[:4]
            )
            return (*found, None, None, None)
        need_queries, need_keys, need_values, need_scale = ctx.needs_input_grad[:4]
        need_queries = need_queries or need_scale
        some = allowed > 0
        grad_lse = None if grad_lse is None else torch.where(some, grad_lse, 0)
        grad_mean = None if grad_mean is None else torch.where(some[:, None], grad_mean, 0)
        need_values = need_values and grad_mean is not None
        on_queries = None
        known = grad_mean is None and key_mean is not None and need_queries
        if known:
            on_queries = key_mean * (grad_lse * scale)[:, None]
        on_keys = on_values = None
        if need_keys or need_values or (need_queries and not known):
            found, on_keys, on_values = passes.backward_pass(
                queries,
                keys,
                values,
                scale,
                exclusion,
                lse,
                mean,
                grad_mean,
                grad_lse,
                need_queries and not known,
                need_keys,
                need_values,
            )
            on_queries = on_queries if found is None else found
        on_scale = None
        if need_scale:
            # logits are scale · q·k, so scale ∂/∂scale = q·∂/∂q
            on_scale = (queries * cast(Tensor, on_queries)).sum() / scale
        return on_queries, on_keys, on_values, on_scale, None, None, None


def _differentiable(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    grads: tuple[Tensor | None, Tensor | None],
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of the inputs as functions that can be differentiated again."""
    # aliases: the same tensor may come in as two arguments
    inputs = [t.view_as(t) if isinstance(t, Tensor) else t for t in (queries, keys, values, scale)]
    queries, keys, values, scale = cast(Any, inputs)
    lse, mean, _, _ = eager.attend(queries, keys, values, scale, exclusion, grads[1] is not None)
    outputs = [(out, g) for out, g in zip((lse, mean), grads, strict=True) if g is not None]
    wanted = [cast(Tensor, t) for t, need in zip(inputs, needed, strict=True) if need]
    found = iter(
        torch.autograd.grad(
            [cast(Tensor, out) for out, _ in outputs],
            wanted,
            [g for _, g in outputs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if need else None for need in needed]


def _passes(kernel: Kernel, queries: Tensor, keys: Tensor, values: Tensor | None) -> Passes | None:
    """The implementation, None for the plain one."""
    if kernel == "eager":
        return None
    found = triton_passes(kernel, "rhyme.kernels.triton", queries, keys, values)
    return streaming if found is None else cast(Passes, found)


class _Answer(NamedTuple):
    log_sum_exp: Tensor
    mean: Tensor | None
    key_mean: Tensor | None  # detached
    maximum: Tensor
    allowed: Tensor
    scale: Tensor | float


def _attend(
    kernel: Kernel,
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    temperature: Temperature,
    exclusion: Exclusion,
    want_mean: bool,
) -> _Answer:
    check_kernel(kernel)
    check_temperature(temperature)
    check_rows(queries, keys)
    exclusion.check(len(queries), len(keys))
    passes = _passes(kernel, queries, keys, values)
    if passes is None or passes is streaming:
        queries, keys, *rest = full_precision(queries, keys, *([] if values is None else [values]))
        values = rest[0] if rest else None
    wide = full_precision(queries[:0], keys[:0])[0].dtype
    scale = 1 / temperature
    if isinstance(scale, Tensor):
        scale = scale.reshape(()).to(queries.device, wide)
    if passes is None:
        found = eager.attend(queries, keys, values, scale, exclusion, want_mean)
        key_mean = found[1]
        if key_mean is not None:
            with torch.no_grad():
                key_mean = key_mean.detach()
                if values is not None:
                    key_mean = eager.attend(queries, keys, None, scale, exclusion, True)[1]
        return _Answer(found[0], found[1], key_mean, found[2], found[3], scale)
    if torch.is_grad_enabled():
        # the mean of the keys is the gradient of the log-sum-exp
        learned = isinstance(scale, Tensor) and scale.requires_grad
        want_mean = want_mean or queries.requires_grad or learned
    found: Any = _Attend.apply(queries, keys, values, scale, exclusion, passes, want_mean)
    return _Answer(*found, scale=scale)


def queue_log_sum_exp(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: Temperature,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    mask: Tensor | None = None,
    skip: Tensor | None = None,
    kernel: Kernel = "auto",
) -> QueueSummary:
    """``log Σ_j exp(q_i·k_j / τ)`` over the keys that each query may meet.

    Args:
        queries: ``[b, d]``.
        keys: ``[n, d]``; ``n = 0`` is allowed.
        temperature: τ > 0, a number or a learned scalar.
        query_groups: int64 ``[b]``; keys of the same group are left out.
        key_groups: int64 ``[n]``.
        mask: bool ``[b, n]``, True leaves the pair out.
        skip: int64 ``[b, m]``, keys that each query leaves out by index; −1 is none.
        kernel: the implementation.

    Returns:
        See :class:`QueueSummary`. Gradients reach queries, keys and temperature; in rows without an
        allowed key they are 0.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive, or the kernel unknown or not able to serve.
    """
    exclusion = Exclusion(query_groups, key_groups, mask, skip)
    with no_autocast(queries.device):
        found = _attend(kernel, queries, keys, None, temperature, exclusion, want_mean=False)
        with torch.no_grad():
            hardest = found.maximum / found.scale
        return QueueSummary(found.log_sum_exp, hardest, found.allowed)


def soft_neighbour(
    queries: Tensor,
    support: Tensor,
    *,
    temperature: Temperature,
    query_groups: Tensor | None = None,
    support_groups: Tensor | None = None,
    mask: Tensor | None = None,
    self_key: Tensor | None = None,
    values: Tensor | None = None,
    kernel: Kernel = "auto",
) -> SoftNeighbourSummary:
    """The mean of the support under the softmax of its similarities to each query.

    Args:
        queries: ``[b, d]``.
        support: ``[s, d]``; ``s = 0`` is allowed.
        temperature: τ > 0, a number or a learned scalar.
        query_groups: int64 ``[b]``; support rows of the same group are left out.
        support_groups: int64 ``[s]``.
        mask: bool ``[b, s]``, True leaves the pair out.
        self_key: ``[b, d]``; adds to each query's support one slot with logit ``q·self_key / τ``
            whose value is the query itself, with its gradient.
        values: ``[s, e]`` averaged instead of the support's own rows.
        kernel: the implementation.

    Returns:
        See :class:`SoftNeighbourSummary`.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive, or the kernel unknown or not able to serve.
    """
    if values is not None and len(values) != len(support):
        raise DataError(
            "values must give one row for each support row", value=(len(values), len(support))
        )
    if self_key is not None and self_key.shape != queries.shape:
        raise DataError(
            "self_key must have the queries' shape",
            value=(tuple(self_key.shape), tuple(queries.shape)),
        )
    exclusion = Exclusion(query_groups, support_groups, mask)
    with no_autocast(queries.device):
        found = _attend(kernel, queries, support, values, temperature, exclusion, want_mean=True)
        lse, mean, scale = found.log_sum_exp, cast(Tensor, found.mean), found.scale
        queries = queries.to(mean.dtype)
        with torch.no_grad():
            expected = (queries * cast(Tensor, found.key_mean)).sum(1) * scale  # the mean logit
        if self_key is not None:
            own_logit = (queries * self_key.to(queries.dtype)).sum(1) * scale
            ahead = own_logit - lse
            own = ahead.sigmoid()  # the weight of the query's own slot
            mean = mean * (-ahead).sigmoid()[:, None] + queries * own[:, None]
            with torch.no_grad():
                expected = torch.lerp(expected, own_logit, own)
            lse = torch.logaddexp(lse, own_logit)
        with torch.no_grad():
            entropy = torch.where(lse > -torch.inf, (lse - expected).clamp(min=0), 0)
        return SoftNeighbourSummary(mean, lse, entropy, found.allowed)


@torch.no_grad()
def neighbour_weights(
    queries: Tensor,
    support: Tensor,
    *,
    temperature: Temperature,
    query_groups: Tensor | None = None,
    support_groups: Tensor | None = None,
    mask: Tensor | None = None,
    self_key: Tensor | None = None,
) -> Tensor:
    """The weights ``[b, s]`` behind :func:`soft_neighbour`, for display and evaluation.

    Rows sum to 1 (less the weight of the query's own slot if ``self_key`` is given), or to 0 where
    nothing is allowed. Arguments and errors as there; no gradient.
    """
    check_temperature(temperature)
    check_rows(queries, support)
    exclusion = Exclusion(query_groups, support_groups, mask)
    exclusion.check(len(queries), len(support))
    with no_autocast(queries.device):
        queries, support = full_precision(queries, support)
        scale = 1 / temperature
        scale = scale.to(queries) if isinstance(scale, Tensor) else scale
        row = eager.softmax(queries, support, scale, exclusion)
        share = torch.where(row.allowed > 0, torch.ones_like(row.maximum), 0)
        if self_key is not None:
            own_logit = (queries * self_key.to(queries.dtype)).sum(1) * scale
            share = (row.log_sum_exp - own_logit).sigmoid()
        return row.weights * share[:, None]
