"""Half precision: autocast around the system's step, and the scale of the loss under fp16.

Parameters, gradients, momentum copies, queues and batch-norm statistics stay in float32; autocast
lowers the operands of convolutions and matrix products. Objectives leave autocast by themselves.

The gradients of fp16 underflow, so the loss is multiplied by a scale that grows until a gradient
overflows. An overflow leaves the step out and lowers the scale: that is how the scale is found, and
no failure of the run, unless it falls below 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from rhyme.errors import ConfigError, TrainingError

PrecisionName = Literal["fp32", "bf16", "fp16"]
LOWEST_SCALE = 1.0
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """In which precision a step computes.

    Args:
        name: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: where the step computes.

    Raises:
        ConfigError: the GPU has no bf16.
    """

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        self.name, self.device = name, device
        cuda = device.type == "cuda"
        if name == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                "the GPU computes no bf16",
                stage="train",
                value=torch.cuda.get_device_name(device),
                remedy="set train.precision to fp16 or fp32",
            )
        self.scaler = GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Within it operands are lowered. Open it anew for each pass of a step."""
        if self.name == "fp32":
            return nullcontext()
        # No cache of lowered weights: one made in a pass without gradient, such as a key pass
        # through the online encoder, would be used again in one with, and lose its gradient.
        return torch.autocast(self.device.type, dtype=_TYPES[self.name], cache_enabled=False)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the scaled loss."""
        if not loss.requires_grad:
            raise TrainingError("the loss has no gradient", stage="train")
        # The gradient of a loss that is not finite is never used, but taking it keeps the ranks in
        # step: every rank calls the same collectives.
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self, optimizers: Iterable[Optimizer]) -> None:
        """Bring the gradients back to those of the loss itself, before they are measured."""
        if self.scaler is not None:
            for optimizer in optimizers:
                self.scaler.unscale_(optimizer)

    def good(self) -> None:
        """The step was finite."""
        if self.scaler is not None:
            self.scaler.update()

    def overflowed(self, loss_finite: bool) -> float | None:
        """The step was not finite: lower the scale.

        Args:
            loss_finite: whether at least the loss was; if not, the scale is not to blame.

        Returns:
            The new scale if that is all there is to say; None where the step counts as not finite.
        """
        if self.scaler is None:
            return None
        before = self.scaler.get_scale()
        if not loss_finite:
            self.scaler.update(before)
            return None
        self.scaler.update()
        after = self.scaler.get_scale()
        return after if LOWEST_SCALE <= after < before else None

    def state_dict(self) -> dict[str, Any]:
        """The scale and how long it has held; nothing without one."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved scale."""
        if self.scaler is not None:
            self.scaler.load_state_dict(dict(state))
