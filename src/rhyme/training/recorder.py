"""What a run tells while it goes: rows of metrics, alarms, probes, the time that is left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rhyme.errors import RhymeError
from rhyme.loading.batch import Source
from rhyme.run import append_jsonl
from rhyme.systems.base import StepOutput, System
from rhyme.training.config import TrainConfig
from rhyme.training.log import RunLog
from rhyme.training.loggers import Loggers
from rhyme.training.metrics import Window
from rhyme.training.monitors import CollapseAlarm, key_distances, watch
from rhyme.training.progress import Progress, duration

Probe = Callable[[System], Mapping[str, float]]
ESTIMATE_AFTER = 4  # steps; the first is left out of the estimate, since it warms caches up


class Recorder:
    """Counts, times and writes for the loop.

    Args:
        log: the log of the run.
        config: options of the training.
        steps: steps of the run.
        leader: whether this rank writes.
        shown: whether this rank shows progress.
    """

    def __init__(
        self, log: RunLog, config: TrainConfig, steps: int, *, leader: bool, shown: bool
    ) -> None:
        self.run, self.run_log, self.config, self.steps = log.run, log, config, steps
        self.leader, self.shown = leader, shown
        self.window = Window()
        self.alarm = CollapseAlarm(config.collapse, config.collapse_logs)
        self.still = 0  # rows in a row whose gradient was 0
        self.final_loss = float("nan")
        self.items, self.wait = 0, 0.0
        self._seconds = 0.0
        self._loggers = Loggers((), log.run)
        self.start(0)

    def start(self, step: int, passed_over: Sequence[str] | None = None) -> None:
        """Begin to measure, at the first step of this part of the run.

        Args:
            step: steps done before.
            passed_over: of a run that goes on, lines on checkpoints that could not be used.
        """
        self.first = step
        self._told: list[str] = []
        if passed_over is not None:
            self._told = [*passed_over, f"goes on from step {step} of {self.steps}"]
        self._began = time.perf_counter()
        self._paused = 0.0
        self._mark = (self._began, 0, 0.0)  # of the window: when, items and wait until then
        self._clock: deque[float] = deque(maxlen=101)
        self.progress = Progress(self.steps, done=step, shown=False)
        self._opened = False

    def say(self, text: str) -> None:
        """Tell the user a line, at the latest when progress is shown."""
        if self._opened:
            self.progress.say(text)
        else:
            self._told.append(text)

    def tell_mask(self, masked: bool | None, source: Source) -> None:
        """Say at the start whether an item's own group is left out of its negatives.

        Args:
            masked: as the system decided; None where it has no negatives, of which nothing is said.
            source: the training set.
        """
        if masked is None:
            return
        state, items, groups = "on" if masked else "off", source.items, source.groups
        self._told.append(f"same-group mask: {state} ({items} items of {groups} groups)")
        if self.leader:
            self.run.event("same_group_mask", active=masked, items=items, groups=groups)

    def open(self, device: torch.device) -> None:
        """Show progress, and write run logs, from here on."""
        self.progress = Progress(self.steps, done=self.first, shown=self.shown)
        self._opened = True
        for line in self._told:
            self.progress.say(line)
        if self.leader:
            self._loggers = Loggers(self.config.loggers, self.run, self.first, self.run_log)
        if self.steps - self.first > ESTIMATE_AFTER:
            self.progress.say(f"training on {device}: measuring {ESTIMATE_AFTER} steps ...")

    def close(self) -> None:
        """Give the terminal back and close the run logs."""
        self.progress.close()
        self._loggers.close()

    @property
    def seconds(self) -> float:
        """Seconds of training, over all parts of the run."""
        return self._seconds + time.perf_counter() - self._began

    @contextmanager
    def paused(self) -> Generator[None]:
        """Time within does not count for the rates (probes, checkpoints)."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - began

    def waited(self, seconds: float, items: int) -> None:
        """A batch of ``items`` came after ``seconds``."""
        self.wait += seconds
        self.items += items

    def count(self, output: StepOutput, norm: Tensor, prefix: str) -> None:
        """Take what a step said into the row's means."""
        self.window.add("loss", output.loss)
        self.window.add("grad_norm", norm)
        if prefix:
            self.window.add(f"parts/{prefix}loss", output.loss)
        for kind, table in (("parts", output.parts), ("diagnostics", output.diagnostics)):
            for name, value in table.items():
                self.window.add(f"{kind}/{prefix}{name}", value)

    def tick(self, step: int) -> None:
        """A step is done: move the bar, and estimate the whole time after the first few."""
        self._clock.append(time.perf_counter())
        self.progress.advance(step)
        if step - self.first == ESTIMATE_AFTER and step < self.steps:
            left = self.left(step)
            self.progress.say(f"about {duration(left)} for {self.steps - step} more steps")
            if self.leader:
                self.run_log.event("estimate", step=step, seconds_left=round(left, 1))

    def left(self, step: int) -> float:
        """Seconds to the last step, by the pace of up to a hundred steps."""
        if len(self._clock) < 2:
            pace = self._clock[0] - self._began if self._clock else 0.0
        else:
            pace = (self._clock[-1] - self._clock[0]) / (len(self._clock) - 1)
        return pace * (self.steps - step)

    def rates(self) -> tuple[float, float]:
        """Items a second and share of data wait, over this part of the run."""
        return self._rates(self._began, self.items, self.wait)

    def _rates(self, since: float, items: int, wait: float) -> tuple[float, float]:
        spent = max(time.perf_counter() - since - self._paused, 1e-9)
        return items / spent, min(wait / spent, 1.0)

    def record(
        self, step: int, epoch: int, rates: Mapping[str, float], output: StepOutput, system: System
    ) -> list[str]:
        """Write a row where one is due; else look for a collapse, where a look is.

        Returns:
            Names of the embeddings whose alarm rings.
        """
        if step == self.steps or step % self.config.log_every == 0:
            return self.log(step, epoch, rates, output, system)
        due = step % self.config.look_every == 0
        return self._alarm(step, watch(output.embeddings)) if due else []

    def log(
        self, step: int, epoch: int, rates: Mapping[str, float], output: StepOutput, system: System
    ) -> list[str]:
        """Write a row of means over the window, and begin the next window.

        Returns:
            Names of the embeddings whose alarm rings.
        """
        means = self.window.means()
        when, items, wait = self._mark
        items_per_s, wait_share = self._rates(when, self.items - items, self.wait - wait)
        monitors = watch(output.embeddings)
        self.final_loss = means.get("loss", float("nan"))
        tables = {
            kind: {n[len(kind) + 1 :]: v for n, v in means.items() if n.startswith(f"{kind}/")}
            for kind in ("parts", "diagnostics")
        }
        row: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            "loss": self.final_loss,
            **tables,
            "monitors": {**monitors, **key_distances(system)},
            "lr": max(rates.values()),
            "lrs": dict(rates),
            "grad_norm": means.get("grad_norm", float("nan")),
            "items_per_s": items_per_s,
            "wait_share": wait_share,
            "seconds": self.seconds,
            "eta": self.left(step),
        }
        self._write(row)
        self.progress.row(row)
        self.window.clear()
        self._still(step, row["grad_norm"])
        # Pauses after this moment shift the window's start, those before it do not.
        self._mark = (time.perf_counter() - self._paused, self.items, self.wait)
        return self._alarm(step, monitors)

    def _alarm(self, step: int, monitors: Mapping[str, float]) -> list[str]:
        ringing = self.alarm.see(monitors)
        for name in ringing:
            self.progress.say(f"warning: the embedding '{name}' has collapsed, see events.jsonl")
            if self.leader:
                self.run_log.event("collapse", step=step, embedding=name, monitors=monitors)
        return ringing

    def _still(self, step: int, norm: float) -> None:
        """Tell, once until it ends, of rows without any gradient: nothing is learned."""
        self.still = self.still + 1 if norm == 0 else 0
        if self.still == self.config.collapse_logs:
            self.progress.say(
                f"warning: the gradient was 0 in the last {self.still} rows, up to step {step}: "
                "nothing is learned; look at the loss and at masked_rows in metrics.jsonl"
            )
            if self.leader:
                self.run_log.event("no_gradient", step=step, rows=self.still)

    def rewound(self, seconds: float) -> None:
        """The run went back to a saved state; the time it has taken stays."""
        self._seconds += seconds - self.seconds

    def probe(self, probes: Mapping[str, Probe], system: System, step: int, epoch: int) -> None:
        """Make all probes and write their row; one that fails is an event, not the end."""
        figures: dict[str, dict[str, float]] = {}
        for name, probe in probes.items():
            try:
                with torch.no_grad():
                    measured = {k: float(v) for k, v in probe(system).items()}
            except RhymeError as error:
                if self.leader:
                    self.run_log.event("probe_failed", step=step, probe=name, reason=error.reason)
                continue
            if measured:
                figures[name] = measured
        if figures:
            row = {"step": step, "epoch": epoch, "probes": figures, "seconds": self.seconds}
            self._write(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        """Append a row; on a disk that refuses it, stop or go on without it, as was asked."""
        if self.leader:
            self._loggers.log(row)
            self.run_log.attempt(lambda: append_jsonl(self.run.metrics, row))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to write the rows of an undisturbed one."""
        return {
            "window": self.window.state_dict(),
            "alarm": self.alarm.state_dict(),
            "still": self.still,
            "final_loss": self.final_loss,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.window.load_state_dict(state["window"])
        self.alarm.load_state_dict(state["alarm"])
        self.still = int(state.get("still", 0))  # older checkpoints do not have it
        self.final_loss = float(state["final_loss"])
        self._seconds = float(state["seconds"])
