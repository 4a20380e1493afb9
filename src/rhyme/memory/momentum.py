"""The slowly moving copy of an encoder, which makes the keys (MoCo, arXiv 1911.05722, §3.2)."""

from __future__ import annotations

import copy
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rhyme.errors import ConfigError


class MomentumEncoder(nn.Module):
    """An exponential moving average of an encoder's parameters, without gradient.

    ``θ_k ← m θ_k + (1 − m) θ_q`` at each :meth:`update`. Buffers, i.e. batch-norm statistics, are
    never averaged: by default the copy collects its own in its own forward passes, which follow the
    system's train or eval mode.

    Only the copy is part of the state dict; the online encoder belongs to the system.

    Args:
        online: the encoder that is trained, whole: where its parameters stand is found here, and
            what is added to it later is not followed.
        momentum: m in [0, 1]; 0 copies, 1 never moves.
        buffers: ``"own"``, or ``"copied"`` to take over the online encoder's at each update.

    Attributes:
        module: the copy.

    Raises:
        ConfigError: momentum outside [0, 1] or unknown ``buffers``.
    """

    def __init__(
        self,
        online: nn.Module,
        momentum: float,
        buffers: Literal["own", "copied"] = "own",
    ) -> None:
        super().__init__()
        if buffers not in ("own", "copied"):
            raise ConfigError("buffers must be 'own' or 'copied'", value=buffers)
        self.momentum = _checked(momentum)
        self.buffers_from = buffers
        self.module = copy.deepcopy(online).requires_grad_(False)
        self._online = [online]  # in a list, so that it is no submodule of this one
        self._places = [*zip(_places(self.module), _places(online), strict=True)]

    @property
    def online(self) -> nn.Module:
        """The encoder that is followed."""
        return self._online[0]

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Whatever the copy returns for these inputs, without gradient."""
        return self.module(*inputs, **options)

    @torch.no_grad()
    def update(self, momentum: float | None = None) -> None:
        """Move the copy one step towards the online encoder.

        Args:
            momentum: m for this step, where it follows a schedule.

        Raises:
            ConfigError: momentum outside [0, 1].
        """
        m = self.momentum if momentum is None else _checked(momentum)
        mine, theirs = self._parameters_of_both()
        if mine:
            get_ema_multi_avg_fn(m)(mine, theirs, 0)  # one multi-tensor lerp with 1 − m
        if self.buffers_from == "copied":
            self._copy_buffers()

    @torch.no_grad()
    def reset(self) -> None:
        """Make the copy equal to the online encoder, e.g. after weights were loaded into that."""
        for mine, theirs in zip(*self._parameters_of_both(), strict=True):
            mine.copy_(theirs)
        self._copy_buffers()

    @torch.no_grad()
    def parameter_distance(self) -> Tensor:
        """``‖θ_q − θ_k‖ / ‖θ_q‖`` over all parameters, a scalar; 0 for equal encoders."""
        mine, theirs = self._parameters_of_both()
        if not mine:
            return torch.zeros(())
        apart = _norm([q - k for q, k in zip(theirs, mine, strict=True)])
        return apart / _norm(theirs).clamp(min=1e-12)

    def _parameters_of_both(self) -> tuple[list[Tensor], list[Tensor]]:
        # To walk two module trees in every step would take longer than to move the copy.
        mine = [getattr(part, name) for (part, name), _ in self._places]
        return mine, [getattr(part, name) for _, (part, name) in self._places]

    def _copy_buffers(self) -> None:
        for mine, theirs in zip(self.module.buffers(), self.online.buffers(), strict=True):
            mine.copy_(theirs)

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        return f"momentum={self.momentum}, buffers={self.buffers_from!r}"


def _norm(tensors: list[Tensor]) -> Tensor:
    """Norm over all tensors; of those that FSDP shares (``DTensor``), over all ranks' slices."""
    slices = [tensor for tensor in tensors if hasattr(tensor, "full_tensor")]
    whole = nn.utils.get_total_norm([t for t in tensors if not hasattr(t, "full_tensor")])
    if not slices:
        return whole
    shared = cast(Any, nn.utils.get_total_norm(slices)).full_tensor()
    return torch.hypot(whole.to(shared), shared)


def _places(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where a module's parameters stand; they may be replaced there, by slices of FSDP."""
    found: dict[int, tuple[nn.Module, str]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            found.setdefault(id(parameter), (part, name))
    return list(found.values())


def _checked(momentum: float) -> float:
    if not 0 <= momentum <= 1:
        raise ConfigError("momentum must lie in [0, 1]", value=momentum, remedy="try 0.999")
    return momentum
