"""Optimisers: torch's SGD and AdamW, our LARS, and one of them for every parameter group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rhyme.errors import ConfigError, nearest
from rhyme.systems.base import ParameterGroup
from rhyme.training.config import OptimizerConfig
from rhyme.training.parallel import whole

_TORCH = cast(Any, torch)  # its multi-tensor operations carry no types


class Lars(Optimizer):
    r"""Layer-wise adaptive rate scaling (arXiv 1708.03888), in the form that SimCLR trains with.

    For a tensor ``w`` with gradient ``g``::

        g ← g + wd · w
        trust = η ‖w‖ / ‖g‖   if both norms are positive, else 1
        v ← μ v + lr · trust · g
        w ← w − v

    The learning rate sits inside the velocity, so a change of the rate acts on new gradients only.
    A group with ``trust=False`` keeps trust at 1. As in SimCLR's code, :func:`build_optimizers`
    leaves the same parameters out of decay and trust: those of fewer than two dimensions, and
    ``plain_groups``. With ``decay_norm_and_bias=True`` the former take both.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: μ.
        weight_decay: wd.
        eta: η.
        trust: whether the trust ratio scales the step.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        trust: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "eta": eta,
            "trust": trust,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; a closure is evaluated first, as in torch's optimisers."""
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step a group in a few multi-tensor operations, without a wait for the device."""
        given = [p.grad for p in parameters]
        gradients = _TORCH._foreach_add(given, parameters, alpha=group["weight_decay"])
        if group["trust"]:
            of_weights, of_gradients = (
                torch.stack([whole(norm) for norm in _TORCH._foreach_norm(tensors)])
                for tensors in (parameters, gradients)
            )
            usable = (of_weights > 0) & (of_gradients > 0)
            ratios = torch.where(usable, group["eta"] * of_weights / of_gradients, 1.0)
            _TORCH._foreach_mul_(gradients, list(ratios.unbind()))
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        velocities = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        _TORCH._foreach_mul_(velocities, group["momentum"])
        _TORCH._foreach_add_(velocities, gradients, alpha=group["lr"])
        _TORCH._foreach_sub_(parameters, velocities)


def _split(group: ParameterGroup, config: OptimizerConfig) -> list[dict[str, Any]]:
    """A system's group as one or two of the optimiser's: with decay and trust, and without.

    ``decay_norm_and_bias=True`` gives both to biases and normalisation, ``plain_groups`` neither to
    any.
    """
    decay = config.weight_decay if group.weight_decay is None else group.weight_decay
    full: list[nn.Parameter] = []
    bare: list[nn.Parameter] = []
    for _, parameter in group.parameters:
        whole = config.decays_all or parameter.ndim > 1
        (full if whole and group.name not in config.plain_groups else bare).append(parameter)
    tables: list[dict[str, Any]] = []
    for parameters, on in ((full, True), (bare, False)):
        if parameters:
            table: dict[str, Any] = {"params": parameters, "weight_decay": decay if on else 0.0}
            if config.name == "lars":
                table["trust"] = on
            tables.append(table)
    return tables


def build_optimizers(
    groups: Iterable[ParameterGroup], config: OptimizerConfig
) -> dict[str, Optimizer]:
    """One optimiser for each parameter group, by the group's name.

    Separate optimisers leave the momentum of a frozen group as it is while another one steps.

    Args:
        groups: a system's parameter groups.
        config: which optimiser, and with what.

    Raises:
        ConfigError: a group is empty, two share a name or a parameter, or ``plain_groups`` names
            one that does not exist.
    """
    optimizers: dict[str, Optimizer] = {}
    seen: dict[int, str] = {}
    for group in groups:
        if group.name in optimizers:
            raise ConfigError("two parameter groups share a name", stage="train", value=group.name)
        if not group.parameters:
            raise ConfigError("a parameter group is empty", stage="train", value=group.name)
        for name, parameter in group.parameters:
            if id(parameter) in seen:
                other = seen[id(parameter)]
                raise ConfigError(
                    "a parameter is trained twice",
                    stage="train",
                    value=[other, f"{group.name}:{name}"],
                )
            seen[id(parameter)] = f"{group.name}:{name}"
        optimizers[group.name] = _build(_split(group, config), config)
    for name in config.plain_groups:
        if name not in optimizers:
            raise ConfigError(
                "plain_groups names no parameter group",
                stage="train",
                value=name,
                remedy=nearest(name, optimizers),
            )
    return optimizers


def _build(tables: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
    if config.name == "adamw":
        return torch.optim.AdamW(tables, lr=config.lr, betas=config.betas, eps=config.eps)
    if config.name == "lars":
        return Lars(tables, lr=config.lr, momentum=config.momentum, eta=config.eta)
    return torch.optim.SGD(tables, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
