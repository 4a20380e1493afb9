r"""Softmax over a queue: its log-sum-exp and its weighted mean.

With queries *q*, keys *u* and temperature τ, both functions look at the same softmax

    l_ij = q_i·u_j / τ,   lse_i = log Σ_j exp l_ij,   α_ij = exp(l_ij − lse_i).

InfoNCE over a queue needs ``lse`` only, and its gradient is ``∂lse/∂q = (Σ_j α_ij u_j)/τ``. The
soft nearest neighbour is ``Σ_j α_ij u_j`` itself; its entropy is ``lse_i − q_i·(Σ_j α_ij u_j)/τ``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rhyme.errors import DataError
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


class _Row(NamedTuple):
    weights: Tensor  # [b, n] softmax; 0 where excluded
    log_sum_exp: Tensor  # [b] of the allowed logits; −inf where there are none
    maximum: Tensor  # [b] of the allowed logits, detached; −inf where there are none
    allowed: Tensor  # [b] number of pairs that may meet


class _Softmax(torch.autograd.Function):
    """Weights, log-sum-exp and maximum of each row in one pass; only the weights are kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maximum = logits.amax(1, keepdim=True)
        weights = (logits - maximum).exp_()
        total = weights.sum(1, keepdim=True)
        weights /= total
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weights)
        ctx.mark_non_differentiable(maximum)
        return weights, (maximum + total.log())[:, 0], maximum

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (weights,) = ctx.saved_tensors
        on_weights, on_lse, _ = grads
        if on_weights is None:
            return None if on_lse is None else weights * on_lse[:, None]
        inner = (weights * on_weights).sum(1, keepdim=True)
        if on_lse is not None:
            inner = inner - on_lse[:, None]
        return (on_weights - inner).mul_(weights)


def _excluded(queries: Tensor, keys: Tensor, exclusion: Exclusion) -> Tensor | None:
    exclusion.check(len(queries), len(keys))
    return exclusion.pairs(len(queries), len(keys), queries.device)


def _softmax(
    queries: Tensor, keys: Tensor, temperature: Temperature, excluded: Tensor | None
) -> _Row:
    """The softmax of the allowed logits of each row; a row without any has weights of no meaning.

    Such a row would be −inf everywhere and give NaN gradients. It is computed as if nothing were
    excluded, and the caller must replace what it makes of the weights.
    """
    if not len(keys):
        nothing = queries.new_full((len(queries),), -torch.inf)
        # the empty product keeps what follows in the graph of the queries
        return _Row(queries @ keys.T, nothing, nothing, torch.zeros_like(nothing).long())
    logits = (queries / temperature) @ keys.T  # b·d divisions instead of b·n
    if excluded is None:
        allowed = torch.full((len(queries),), len(keys), device=queries.device)
    else:
        allowed = len(keys) - excluded.sum(1)
        logits = logits.masked_fill_(excluded & (allowed > 0)[:, None], -torch.inf)
    weights, lse, maximum = cast(tuple[Tensor, Tensor, Tensor], _Softmax.apply(logits))
    some = allowed > 0
    lse = torch.where(some, lse, -torch.inf)
    return _Row(weights, lse, torch.where(some, maximum[:, 0], -torch.inf), allowed)


def _with_full_precision(
    queries: Tensor, keys: Tensor, temperature: Temperature
) -> tuple[Tensor, Tensor, Temperature]:
    queries, keys = full_precision(queries, keys)
    if isinstance(temperature, Tensor):
        temperature = temperature.to(queries)
    return queries, keys, temperature


def queue_log_sum_exp(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: Temperature,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    mask: Tensor | None = None,
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
        kernel: the implementation.

    Returns:
        See :class:`QueueSummary`. Gradients reach queries, keys and temperature; in rows without an
        allowed key they are 0.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive, or the kernel unknown.
    """
    check_kernel(kernel)
    check_temperature(temperature)
    check_rows(queries, keys)
    excluded = _excluded(queries, keys, Exclusion(query_groups, key_groups, mask))
    with no_autocast(queries.device):
        queries, keys, temperature = _with_full_precision(queries, keys, temperature)
        row = _softmax(queries, keys, temperature, excluded)
        with torch.no_grad():
            hardest = row.maximum * temperature
        return QueueSummary(row.log_sum_exp, hardest, row.allowed)


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
        ConfigError: the temperature is not positive, or the kernel unknown.
    """
    check_kernel(kernel)
    check_temperature(temperature)
    check_rows(queries, support)
    if values is not None and len(values) != len(support):
        raise DataError(
            "values must give one row for each support row", value=(len(values), len(support))
        )
    if self_key is not None and self_key.shape != queries.shape:
        raise DataError(
            "self_key must have the queries' shape",
            value=(tuple(self_key.shape), tuple(queries.shape)),
        )
    excluded = _excluded(queries, support, Exclusion(query_groups, support_groups, mask))
    with no_autocast(queries.device):
        queries, support, temperature = _with_full_precision(queries, support, temperature)
        payload = support if values is None else values.to(queries.dtype)
        row = _softmax(queries, support, temperature, excluded)
        some = (row.allowed > 0)[:, None]
        lse = row.log_sum_exp
        mean = support_mean = torch.where(some, row.weights @ payload, 0)
        if values is not None:
            with torch.no_grad():
                support_mean = torch.where(some, row.weights @ support, 0)
        with torch.no_grad():
            expected = (queries * support_mean).sum(1) / temperature  # the mean logit
        if self_key is not None:
            own_logit = (queries * self_key.to(queries.dtype)).sum(1) / temperature
            ahead = own_logit - lse
            own = ahead.sigmoid()  # the weight of the query's own slot
            mean = mean * (-ahead).sigmoid()[:, None] + queries * own[:, None]
            with torch.no_grad():
                expected = torch.lerp(expected, own_logit, own)
            lse = torch.logaddexp(lse, own_logit)
        with torch.no_grad():
            entropy = torch.where(lse > -torch.inf, (lse - expected).clamp(min=0), 0)
        return SoftNeighbourSummary(mean, lse, entropy, row.allowed)


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
    excluded = _excluded(queries, support, Exclusion(query_groups, support_groups, mask))
    with no_autocast(queries.device):
        queries, support, temperature = _with_full_precision(queries, support, temperature)
        row = _softmax(queries, support, temperature, excluded)
        share = torch.where(row.allowed > 0, torch.ones_like(row.maximum), 0)
        if self_key is not None:
            own_logit = (queries * self_key.to(queries.dtype)).sum(1) / temperature
            share = (row.log_sum_exp - own_logit).sigmoid()
        return row.weights * share[:, None]
