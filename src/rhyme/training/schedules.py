"""The length of a run, and the learning rate as a pure function of the step."""

from __future__ import annotations

import bisect
import math

from rhyme.training.config import ScheduleConfig, TrainConfig


def learning_rate(
    schedule: ScheduleConfig, base: float, step: int, steps: int, steps_per_epoch: float
) -> float:
    r"""Learning rate of a step.

    With ``t`` the step (for ``per="epoch"`` the first step of its epoch), ``T`` the steps of the
    run and ``W`` those of the warm-up, the warm-up is ``lr₀ + (lr − lr₀)·t/W`` for ``t < W``, and
    then the cosine is ``lr_end + (lr − lr_end)·½(1 + cos(π (t − W)/(T − W)))``. Milestones are
    counted from the start of the run, the warm-up included.

    Args:
        schedule: its shape.
        base: peak of the learning rate.
        step: steps done before this one, from 0.
        steps: steps of the whole run.
        steps_per_epoch: steps of one pass over the data; need not be whole.

    Returns:
        The learning rate.
    """
    position = _position(schedule, step, steps_per_epoch)
    warmup = _warmup(schedule, steps, steps_per_epoch)
    if position < warmup:
        return schedule.warmup_lr + (base - schedule.warmup_lr) * position / warmup
    if schedule.name == "constant":
        return base
    if schedule.name == "step":
        unit = steps_per_epoch if schedule.per == "epoch" else 1.0
        passed = bisect.bisect_right([m * unit for m in schedule.milestones], position + 1e-9)
        return base * schedule.gamma**passed
    share = min((position - warmup) / max(steps - warmup, 1e-9), 1.0)
    return schedule.final_lr + (base - schedule.final_lr) * 0.5 * (1 + math.cos(math.pi * share))


def steps_of(config: TrainConfig, steps_per_epoch: float) -> int:
    """Steps of a whole run: those of its steps or of its epochs, whichever end first.

    Args:
        config: options of the training.
        steps_per_epoch: steps of one pass over the data; need not be whole.
    """
    ends = [] if config.steps is None else [config.steps]
    if config.epochs is not None:
        ends.append(max(math.ceil(config.epochs * steps_per_epoch - 1e-9), 1))
    return min(ends)


def never_warm(schedule: ScheduleConfig, steps: int, steps_per_epoch: float) -> bool:
    """Whether the run ends before the warm-up does, so that no step has the whole rate."""
    last = _position(schedule, steps - 1, steps_per_epoch)
    return last < _warmup(schedule, steps, steps_per_epoch)


def _position(schedule: ScheduleConfig, step: int, steps_per_epoch: float) -> float:
    """The step, or the first one of its epoch."""
    if schedule.per == "epoch":
        # The small term keeps a quotient such as 6 / 0.6 from falling into the epoch before.
        return math.floor(step / steps_per_epoch + 1e-9) * steps_per_epoch
    return float(step)


def _warmup(schedule: ScheduleConfig, steps: int, steps_per_epoch: float) -> float:
    """Steps of the warm-up."""
    warmup = schedule.warmup_epochs * steps_per_epoch or float(schedule.warmup_steps)
    return warmup or schedule.warmup_share * steps
