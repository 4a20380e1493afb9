"""The one training loop.

It decides the order of things and nothing about the method: phases and losses are the system's,
batches the source's, ranks are ``rhyme.distributed``'s. On a laptop::

    run = RunFolder.create("runs/first", config)
    Trainer(system, source, TrainConfig(steps=100, device="cpu"), run).fit()

Every number that a step draws is a function of the run seed and the step, so the state of a run is
what its checkpoint lists, and a resumed run on a CPU ends with the same bits as an undisturbed one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rhyme import distributed
from rhyme.encoders.features import InferencePlan
from rhyme.errors import ConfigError, DataError, TrainingError
from rhyme.loading.batch import Batch, Source
from rhyme.run import RunFolder
from rhyme.signals import StopRequest
from rhyme.systems.base import RunContext, StepContext, StepOutput, System
from rhyme.training.config import TrainConfig
from rhyme.training.environment import (
    deterministic,
    environment,
    lay_out,
    process,
    resolve_device,
)
from rhyme.training.guard import RollBack
from rhyme.training.log import RunLog
from rhyme.training.metrics import forget_rows_after
from rhyme.training.monitors import collapse_error
from rhyme.training.packages import load_module
from rhyme.training.parallel import check_ranks
from rhyme.training.recorder import Probe, Recorder
from rhyme.training.saving import Saver
from rhyme.training.schedules import steps_of
from rhyme.training.stepper import Stepper
from rhyme.training.stopping import common_cause, preempted


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run has to say.

    Attributes:
        steps: steps of the run.
        seconds: time spent in training, over all its parts.
        final_loss: the loss of the last row of metrics (mean over its window).
        items_per_second: items a second in this part of the run.
        wait_share: share of this part's time that was spent waiting for data.
    """

    steps: int
    seconds: float
    final_loss: float
    items_per_second: float
    wait_share: float


class Trainer:
    """Trains a system on a source within a run folder.

    Args:
        system: the system, its weights drawn.
        source: its batches; left open at the end.
        config: options of the training.
        run: the run folder.
        probes: measurements by name, each ``system -> figures``; made every
            ``config.probe_every`` steps and after the last one.
        progress: False for no progress on standard error.
        features: for systems that ask for it: ``(plan, module) -> [items, d]`` in item order.
        load: for systems that ask for it: reads an encoder package; by default from a folder.
        stop: asked after each step, with the steps done, whether to save and stop there.
        about: entries for the cards of exported packages.
        extra: plain data to store in them, such as the groups that were trained on.

    Raises:
        ConfigError: options that do not fit together, or a device that is absent.
        DataError: the source has no whole batch.
        TrainingError: the system cannot run on several ranks.
    """

    def __init__(
        self,
        system: System,
        source: Source,
        config: TrainConfig,
        run: RunFolder,
        *,
        probes: Mapping[str, Probe] | None = None,
        progress: bool | None = None,
        features: Callable[[InferencePlan, nn.Module], Tensor] | None = None,
        load: Callable[[str], nn.Module] | None = None,
        stop: Callable[[int], bool] | None = None,
        about: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.device = resolve_device(config.device)
        self.system = lay_out(system.to(self.device), config.channels_last)
        self.source, self.config, self.run = source, config, run
        self.probes = dict(probes or {})
        self._features, self._load, self._asked = features, load, stop
        self._leader = distributed.rank() == 0
        self._check()
        self.log = RunLog(run, config.save_errors, self._say)
        self.stepper = Stepper(self.system, config, self.log, tell=self._say)
        # Every repeat of a phase takes a batch, so an epoch may have fewer steps than batches.
        repeats = sum(phase.repeats for phase in self.stepper.phases())
        self.steps_per_epoch = source.batches_per_epoch / repeats
        self.steps = steps_of(config, self.steps_per_epoch)
        self.step = self.batches = 0
        self._begun: int | None = None
        self._iterator: Iterator[Batch] | None = None
        shown = progress is not False and self._leader
        self.recorder = Recorder(self.log, config, self.steps, leader=self._leader, shown=shown)
        self.saver = Saver(
            self.system,
            self.stepper,
            source,
            config,
            run,
            self.device,
            self._counters,
            say=self._say,
            about=about,
            extra=extra,
        )

    def _say(self, text: str) -> None:
        self.recorder.say(text)

    def _check(self) -> None:
        if self.source.batches_per_epoch < 1:
            raise DataError(
                "the data has no whole batch",
                stage="train",
                value={"items": self.source.items, "batch_size": self.source.batch_size},
                remedy="lower train.batch_size or give more items",
            )
        if self.source.batch_size != self.config.batch_size:
            raise ConfigError(
                "the source has another batch size than the training options",
                stage="train",
                value={"source": self.source.batch_size, "train": self.config.batch_size},
            )
        check_ranks(self.system)

    # -- the run ---------------------------------------------------------------------------------

    def fit(self, resume: bool = False) -> TrainResult:
        """Train to the last step, and export.

        Args:
            resume: go on from the newest whole checkpoint; from the start where there is none.

        Raises:
            TrainingError: a loss or gradient is not finite; earlier checkpoints stay.
            Preempted: a signal asked to stop; the state is saved.
            CheckpointError: there is a checkpoint and ``resume`` is False, or it cannot be used.
        """
        with StopRequest() as request, deterministic(self.config.deterministic), self.saver:
            self.system.train()
            with self.stepper.parallel.whole():
                self.system.setup(self._context())
            self._start(resume)
            try:
                self.recorder.open(self.device)
                self._train(request)
            finally:
                self.recorder.close()
                self._drop_iterator()
            items_per_second, wait_share = self.recorder.rates()
            seconds = self.recorder.seconds
            with self.stepper.parallel.whole():
                self.system.finish(self._context())
            self.saver.export(self.step, last=True)
            if self._leader:
                self.log.event("finished", step=self.step, seconds=round(seconds, 3))
        return TrainResult(
            steps=self.step,
            seconds=seconds,
            final_loss=self.recorder.final_loss,
            items_per_second=items_per_second,
            wait_share=wait_share,
        )

    def _start(self, resume: bool) -> None:
        """Load the newest checkpoint, or make sure that there is none."""
        path = self.saver.find(resume)
        facts = environment(self.device)
        if path is not None:
            before = self._restore(path)
            changed = {k: [before.get(k), v] for k, v in facts.items() if before.get(k) != v}
            facts["changed"] = changed
        self.recorder.start(self.step, self.saver.passed_over if resume else None)
        self.recorder.tell_mask(self.system.mask_same_group, self.source)
        if self._leader:
            redone = forget_rows_after(self.run, self.step) if resume else 0
            facts |= {"rows_redone": redone, "process": process()}
            what = "started" if path is None else "resumed"
            self.log.event(what, step=self.step, steps=self.steps, **facts)

    def _train(self, request: StopRequest) -> None:
        config, recorder = self.config, self.recorder
        while self.step < self.steps:
            self._begin_epoch()
            rates = self.stepper.rates(self.step, self.steps, self.steps_per_epoch)
            try:
                output = self._step(rates)
            except RollBack as back:
                self._roll_back(back)
                continue
            self.step += 1
            recorder.tick(self.step)
            last = self.step == self.steps
            collapsed = recorder.record(self.step, self._epoch(), rates, output, self.system)
            with recorder.paused():
                if self.probes and (last or self._due(config.probe_every)):
                    with self.stepper.parallel.whole():
                        recorder.probe(self.probes, self.system, self.step, self._epoch())
                    self.system.train()
                asked = request.name or ("request" if self._stop_asked() else None)
                stopped = common_cause(asked)
                if last or stopped:
                    self.saver.save(self.step, last=True)
                elif self._due(config.checkpoint_every) or self._due(config.keep_every):
                    self.saver.save(self.step)
                if self._due(config.export_every) and not last:
                    self.saver.export(self.step)
                    self.system.train()
                if config.collapse_stop and distributed.agree(bool(collapsed)):
                    self.saver.save(self.step, last=True)
                    raise collapse_error(collapsed, self.step)
            if stopped and not last:
                if self._leader:
                    self.log.event("preempted", step=self.step, cause=stopped)
                raise preempted(stopped, self.step, self.steps, self.run.path)

    def _roll_back(self, request: RollBack) -> None:
        """Go back to a checkpoint, but read on: the batches that failed are not met again."""
        path = self.saver.before(request.step)
        if path is None:
            raise request.failure
        self._drop_iterator()
        ahead, batches = self.source.state_dict(), self.batches
        guard, seconds = self.stepper.guard.state_dict(), self.recorder.seconds
        self._restore(path)
        self.saver.forget_after(self.step)
        self.source.load_state_dict(ahead)
        self.batches = batches
        self.stepper.guard.load_state_dict(guard)
        self.recorder.rewound(seconds)
        self._say(f"not finite after step {request.step}: back to {path.name}")
        if self._leader:
            self.log.attempt(lambda: forget_rows_after(self.run, self.step))
            count, most = guard["rolled_back"], self.config.rollbacks
            self.log.event("rolled_back", step=request.step, to=self.step, number=count, of=most)

    def _stop_asked(self) -> bool:
        return self._asked is not None and self._asked(self.step)

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _step(self, rates: Mapping[str, float]) -> StepOutput:
        """All phases of a step, each repeat with a fresh batch."""
        output: StepOutput | None = None
        phases = self.stepper.phases()
        for phase in phases:
            for repeat in range(phase.repeats):
                batch = self._next()
                at = StepContext(
                    step=self.step,
                    steps=self.steps,
                    epoch=self._begun or 0,
                    phase=phase.name,
                    repeat=repeat,
                    seed=self.config.seed,
                )
                output, norm, applied = self.stepper.step(batch, phase, at, rates)
                if applied:
                    prefix = f"{phase.name}/" if len(phases) > 1 else ""
                    self.recorder.count(output, norm, prefix)
                self.source.observe(output)
        assert output is not None
        return output

    # -- data ------------------------------------------------------------------------------------

    def _next(self) -> Batch:
        """The next batch on the device; the wait for it is measured."""
        began = time.perf_counter()
        if self._iterator is None:
            self._iterator = iter(self.source.batches())
        batch = next(self._iterator, None)
        if batch is None:
            raise DataError("the source ran dry", stage="train", value=type(self.source).__name__)
        batch = batch.to(self.device)
        items = len(batch) * distributed.world_size()
        self.recorder.waited(time.perf_counter() - began, items)
        self.batches += 1
        return batch

    def _drop_iterator(self) -> None:
        """Leave the running pass; the next one starts at the source's position."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()
        self._iterator = None

    def _epoch(self) -> int:
        return self.batches // self.source.batches_per_epoch

    def _begin_epoch(self) -> None:
        """Call the system's hook once for every epoch, also across a resume."""
        if self._begun != self._epoch():
            self._begun = self._epoch()
            with self.stepper.parallel.whole():
                self.system.begin_epoch(self._context())
            self.system.train()

    # -- what hooks may ask ----------------------------------------------------------------------

    def _context(self) -> RunContext:
        return RunContext(
            items=self.source.items,
            groups=self.source.groups,
            batch_size=self.source.batch_size,
            steps=self.steps,
            epoch=self._epoch(),
            seed=self.config.seed,
            features=self._features,
            load=self._load or load_module,
            set_sampler_weights=self._set_sampler_weights,
            reset_optimiser=self._reset_optimiser,
        )

    def _set_sampler_weights(self, weights: Tensor) -> None:
        """Hand weights to the source, and drop what it read ahead under the old ones."""
        take = getattr(self.source, "set_sampler_weights", None)
        if take is None:
            raise TrainingError(
                "the source takes no sampler weights",
                stage="train",
                value=type(self.source).__name__,
                remedy="use a source that samples items by weight",
            )
        if len(weights) != self.source.items:
            raise TrainingError(
                "the sampler wants one weight an item",
                stage="train",
                value={"weights": len(weights), "items": self.source.items},
            )
        self._drop_iterator()
        take(weights)

    def _reset_optimiser(self, names: Iterable[str]) -> None:
        self.stepper.reset(names)

    # -- state -----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state of the run: tensors by flat name, and JSON data with the items' schema."""
        return self.saver.state()

    def _counters(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "batches": self.batches,
            "begun": self._begun,
            "stepper": self.stepper.state_dict(),
            "recorder": self.recorder.state_dict(),
        }

    def _restore(self, path: Path) -> dict[str, Any]:
        """Go on from a checkpoint; returns the environment it was written in."""
        counters, before = self.saver.restore(path)
        self.step, self.batches = counters["step"], counters["batches"]
        self._begun = counters["begun"]
        self.stepper.load_state_dict(counters["stepper"])
        self.recorder.load_state_dict(counters["recorder"])
        return before
