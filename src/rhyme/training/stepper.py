"""One optimiser step: loss, gradient, the check that both are finite, update."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rhyme import distributed
from rhyme.errors import ConfigError, TrainingError, nearest
from rhyme.loading.batch import Batch
from rhyme.run import RunFolder
from rhyme.systems.base import ParameterGroup, Phase, StepContext, StepOutput, System
from rhyme.training.config import ScheduleConfig, TrainConfig
from rhyme.training.optim import build_optimizers
from rhyme.training.parallel import build_parallel, clip_gradients, gradient_norm, to_slice
from rhyme.training.schedules import learning_rate
from rhyme.views.keys import fork_seed


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Generator[None]:
    """Parameters that want no gradient within."""
    kept = [p for p in parameters if p.requires_grad]
    for parameter in kept:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in kept:
            parameter.requires_grad_(True)


class Stepper:
    """The optimisers of a system's parameter groups, and the step of a phase.

    Args:
        system: the system on its device.
        config: options of the training.
        run: takes the event of a step that is not finite.

    Raises:
        ConfigError: parameter groups, phases or schedules do not fit together.
    """

    def __init__(self, system: System, config: TrainConfig, run: RunFolder) -> None:
        self.system, self.config, self.run = system, config, run
        self.parallel = build_parallel(system, config.parallel)  # before groups and optimisers
        groups = system.parameter_groups()
        self.groups = {group.name: group for group in groups}
        self.optimizers = build_optimizers(groups, config.optimizer)
        self.schedules = {name: self._schedule(g) for name, g in self.groups.items()}
        self.skipped = 0

    @property
    def pairs(self) -> dict[str, tuple[Optimizer, ParameterGroup]]:
        """Optimiser and parameter group by the group's name."""
        return {name: (self.optimizers[name], group) for name, group in self.groups.items()}

    def _schedule(self, group: ParameterGroup) -> ScheduleConfig:
        """The recipe's schedule, or the same with the name that a group carries."""
        if group.schedule is None:
            return self.config.schedule
        milestones = self.config.schedule.milestones if group.schedule == "step" else ()
        return replace(self.config.schedule, name=cast(Any, group.schedule), milestones=milestones)

    def phases(self) -> tuple[Phase, ...]:
        """The system's phases, checked against its groups."""
        phases = self.system.phases()
        if not phases or any(phase.repeats < 1 for phase in phases):
            raise ConfigError("a step needs a phase, and every phase a repeat", stage="train")
        for name in (name for phase in phases for name in phase.groups):
            if name not in self.groups:
                raise ConfigError(
                    "a phase trains a parameter group that does not exist",
                    stage="train",
                    value=name,
                    remedy=nearest(name, self.groups),
                )
        return phases

    def rates(self, step: int, steps: int, steps_per_epoch: float) -> dict[str, float]:
        """Learning rate of every group at a step."""
        base = self.config.optimizer.lr
        return {
            name: group.lr_scale
            * learning_rate(self.schedules[name], base, step, steps, steps_per_epoch)
            for name, group in self.groups.items()
        }

    def reset(self, names: Iterable[str]) -> None:
        """Forget the state of groups' optimisers."""
        for name in names:
            if name not in self.optimizers:
                raise ConfigError(
                    "no such parameter group", value=name, remedy=nearest(name, self.optimizers)
                )
            self.optimizers[name].state.clear()

    def step(
        self, batch: Batch, phase: Phase, at: StepContext, rates: Mapping[str, float]
    ) -> tuple[StepOutput, Tensor, bool]:
        """One optimiser step of a phase; every other parameter group is frozen meanwhile.

        Args:
            batch: this rank's rows, on the device.
            phase: what is trained.
            at: position in the run.
            rates: learning rate by group.

        Returns:
            The system's output, the L2 norm of the gradient before clipping, and whether the
            optimiser stepped.

        Raises:
            TrainingError: not finite, and the policy is to stop.
        """
        active = phase.groups or tuple(self.groups)
        trained = [p for name in active for _, p in self.groups[name].parameters]
        others = [p for n, g in self.groups.items() if n not in active for _, p in g.parameters]
        for parameter in trained:
            parameter.grad = None
        torch.manual_seed(fork_seed(at.seed, "dropout", at.step, phase.name, at.repeat))
        with frozen(others):
            output = self._gradients(batch, at)
        self.parallel.finish(trained)
        norm = gradient_norm(trained)
        finite = bool(torch.isfinite(output.loss.detach()) & torch.isfinite(norm))
        applied = not distributed.agree(not finite)
        if applied:
            if self.config.clip_norm is not None:
                clip_gradients(trained, self.config.clip_norm, norm)
            for name in active:
                for table in self.optimizers[name].param_groups:
                    table["lr"] = rates[name]
                self.optimizers[name].step()
            self.skipped = 0
        with torch.no_grad():
            self.system.after_step(applied)
        if not applied:
            self._not_finite(batch, output, norm, at)
        return output, norm, applied

    def _gradients(self, batch: Batch, at: StepContext) -> StepOutput:
        """Forward and backward pass."""
        try:
            output = self.parallel.training_step(batch, at)
            if not output.loss.requires_grad:
                raise TrainingError("the loss has no gradient", stage="train", value=at.phase)
            # The gradient of a loss that is not finite is never used, but taking it keeps the
            # ranks in step: every rank calls the same collectives.
            output.loss.backward()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the device ran out of memory at step {at.step}",
                stage=f"train, phase {at.phase}",
                value={
                    "items": len(batch),
                    "views": {n: v.data.shape for n, v in batch.views.items()},
                },
                remedy="lower train.batch_size, or the size or number of frames; earlier "
                "checkpoints are intact",
            ) from error
        return output

    def _not_finite(self, batch: Batch, output: StepOutput, norm: Tensor, at: StepContext) -> None:
        """Record a step that must not count, and stop where the policy says so."""
        self.skipped += 1
        numbers = {**output.parts, **output.diagnostics}
        facts: dict[str, Any] = {
            "step": at.step,
            "phase": at.phase,
            "loss": float(output.loss.detach()),
            "grad_norm": float(norm),
            "parts": {name: float(torch.as_tensor(v).detach()) for name, v in numbers.items()},
            "ids": [int(i) for i in batch.ids.tolist()],
        }
        if distributed.rank() == 0:
            self.run.event("not_finite", policy=self.config.nan, in_a_row=self.skipped, **facts)
        if self.config.nan == "skip" and self.skipped < self.config.nan_limit and self._sound():
            return
        raise TrainingError(
            f"the loss or its gradient is not finite at step {at.step}",
            stage=f"train, phase {at.phase}",
            value=facts,
            remedy="lower train.optimizer.lr or set train.clip_norm, and look at the items "
            "of the batch; earlier checkpoints are intact",
        )

    def _sound(self) -> bool:
        """Whether the skipped step left no infinity in the state (batch-norm statistics)."""
        state = cast(Mapping[str, Any], self.system.state_dict()).values()
        tensors = [v for v in state if isinstance(v, Tensor) and v.is_floating_point()]
        sound = all(bool(torch.isfinite(to_slice(t)).all()) for t in tensors)
        return not distributed.agree(not sound)
