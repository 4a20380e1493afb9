"""Precision and masks shared by all kernels."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from rhyme.errors import ConfigError, DataError, UnknownName, nearest

Temperature = float | Tensor

Kernel = Literal["auto", "eager", "streaming", "triton"]
"""Which implementation computes: ``"auto"`` chooses."""

_KERNELS = ("auto", "eager", "streaming", "triton")


class Found(NamedTuple):
    """What a pass over the keys finds for each query.

    Attributes:
        powers: ``[2, b]``, what the backward pass weighs keys by: the largest logit in base 2, −inf
            without an allowed key, and the sum of 2^(logit − largest). The two are kept apart:
            their log-sum-exp in one number would be rounded by 2^(size of the logits − 24).
        mean: ``[b, e]``, or None where it is not wanted.
        log_sum_exp: ``[b]``.
        maximum: ``[b]``, the largest logit.
        allowed: int64 ``[b]``, number of allowed keys.
        expected: ``[b]``, the mean logit, 0 without an allowed key, if keys were averaged and the
            pass brings it; None otherwise.
    """

    powers: Tensor
    mean: Tensor | None
    log_sum_exp: Tensor
    maximum: Tensor
    allowed: Tensor
    expected: Tensor | None = None


def weighing(powers: Tensor) -> tuple[Tensor, Tensor]:
    """What weights are made of: ``2^(l − level) · share``.

    Args:
        powers: ``[2, n]``, see :class:`Found`.

    Returns:
        Level and share, ``[n]`` each; 0 and 0 where nothing is allowed. NaN stays.
    """
    largest, total = powers
    return torch.where(largest == -torch.inf, 0, largest), torch.where(total == 0, 0, 1 / total)


def check_kernel(kernel: str) -> None:
    """Refuse a name that is no implementation.

    Raises:
        UnknownName: as said, with the nearest name.
    """
    if kernel not in _KERNELS:
        raise UnknownName("unknown kernel", value=kernel, remedy=nearest(kernel, _KERNELS))


def transformed() -> bool:
    """Whether a transform of ``torch.func`` (grad, vmap, jvp, ...) is looking at what is computed.

    Autograd functions with gradients of their own cannot be transformed further, and under
    ``vmap`` no value may be looked at.
    """
    bindings = torch._C  # pyright: ignore[reportPrivateUsage]  # there is no public way to ask
    active = getattr(bindings, "_are_functorch_transforms_active", None)
    return active is not None and bool(active())


def plain(kernel: Kernel) -> bool:
    """Whether the plain form computes: asked for, or chosen because of ``torch.func``.

    Raises:
        ConfigError: under ``torch.func`` another one was asked for by name.
    """
    if kernel in ("auto", "eager"):
        return kernel == "eager" or transformed()
    if transformed():
        raise ConfigError(
            "torch.func (grad, vmap, jvp, ...) goes through the plain form only",
            value=kernel,
            remedy='kernel="eager", or "auto", which takes it there; torch.autograd takes any',
        )
    return False


def triton_passes(kernel: Kernel, module: str, *inputs: Tensor | None) -> Any | None:
    """The module of passes in Triton, or None where another implementation computes.

    Args:
        kernel: what was asked for; ``"auto"`` is Triton on a GPU.
        module: its name. It has ``refusal(*inputs)``: why it does not compute these tensors, None
            if it does. It gets them in their own dtypes.
        inputs: the tensors; the first one says where they lie.

    Raises:
        ConfigError: Triton was asked for by name and does not serve.
    """
    device = inputs[0].device.type if inputs[0] is not None else "cpu"
    if kernel != "triton" and not (kernel == "auto" and device == "cuda"):
        return None
    if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            "the triton kernel computes on a GPU", value=device, remedy='leave it at "auto"'
        )
    try:
        passes = cast(Any, importlib.import_module(module))
        refusal = passes.refusal(*inputs)
    except ImportError as error:
        passes, refusal = None, f"it cannot be imported: {error}"
    if refusal is None:
        return passes
    if kernel == "triton":
        raise ConfigError(
            "the triton kernel does not serve here", value=refusal, remedy='leave it at "auto"'
        )
    return None


def full_type(*tensors: Tensor) -> torch.dtype:
    """The type to compute in: float64 if any of the tensors is, else float32."""
    return torch.float64 if any(t.dtype is torch.float64 for t in tensors) else torch.float32


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the one type of :func:`full_type`."""
    dtype = full_type(*tensors)
    return tuple(t.to(dtype) for t in tensors)


def no_autocast(device: torch.device) -> torch.autocast:
    """Switches autocast off, under which a matrix product would fall back to half precision."""
    return torch.autocast(device.type, enabled=False)


def check_temperature(temperature: Temperature) -> None:
    """Refuse a temperature that is no positive number.

    Raises:
        ConfigError: as said, or a tensor of several numbers. The value of a learned one is looked
            at on a CPU alone: looking would stall a GPU.
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise ConfigError(
                "a temperature must be one number",
                value=tuple(temperature.shape),
                remedy="give a scalar; scale the rows where each has its own",
            )
        if temperature.device.type != "cpu" or torch.compiler.is_compiling() or transformed():
            return
        value = float(temperature.detach())
        remedy = "learn its logarithm, or clamp it after each step"
    else:
        value, remedy = temperature, "try 0.07"
    if not 0 < value < float("inf"):
        raise ConfigError("a temperature must be positive and finite", value=value, remedy=remedy)


def check_rows(queries: Tensor, keys: Tensor) -> None:
    """Refuse anything but ``[b, d]`` against ``[n, d]``.

    Raises:
        DataError: as said.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise DataError(
            "expected queries [b, d] and keys [n, d] of one dimension d",
            value=(tuple(queries.shape), tuple(keys.shape)),
        )
    if not (queries.is_floating_point() and keys.is_floating_point()):
        raise DataError(
            "queries and keys must be real numbers",
            value=(str(queries.dtype), str(keys.dtype)),
            remedy="give them as a float type",
        )


@dataclass(frozen=True)
class Exclusion:
    """The pairs of queries and keys that must not meet; each part may be absent.

    Implementations look at the parts themselves, so that no ``[b, n]`` matrix need exist;
    :meth:`pairs` is the whole of them, for the plain one.

    Attributes:
        query_groups: int64 ``[b]``, owners; a query and a key of one owner do not meet. A negative
            id is nobody's and matches nothing.
        key_groups: int64 ``[n]``; both or neither.
        mask: bool ``[b, n]``, True leaves the pair out.
        skip: int64 ``[b, m]``, keys that each query leaves out by index, e.g. itself. An index may
            occur twice; −1 is none.
    """

    query_groups: Tensor | None = None
    key_groups: Tensor | None = None
    mask: Tensor | None = None
    skip: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether every pair may meet."""
        skips = self.skip is not None and self.skip.shape[1] > 0
        return self.query_groups is None and self.mask is None and not skips

    def check(self, b: int, n: int) -> None:
        """Refuse parts that do not fit ``b`` queries and ``n`` keys.

        Raises:
            DataError: shapes or types do not fit, only one side has groups, or ``skip`` names a key
                that is not there. Its values are looked at on a CPU alone: looking would stall a
                GPU.
        """
        if (self.query_groups is None) != (self.key_groups is None):
            raise DataError("groups are needed on both sides, or on neither")
        if self.query_groups is not None and self.key_groups is not None:
            found = (tuple(self.query_groups.shape), (b,), tuple(self.key_groups.shape), (n,))
            if found[0] != found[1] or found[2] != found[3]:
                raise DataError("groups must give one id for each row", value=found)
        if self.mask is not None and self.mask.shape != (b, n):
            raise DataError("the mask must be [b, n]", value=(tuple(self.mask.shape), (b, n)))
        if self.skip is not None and (self.skip.ndim != 2 or len(self.skip) != b):
            raise DataError("skip must be [b, m]", value=(tuple(self.skip.shape), (b, "m")))
        for name in ("query_groups", "key_groups", "skip"):
            part = getattr(self, name)
            if part is not None and part.dtype not in (torch.int64, torch.int32):
                raise DataError(f"{name} must be integers", value=str(part.dtype))
        if self.mask is not None and self.mask.dtype is not torch.bool:
            raise DataError(
                "the mask must be of type bool, True leaves a pair out",
                value=str(self.mask.dtype),
                remedy="give mask != 0",
            )
        skip = self.skip
        if skip is None or not skip.numel() or skip.device.type != "cpu" or transformed():
            return
        if not torch.compiler.is_compiling() and int(skip.max()) >= n:
            raise DataError(
                "skip names a key that is not there",
                value=(int(skip.max()), n),
                remedy="number the keys from 0; -1 names none",
            )

    def pairs(self, b: int, n: int, device: torch.device) -> Tensor | None:
        """The excluded pairs, bool ``[b, n]``, or None if every pair may meet."""
        excluded = None
        if self.query_groups is not None and self.key_groups is not None:
            # -2 on one side: "nobody's" does not match "nobody's"
            known = torch.where(self.query_groups < 0, -2, self.query_groups)
            excluded = known[:, None] == torch.where(self.key_groups < 0, -1, self.key_groups)[None]
        if self.mask is not None:
            excluded = self.mask if excluded is None else excluded | self.mask
        if self.skip is not None:
            # one column more takes the indices that mean none
            own = torch.zeros(b, n + 1, dtype=torch.bool, device=device)
            own.scatter_(1, torch.where(self.skip < 0, n, self.skip), True)
            excluded = own[:, :n] if excluded is None else excluded | own[:, :n]
        return excluded
