"""Softmax over keys in plain PyTorch: every logit is written down, autograd does the rest.

The reference of the other implementations, and what second derivatives go through. It holds two to
three ``[b, n]`` matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rhyme.kernels.common import Exclusion, transformed


class Weights(NamedTuple):
    """The softmax of the allowed logits of each query.

    Attributes:
        weights: ``[b, n]``, 0 where a pair is left out; without meaning in rows that allow no key.
        log_sum_exp: ``[b]``; −inf in such rows.
        maximum: ``[b]``, the largest allowed logit, detached; −inf in such rows.
        allowed: int64 ``[b]``, number of allowed keys.
    """

    weights: Tensor
    log_sum_exp: Tensor
    maximum: Tensor
    allowed: Tensor


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


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``[b, n]``, log-sum-exp ``[b]`` and maximum ``[b, 1]``, the last one detached."""
    if not transformed():
        return cast(tuple[Tensor, Tensor, Tensor], _Softmax.apply(logits))
    maximum = logits.detach().amax(1, keepdim=True)
    powers = (logits - maximum).exp()
    total = powers.sum(1, keepdim=True)
    return powers / total, (maximum + total.log())[:, 0], maximum


def softmax(queries: Tensor, keys: Tensor, scale: Tensor | float, exclusion: Exclusion) -> Weights:
    """The softmax of ``scale · q·k`` over the allowed keys.

    A row without any would be −inf everywhere and give NaN gradients. It is computed as if nothing
    were left out, and the caller must replace what it makes of the weights.
    """
    scaled = queries * scale  # b·d products instead of b·n
    if not len(keys):
        nothing = queries.new_full((len(queries),), -torch.inf)
        # what follows stays in the graph, with a gradient of 0
        none = torch.zeros_like(nothing, dtype=torch.bool)
        lse = torch.where(none, scaled.sum(1) + keys.sum(), nothing)
        return Weights(scaled @ keys.T, lse, nothing, none.long())
    logits = scaled @ keys.T
    excluded = exclusion.pairs(len(queries), len(keys), queries.device)
    if excluded is None:
        allowed = torch.full((len(queries),), len(keys), device=queries.device)
    else:
        allowed = len(keys) - excluded.sum(1)
        logits = logits.masked_fill_(excluded & (allowed > 0)[:, None], -torch.inf)
    weights, lse, maximum = _softmax(logits)
    some = allowed > 0
    lse = torch.where(some, lse, -torch.inf)
    return Weights(weights, lse, torch.where(some, maximum[:, 0], -torch.inf), allowed)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    scale: Tensor | float,
    exclusion: Exclusion,
    want_mean: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """What ``forward_pass`` of the other implementations gives, as a function autograd can see.

    Arguments as in :class:`rhyme.kernels.attend.Passes`, in one dtype.

    Returns:
        Log-sum-exp ``[b]``, mean ``[b, e]`` or None, largest logit ``[b]``, allowed keys ``[b]``.
    """
    row = softmax(queries, keys, scale, exclusion)
    mean = None
    if want_mean:
        payload = keys if values is None else values
        mean = torch.where((row.allowed > 0)[:, None], row.weights @ payload, 0)
    return row.log_sum_exp, mean, row.maximum, row.allowed


def log_sum_exps(
    first: Tensor, second: Tensor, scale: Tensor | float, exclusion: Exclusion, form: str
) -> tuple[Tensor, ...]:
    """Log-sum-exp and largest logit of rows, and of columns in the form ``"both"``.

    Arguments as of :func:`rhyme.kernels.tiles.forward`; no pass of its own for the gradients.
    """
    logits = (first * scale) @ (first if form == "self" else second).T
    excluded = exclusion.pairs(len(first), len(second), first.device)
    rows = _side(logits, excluded)
    if form != "both":
        return rows
    return *rows, *_side(logits.T, None if excluded is None else excluded.T)


def _side(logits: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
    if not logits.shape[1]:
        nothing = logits.logsumexp(1)  # −inf, in the graph of the rows
        return nothing, nothing.detach()
    if excluded is None:
        return _log_sum_exp(logits)
    # a row without any pair would be −inf everywhere and give NaN gradients
    some = ~excluded.all(1)
    logits = logits.masked_fill(excluded & some[:, None], -torch.inf)
    lse, largest = _log_sum_exp(logits)
    return torch.where(some, lse, -torch.inf), torch.where(some, largest, -torch.inf)


def _log_sum_exp(logits: Tensor) -> tuple[Tensor, Tensor]:
    """And the largest; ``torch.logsumexp`` would take its gradient from the rounded result."""
    _, lse, largest = _softmax(logits)
    return lse, largest[:, 0]
