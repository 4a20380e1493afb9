"""Training steps on this rank's rows, along one of the ways in which ranks can share a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rhyme import distributed
from rhyme.loading.batch import Batch
from rhyme.systems.base import StepContext, System
from rhyme.training.metrics import Window
from rhyme.training.monitors import key_distances
from rhyme.training.parallel import Parallel, Replicated, Sharded, whole

ENGINES: dict[str, type[Parallel]] = {"plain": Parallel, "ddp": Replicated, "fsdp": Sharded}


def my_rows(batch: Batch) -> Batch:
    """This rank's rows of a global batch."""
    return batch[distributed.rank_slice(len(batch))]


def trace(
    system: System, engine: str, steps: Iterable[tuple[Callable[[], Batch], StepContext]]
) -> dict[str, Tensor]:
    """Plain SGD steps; what they say, and the whole state afterwards.

    Losses, whole gradients by name, how far the keys' encoder is behind, and in float64 what the
    log says of the step.

    Args:
        system: fresh, the same on all ranks.
        engine: a key of :data:`ENGINES`; on one rank the system is called as it is.
        steps: this rank's batch and the context of each step; each trains the groups of its phase.
    """
    kind = ENGINES[engine] if distributed.world_size() > 1 else Parallel
    parallel = kind(system)
    phases = {phase.name: phase for phase in system.phases()}
    found: dict[str, Tensor] = {}
    for number, (batch, at) in enumerate(steps):
        groups = {group.name: dict(group.parameters) for group in system.parameter_groups()}
        active = phases[at.phase].groups or tuple(groups)
        trained = {f"{g}/{n}": p for g in active for n, p in groups[g].items()}
        frozen = [p for g in groups if g not in active for p in groups[g].values()]
        for parameter in trained.values():
            parameter.grad = None
        for parameter in frozen:
            parameter.requires_grad_(False)
        torch.manual_seed(at.step)
        output = parallel.training_step(batch(), at)
        output.loss.backward()
        for parameter in frozen:
            parameter.requires_grad_(True)
        parallel.finish(trained.values())
        if kind is Parallel:
            distributed.average_gradients(trained.values())
        found[f"{number}/loss"] = output.loss.detach()
        if output.loss.dtype is torch.float64:
            window = Window()
            for name, value in {**output.parts, **output.diagnostics}.items():
                window.add(name, value)
            for name, mean in window.means().items():
                found[f"{number}/told/{name}"] = torch.tensor(mean, dtype=torch.float64)
        with torch.no_grad():
            for name, parameter in trained.items():
                if parameter.grad is not None:
                    found[f"{number}/gradient/{name}"] = whole(parameter.grad).clone()
                    parameter -= 0.1 * parameter.grad
            system.after_step(True)
            for name, value in key_distances(system).items():
                found[f"{number}/{name}"] = torch.tensor(value, dtype=torch.float64)
    with parallel.whole():
        return found | {f"state/{name}": t.clone() for name, t in system.state_dict().items()}


def without_dropout(module: nn.Module) -> None:
    """Dropout draws for the rows that a rank holds, so its draws differ with their number."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


def assert_same(found: dict[str, Any], alone: dict[str, Any], tolerance: float, where: str) -> None:
    """Every value within the tolerance of its scale, which is 1 in float64.

    In float32 the scale of a gradient is the largest of its step, since those before a batch norm
    are a difference of large terms; that of a batch norm's mean, which is such a difference too,
    its deviation; and that of any other value its own largest entry.
    """
    assert found.keys() == alone.keys(), where
    for name, value in alone.items():
        if not value.is_floating_point():
            assert torch.equal(found[name], value), f"{name} {where}"
            continue
        scale = 1.0
        if value.dtype is torch.float32:
            step, _, kind = name.partition("/")
            alike = [v for n, v in alone.items() if n.startswith(f"{step}/{kind.split('/')[0]}")]
            family = alike if kind.startswith("gradient") else [value]
            scale = max(float(v.abs().max()) for v in family if v.numel())
            if name.endswith("running_mean"):
                spread = alone[name.replace("running_mean", "running_var")].sqrt()
                scale = max(scale, float(spread.max()))
        difference = float((found[name] - value).abs().max()) if value.numel() else 0.0
        assert difference <= tolerance * scale, f"{name} {where}: {difference / scale:.2e}"
