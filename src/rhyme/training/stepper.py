"""One optimiser step: loss, gradient, the check that both are finite, update."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rhyme import distributed
from rhyme.errors import ConfigError, TrainingError, nearest
from rhyme.loading.batch import Batch
from rhyme.systems.base import ParameterGroup, Phase, StepContext, StepOutput, System
from rhyme.training.accumulation import cached_gradients, check_divides, seed_dropout
from rhyme.training.compiling import Compiler
from rhyme.training.config import ScheduleConfig, TrainConfig
from rhyme.training.guard import Guard
from rhyme.training.log import EventLog
from rhyme.training.optim import build_optimizers
from rhyme.training.parallel import build_parallel, clip_gradients, gradient_norm
from rhyme.training.precision import Precision
from rhyme.training.schedules import learning_rate, never_warm


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
        log: takes the events.
        tell: shows a line to the user.

    Raises:
        ConfigError: parameter groups, phases or schedules do not fit together.
    """

    def __init__(
        self,
        system: System,
        config: TrainConfig,
        log: EventLog,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.system, self.config, self.log, self.tell = system, config, log, tell
        ranks = distributed.world_size()
        check_divides(system, config.accumulate, config.batch_size, ranks)
        self.parallel = build_parallel(system, config.parallel)  # before groups and optimisers
        groups = system.parameter_groups()
        self.groups = {group.name: group for group in groups}
        self.optimizers = build_optimizers(groups, config.optimizer)
        self.schedules = {name: self._schedule(g) for name, g in self.groups.items()}
        self.precision = Precision(config.precision, next(iter(system.parameters())).device)
        self.compiler = Compiler(system, config.compile, log, tell)
        self.guard = Guard(system, config, log)

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
        """Learning rate of every group at a step; at the first, tells a warm-up without end."""
        base = self.config.peak_lr
        if step == 0 and never_warm(self.config.schedule, steps, steps_per_epoch):
            self._tell_cold(base, steps)
        return {
            name: group.lr_scale
            * learning_rate(self.schedules[name], base, step, steps, steps_per_epoch)
            for name, group in self.groups.items()
        }

    def _tell_cold(self, base: float, steps: int) -> None:
        last = f"the run ends after {steps} steps, before its warm-up does"
        self.tell(
            f"warning: {last}: the learning rate never reaches {base:g}; "
            "shorten the warm-up (train.schedule.warmup_*) or train longer"
        )
        if distributed.rank() == 0:
            self.log.event("warmup_unfinished", steps=steps, lr=base)

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
            TrainingError: not finite, and the run has to stop.
            RollBack: not finite, and the run has to go back.
        """
        active = phase.groups or tuple(self.groups)
        optimizers = [self.optimizers[name] for name in active]
        trained = [p for name in active for _, p in self.groups[name].parameters]
        others = [p for n, g in self.groups.items() if n not in active for _, p in g.parameters]
        for parameter in trained:
            parameter.grad = None
        at = replace(at, parts=self.config.accumulate)
        with self.compiler.step(at.step), frozen(others):
            output = self.gradients(batch, at, trained)
        self.precision.unscale(optimizers)
        norm = gradient_norm(trained)
        applied, loss_finite = self._finite(output.loss, norm)
        if applied:
            if self.config.clip_norm is not None:
                clip_gradients(trained, self.config.clip_norm, norm)
            for name, optimizer in zip(active, optimizers, strict=True):
                for table in optimizer.param_groups:
                    table["lr"] = rates[name]
                optimizer.step()
            self.precision.good()
            self.guard.passed()
        with torch.no_grad():
            self.system.after_step(applied)
        if not applied:
            self._left_out(batch, output, norm, at, loss_finite)
        return output, norm, applied

    def gradients(self, batch: Batch, at: StepContext, trained: list[nn.Parameter]) -> StepOutput:
        """Forward and backward passes; leaves the gradients of the global batch, scaled for fp16.

        Args:
            batch: this rank's rows.
            at: position in the run.
            trained: the parameters that take gradients.
        """
        try:
            if at.parts > 1:
                output = cached_gradients(self.parallel, batch, at, self.precision)
            else:
                seed_dropout(at)
                with self.precision.autocast():
                    output = self.parallel.training_step(batch, at)
                self.precision.backward(output.loss)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the device ran out of memory at step {at.step}",
                stage=f"train, phase {at.phase}",
                value={
                    "items": len(batch),
                    "views": {n: v.data.shape for n, v in batch.views.items()},
                },
                remedy="raise train.accumulate, lower train.batch_size, or the size or number of "
                "frames; earlier checkpoints are intact",
            ) from error
        self.parallel.finish(trained)
        return output

    def _finite(self, loss: Tensor, norm: Tensor) -> tuple[bool, bool]:
        """Whether the step and its loss are finite on all ranks; waits for the device once."""
        finite = torch.stack([torch.isfinite(loss.detach()), torch.isfinite(norm)]).tolist()
        if not distributed.agree(not all(finite)):
            return True, True
        return False, not distributed.agree(not finite[0])

    def _left_out(
        self, batch: Batch, output: StepOutput, norm: Tensor, at: StepContext, loss_finite: bool
    ) -> None:
        """A step did not count: an overflow of fp16 lowers the scale, all else is the guard's."""
        scale = self.precision.overflowed(loss_finite)
        if scale is None:
            self.guard.failed(batch, output, norm, at)
        elif distributed.rank() == 0:
            self.log.event("overflow", step=at.step, phase=at.phase, scale=scale)

    def state_dict(self) -> dict[str, Any]:
        """State of the step beside the optimisers': counts, scale of the loss, compiled or not."""
        return {
            "guard": self.guard.state_dict(),
            "precision": self.precision.state_dict(),
            "compile": self.compiler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.guard.load_state_dict(state["guard"])
        self.precision.load_state_dict(state["precision"])
        self.compiler.load_state_dict(state["compile"])
