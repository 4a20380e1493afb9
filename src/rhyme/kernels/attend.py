"""Attention to a queue: the two passes that an implementation brings, and their gradients."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

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
    full_type,
    no_autocast,
    plain,
    triton_passes,
)


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
        """The softmax of each query over its allowed keys.

        Args:
            queries: ``[b, d]``.
            keys: ``[n, d]``.
            values: ``[n, e]``; None averages the keys.
            scale: 1/τ, a number or a scalar.
            exclusion: pairs that do not meet.
            want_mean: whether the mean is needed.

        Returns:
            See :class:`rhyme.kernels.common.Found`. Logits are ``scale · q·k``. Without an allowed
            key log-sum-exp and maximum are −inf, all else 0.
        """
        ...

    def backward_pass(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor | None,
        scale: Tensor | float,
        exclusion: Exclusion,
        powers: Tensor,
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
            powers: ``[2, b]`` from the forward pass.
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
        want_expected: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor]:
        payload = values
        if values is not None and want_mean:
            # the mean of the keys beside that of the values: the entropy needs it
            payload = torch.cat([values, keys.to(values.dtype)], 1)
        found = passes.forward_pass(queries, keys, payload, scale, exclusion, want_mean)
        mean, other, expected = found.mean, None, found.expected if want_expected else None
        if mean is not None:
            key_mean = mean
            if values is not None:
                key_mean = other = mean[:, values.shape[1] :]
                mean = mean[:, : values.shape[1]].contiguous()
            if want_expected and expected is None:
                expected = (queries * key_mean).sum(1) * scale
        rest = [found.maximum, found.allowed, *([] if expected is None else [expected])]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*rest)
        learned = scale if isinstance(scale, Tensor) else None
        # The mean of the keys may be an output itself; it is saved once then.
        saved = queries, keys, values, learned, found.powers, mean, other, found.allowed
        ctx.save_for_backward(*saved)
        ctx.settings = (None if learned is not None else scale, exclusion, passes)
        return found.log_sum_exp, mean, expected, found.maximum, found.allowed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # it may be called where the forward pass was not: within autocast
        with no_autocast(ctx.saved_tensors[0].device):
            return _gradients(ctx, grads)


def _gradients(ctx: Any, grads: tuple[Any, ...]) -> Any:
    """What a node hands back for each of its inputs."""
    queries, keys, values, scale, powers, mean, key_mean, allowed = ctx.saved_tensors
    key_mean = mean if values is None else key_mean
    fixed, exclusion, passes = ctx.settings
    scale = fixed if scale is None else scale
    grad_lse, grad_mean = grads[:2]
    if grad_lse is None and grad_mean is None:
        return (None,) * 8
    if torch.is_grad_enabled():
        found = _differentiable(
            queries, keys, values, scale, exclusion, grads[:2], ctx.needs_input_grad[:4]
        )
        return (*found, None, None, None, None)
    need_queries, need_keys, need_values, need_scale = ctx.needs_input_grad[:4]
    need_queries = need_queries or need_scale
    if not exclusion.empty or not len(keys):
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
            powers,
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
    return on_queries, on_keys, on_values, on_scale, None, None, None, None


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
    if plain(kernel):
        return None
    found = triton_passes(kernel, "rhyme.kernels.triton", queries, keys, values)
    return streaming if found is None else cast(Passes, found)


class Answer(NamedTuple):
    """What attention found, with gradients.

    Attributes:
        log_sum_exp: ``[b]``; −inf where no key is allowed.
        mean: ``[b, e]``, of the values, if it was wanted; 0 where no key is allowed.
        expected: ``[b]`` mean logit under the weights, detached, if the mean was wanted; 0 where no
            key is allowed.
        maximum: ``[b]`` largest logit, detached.
        allowed: int64 ``[b]``, number of allowed keys.
        scale: 1/τ, in the type that was computed in.
    """

    log_sum_exp: Tensor
    mean: Tensor | None
    expected: Tensor | None
    maximum: Tensor
    allowed: Tensor
    scale: Tensor | float


def attend(
    kernel: Kernel,
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    temperature: Temperature,
    exclusion: Exclusion,
    want_mean: bool,
) -> Answer:
    """Attention of queries to keys, by the implementation asked for; without autocast.

    Args:
        kernel: the implementation.
        queries: ``[b, d]``.
        keys: ``[n, d]``.
        values: ``[n, e]``; None averages the keys.
        temperature: τ > 0, a number or a learned scalar.
        exclusion: pairs that do not meet.
        want_mean: whether the mean is needed.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive, or the kernel unknown or not able to serve.
    """
    check_kernel(kernel)
    check_temperature(temperature)
    check_rows(queries, keys)
    exclusion.check(len(queries), len(keys))
    passes = _passes(kernel, queries, keys, values)
    if passes is None or passes is streaming:
        queries, keys, *rest = full_precision(queries, keys, *([] if values is None else [values]))
        values = rest[0] if rest else None
    scale = 1 / temperature
    if isinstance(scale, Tensor):
        scale = scale.reshape(()).to(queries.device, full_type(queries, keys))
    if passes is None:
        found = eager.attend(queries, keys, values, scale, exclusion, want_mean)
        expected = None
        if found[1] is not None:
            with torch.no_grad():
                key_mean = found[1]
                if values is not None:
                    key_mean = eager.attend(queries, keys, None, scale, exclusion, True)[1]
                expected = (queries * cast(Tensor, key_mean)).sum(1) * scale
        return Answer(found[0], found[1], expected, found[2], found[3], scale)
    want_expected = want_mean
    if torch.is_grad_enabled():
        # the mean of the keys is the gradient of the log-sum-exp
        learned = isinstance(scale, Tensor) and scale.requires_grad
        want_mean = want_mean or queries.requires_grad or learned
    found: Any = _Attend.apply(
        queries, keys, values, scale, exclusion, passes, want_mean, want_expected
    )
    return Answer(*found, scale=scale)
