r"""Softmax over a queue: its log-sum-exp and its weighted mean.

With queries *q*, keys *u* and temperature τ, both functions look at the same softmax

    l_ij = q_i·u_j / τ,   lse_i = log Σ_j exp l_ij,   α_ij = exp(l_ij − lse_i).

InfoNCE over a queue needs ``lse`` only, and its gradient is ``∂lse/∂q = (Σ_j α_ij u_j)/τ``. The
soft nearest neighbour is ``Σ_j α_ij u_j`` itself; its entropy is ``lse_i − q_i·(Σ_j α_ij u_j)/τ``.
So one pass over the keys that sums up ``exp l_ij`` and ``exp l_ij · u_j`` answers both, and where
only the queries want the gradient of ``lse`` there is no backward pass at all.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from rhyme.errors import DataError
from rhyme.kernels import eager
from rhyme.kernels.attend import attend
from rhyme.kernels.common import (
    Exclusion,
    Kernel,
    Temperature,
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
        found = attend(kernel, queries, keys, None, temperature, exclusion, want_mean=False)
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
    _check_self_key(self_key, queries)
    exclusion = Exclusion(query_groups, support_groups, mask)
    with no_autocast(queries.device):
        found = attend(kernel, queries, support, values, temperature, exclusion, want_mean=True)
        lse, mean, scale = found.log_sum_exp, cast(Tensor, found.mean), found.scale
        expected = cast(Tensor, found.expected)
        if self_key is not None:
            queries = queries.to(mean.dtype)
            own_logit = (queries * self_key.to(queries.dtype)).sum(1) * scale
            ahead = own_logit - lse
            own = ahead.sigmoid()  # the weight of the query's own slot
            mean = mean * (-ahead).sigmoid()[:, None] + queries * own[:, None]
            with torch.no_grad():
                expected = torch.lerp(expected, own_logit, own)
            lse = torch.logaddexp(lse, own_logit)
        with torch.no_grad():
            entropy = (lse - expected).clamp(min=0)  # 0 where nothing is allowed: -inf - 0
        return SoftNeighbourSummary(mean, lse, entropy, found.allowed)


def _check_self_key(self_key: Tensor | None, queries: Tensor) -> None:
    if self_key is not None and self_key.shape != queries.shape:
        raise DataError(
            "self_key must have the queries' shape",
            value=(tuple(self_key.shape), tuple(queries.shape)),
            remedy="give each query a row, e.g. self_key.expand(len(queries), -1)",
        )


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
    _check_self_key(self_key, queries)
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
