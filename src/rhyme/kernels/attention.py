r"""Softmax over a queue: its log-sum-exp and its weighted mean.

With queries *q*, keys *u* and temperature τ, both functions look at the same softmax

    l_ij = q_i·u_j / τ,   lse_i = log Σ_j exp l_ij,   α_ij = exp(l_ij − lse_i).

InfoNCE over a queue needs ``lse`` only, and its gradient is ``∂lse/∂q = (Σ_j α_ij u_j)/τ``. The
soft nearest neighbour is ``Σ_j α_ij u_j`` itself; its entropy is ``lse_i − q_i·(Σ_j α_ij u_j)/τ``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rhyme.errors import DataError, UnknownName, nearest
from rhyme.kernels.common import (
    Temperature,
    check_rows,
    check_temperature,
    excluded_pairs,
    full_precision,
    no_autocast,
)

Kernel = Literal["auto", "eager"]
"""Which implementation computes: ``"auto"`` chooses."""

_KERNELS = ("auto", "eager")


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


class _Logits(NamedTuple):
    weights: Tensor  # [b, n] exp(logit − maximum); 0 where excluded
    total: Tensor  # [b] their sum
    maximum: Tensor  # [b] detached
    allowed: Tensor  # [b] number of pairs that may meet


def _check_kernel(kernel: str) -> None:
    if kernel not in _KERNELS:
        raise UnknownName("unknown kernel", value=kernel, remedy=nearest(kernel, _KERNELS))


def _softmax_parts(
    queries: Tensor, keys: Tensor, temperature: Temperature, excluded: Tensor | None
) -> _Logits:
    """Exponentials of the logits, shifted by the row's maximum; rows with nothing stay finite."""
    scaled = queries / temperature  # b·d divisions instead of b·n
    logits = scaled @ keys.T
    if excluded is None:
        allowed = torch.full((len(queries),), len(keys), device=queries.device)
    else:
        allowed = len(keys) - excluded.sum(1)
        # An all-excluded row would be −inf everywhere and give NaN gradients: it is computed as if
        # nothing were excluded, and its results are replaced by the caller.
        logits = logits.masked_fill_(excluded & (allowed > 0)[:, None], -torch.inf)
    maximum = logits.detach().amax(1)
    weights = (logits - maximum[:, None]).exp_()
    return _Logits(weights, weights.sum(1), maximum, allowed)


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
    _check_kernel(kernel)
    check_temperature(temperature)
    check_rows(queries, keys)
    excluded = excluded_pairs(queries, keys, query_groups, key_groups, mask)
    with no_autocast(queries.device):
        queries, keys, temperature = _with_full_precision(queries, keys, temperature)
        if not len(keys):
            nothing = queries.new_full((len(queries),), -torch.inf)
            return QueueSummary(nothing, nothing, torch.zeros_like(nothing, dtype=torch.int64))
        parts = _softmax_parts(queries, keys, temperature, excluded)
        some = parts.allowed > 0
        lse = torch.where(some, parts.maximum + parts.total.log(), -torch.inf)
        with torch.no_grad():
            hardest = torch.where(some, parts.maximum * temperature, -torch.inf)
        return QueueSummary(lse, hardest, parts.allowed)


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
    _check_kernel(kernel)
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
    excluded = excluded_pairs(queries, support, query_groups, support_groups, mask)
    with no_autocast(queries.device):
        queries, support, temperature = _with_full_precision(queries, support, temperature)
        payload = support if values is None else values.to(queries.dtype)
        if len(support):
            parts = _softmax_parts(queries, support, temperature, excluded)
        else:
            zero = queries.new_zeros(len(queries))
            # the product keeps the empty result in the graph of the queries
            parts = _Logits(queries @ support.T, zero + 1, zero, zero.long())
        some = parts.allowed > 0
        lse = torch.where(some, parts.maximum + parts.total.log(), -torch.inf)
        weights = parts.weights
        expected: Tensor | float = 0.0  # the mean logit, of which entropy = lse − expected
        if self_key is None:
            scale = torch.where(some, 1 / parts.total, 0)
            mean = (weights @ payload) * scale[:, None]
        else:
            own_logit = (queries * self_key.to(queries.dtype)).sum(1) / temperature
            support_lse, lse = lse, torch.logaddexp(lse, own_logit)
            own = (own_logit - lse).exp()
            scale = (support_lse - lse).exp() / parts.total
            mean = (weights @ payload) * scale[:, None] + own[:, None] * queries
            expected = (own * own_logit).detach()
        with torch.no_grad():
            is_support_mean = values is None and self_key is None
            support_mean = mean if is_support_mean else (weights @ support) * scale[:, None]
            expected = (queries * support_mean).sum(1) / temperature + expected
            entropy = torch.where(lse > -torch.inf, (lse - expected).clamp(min=0), 0)
        return SoftNeighbourSummary(mean, lse, entropy, parts.allowed)


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
    excluded = excluded_pairs(queries, support, query_groups, support_groups, mask)
    with no_autocast(queries.device):
        queries, support, temperature = _with_full_precision(queries, support, temperature)
        if not len(support):
            return queries.new_zeros(len(queries), 0)
        parts = _softmax_parts(queries, support, temperature, excluded)
        total = parts.total
        if self_key is not None:
            own_logit = (queries * self_key.to(queries.dtype)).sum(1) / temperature
            total = total + (own_logit - parts.maximum).exp()
        return parts.weights * torch.where(parts.allowed > 0, 1 / total, 0)[:, None]
