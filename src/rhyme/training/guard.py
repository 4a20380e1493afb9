"""What becomes of a run whose loss or gradient is not finite: stop, skip the step, or roll back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.errors import TrainingError
from rhyme.loading.batch import Batch
from rhyme.run import RunFolder
from rhyme.systems.base import StepContext, StepOutput, System
from rhyme.training import checkpoint
from rhyme.training.config import TrainConfig
from rhyme.training.log import EventLog
from rhyme.training.parallel import to_slice


class RollBack(Exception):
    """The loop should go back to a checkpoint of at most ``step`` steps."""

    def __init__(self, step: int, failure: TrainingError) -> None:
        super().__init__(step)
        self.step, self.failure = step, failure


def ways_back(steps: Iterable[int], step: int, config: TrainConfig) -> list[int]:
    """Of checkpoints by their steps, those of at most ``step`` steps, the one to go back to first.

    One that was written in its turn is preferred to one that a signal asked for, so that an
    interrupted run goes back to where an undisturbed one does.
    """

    def turn(found: int) -> tuple[bool, ...]:
        periods = (config.checkpoint_every, config.keep_every)
        return tuple(every is not None and found % every == 0 for every in periods)

    return sorted((s for s in steps if s <= step), key=lambda s: (turn(s), s), reverse=True)


def checkpoint_before(run: RunFolder, step: int, config: TrainConfig) -> Path | None:
    """The whole checkpoint to go back to from a step, or None; see :func:`ways_back`."""
    for found in ways_back(checkpoint.steps_on_disk(run.checkpoints), step, config):
        path = run.checkpoints / checkpoint.folder_name(found)
        if checkpoint.problem(path) is None:
            return path
    return None


class Guard:
    """Counts steps that are not finite, writes them down, and applies the policy.

    Every rank comes to the same decision: what is asked is agreed on before.

    Args:
        system: whose state is looked at after a skipped step.
        config: the policy and its limits.
        log: takes the events.
    """

    def __init__(self, system: System, config: TrainConfig, log: EventLog) -> None:
        self.system, self.config, self.log = system, config, log
        self.in_a_row = self.rolled_back = 0
        self._first = 0

    @property
    def first(self) -> int | None:
        """The first of the steps in a row that were not finite up to now; None without."""
        return self._first if self.in_a_row else None

    def passed(self) -> None:
        """A step was finite."""
        self.in_a_row = 0

    def failed(self, batch: Batch, output: StepOutput, norm: Tensor, at: StepContext) -> None:
        """A step was not finite and did not count.

        Raises:
            TrainingError: the run has to stop.
            RollBack: the run has to go back.
        """
        if not self.in_a_row:
            self._first = at.step
        self.in_a_row += 1
        numbers = {**output.parts, **output.diagnostics}
        facts: dict[str, Any] = {
            "step": at.step,
            "phase": at.phase,
            "loss": float(output.loss.detach()),
            "grad_norm": float(norm),
            "parts": {name: float(torch.as_tensor(v).detach()) for name, v in numbers.items()},
            "ids": [int(i) for ids in distributed.exchange(batch.ids.tolist()) for i in ids],
        }
        policy = self.config.nan
        if distributed.rank() == 0:
            self.log.event("not_finite", policy=policy, in_a_row=self.in_a_row, **facts)
        if policy != "stop" and self.in_a_row < self.config.nan_limit and self._sound():
            return
        failure = TrainingError(
            f"the loss or its gradient is not finite at step {at.step}",
            stage=f"train, phase {at.phase}",
            value=facts,
            remedy="lower train.optimizer.lr or set train.clip_norm, and look at the items "
            "of the batch; earlier checkpoints are intact",
        )
        if policy == "rollback" and self.rolled_back < self.config.rollbacks:
            self.in_a_row = 0
            self.rolled_back += 1
            raise RollBack(self._first, failure)
        raise failure

    def _sound(self) -> bool:
        """Whether the skipped step left no infinity in the state (batch-norm statistics)."""
        state = cast(Mapping[str, Any], self.system.state_dict()).values()
        tensors = [v for v in state if isinstance(v, Tensor) and v.is_floating_point()]
        sound = all(bool(torch.isfinite(to_slice(t)).all()) for t in tensors)
        return not distributed.agree(not sound)

    def state_dict(self) -> dict[str, int]:
        """What the next decisions depend on."""
        return {"in_a_row": self.in_a_row, "rolled_back": self.rolled_back, "first": self._first}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on counting."""
        self.in_a_row, self.rolled_back = state["in_a_row"], state["rolled_back"]
        self._first = state["first"]
