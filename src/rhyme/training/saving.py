"""What a run writes to go on from, and what it leaves: checkpoints and packages.

The trainer says when; a :class:`Saver` knows what belongs to the state, and brings it to the disk
and back. The first rank writes, where tensors are cut each rank its slices, and all ranks learn
whether it went well. Checkpoints are written in the background, one at a time: a failure comes out
at the next save, or at the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.errors import (
    CheckpointError,
    PackageError,
    RhymeError,
    RunError,
    disk_trouble,
    from_facts,
)
from rhyme.loading.batch import Source
from rhyme.run import RunFolder
from rhyme.systems.base import System
from rhyme.training import checkpoint
from rhyme.training.config import TrainConfig
from rhyme.training.environment import environment
from rhyme.training.guard import checkpoint_before, ways_back
from rhyme.training.newest import check_same, latest
from rhyme.training.packages import export_packages
from rhyme.training.parallel import is_slice, to_slice
from rhyme.training.state import (
    check_identity,
    collect,
    data_facts,
    identity,
    restore,
)
from rhyme.training.stepper import Stepper
from rhyme.training.together import save_together
from rhyme.training.writer import Background, Copies

SLOW = 1.0  # seconds of waiting for a write that are worth a word


class Saver:
    """Checkpoints and packages of one run.

    Args:
        system: the system on its device.
        stepper: its optimisers.
        source: its batches.
        config: options of the training.
        run: the run folder.
        device: where the run computes.
        counters: the trainer's own state, as it is at the call.
        say: tells the user a line.
        about: entries for the cards of exported packages.
        extra: plain data to store in them.

    Within it (``with saver:``) saves are made; leaving it waits for the one in flight.
    """

    def __init__(
        self,
        system: System,
        stepper: Stepper,
        source: Source,
        config: TrainConfig,
        run: RunFolder,
        device: torch.device,
        counters: Callable[[], Mapping[str, Any]],
        *,
        say: Callable[[str], None],
        about: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.system, self.stepper, self.source = system, stepper, source
        self.config, self.run, self.device = config, run, device
        self._counters, self._say = counters, say
        self._about, self._extra = dict(about or {}), dict(extra or {})
        self._leader = distributed.rank() == 0
        self.passed_over: list[str] = []  # what `find` has to say of damaged checkpoints
        self._saved: int | None = None
        self._slow = False
        self._copies, self._background = Copies(), Background()
        if distributed.world_size() > 1:
            distributed.saving_group()  # made here, where all ranks are, and used in the background

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state of the run: tensors by flat name, and JSON data with the items' schema."""
        tensors, state = collect(self.system, self.stepper.pairs, self.source, self._counters())
        state["config"] = identity(self.system, self.config)
        state["data"] = data_facts(self.source)
        state["environment"] = environment(self.device)
        return tensors, state

    def save(self, step: int, *, last: bool = False) -> None:
        """Save the state as it is now, unless this step's is saved.

        The state is copied before this returns; it is written in the background, where
        ``async_save`` is set. A save waits for the one before it.

        Args:
            step: steps done.
            last: nothing follows: return when the state is on the disk.

        Raises:
            CheckpointError: the disk refuses this checkpoint or, where errors stop the run, the
                one before; on all ranks alike. Earlier checkpoints stay.
        """
        failure = self._save(step, last)
        # The others wait for the leader: a rank that leaves early takes the whole job down.
        if distributed.agree(failure is not None):
            mine = disk_trouble(failure) if isinstance(failure, OSError) else failure
            facts = mine.facts() if isinstance(mine, RhymeError) else None
            told = [f for f in distributed.exchange(facts) if f is not None]
            # whichever rank is heard first, it names the cause
            raise failure or (from_facts(told[0]) if told else CheckpointError("not saved"))

    def _save(self, step: int, last: bool) -> BaseException | None:
        """What all ranks do, with one decision; returns what must stop the run on this one."""
        # After a failed save a last one that succeeds is all that is needed.
        began = time.perf_counter()
        failure = self._settle(tolerant=last or self.config.save_errors == "warn")
        waited = time.perf_counter() - began
        if waited > SLOW and not last and not self._slow:
            self._slow = True
            self._say(f"training waited {waited:.0f} s until the checkpoint before was written")
        if distributed.agree(failure is not None) or not distributed.agree(self._saved != step):
            return failure
        tensors: dict[str, Tensor] = {}
        state: dict[str, Any] = {}
        try:
            tensors, state = self.state()
        except CheckpointError as error:
            failure = error
        if distributed.agree(failure is not None):
            return failure
        self._saved = step
        slices = {name for name, tensor in tensors.items() if is_slice(tensor)}
        if slices or self._leader:
            mine = {n: to_slice(t) for n, t in tensors.items() if self._leader or n in slices}
            copies, spare = self._copies.take(mine), self._to_spare(step)
            self._background.start(lambda: self._write(step, copies, slices, state, spare))
            if last or not self.config.async_save:
                failure = self._settle(tolerant=not last and self.config.save_errors == "warn")
        return failure

    def _to_spare(self, step: int) -> int | None:
        """The step whose checkpoint a roll back would take, were there one after this save."""
        if self.config.nan != "rollback":
            return None
        first = self.stepper.guard.first  # of bad steps that may not have ended yet
        saved = [*checkpoint.steps_on_disk(self.run.checkpoints), step]
        return next(iter(ways_back(saved, step if first is None else first, self.config)), None)

    def _write(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        slices: set[str],
        state: Mapping[str, Any],
        spare: int | None,
    ) -> None:
        folder, keep, every = self.run.checkpoints, self.config.keep, self.config.keep_every
        whole = {name: tensor for name, tensor in tensors.items() if name not in slices}
        if slices:
            rows = {name: tensors[name] for name in slices}
            save_together(
                folder, step, whole, rows, state, keep=keep, keep_every=every, spare=spare
            )
        else:
            checkpoint.save(folder, step, whole, state, keep=keep, keep_every=every, spare=spare)

    def _settle(self, tolerant: bool) -> BaseException | None:
        """Wait for the write in flight; a failure that is tolerated is told instead."""
        failure = self._background.wait()
        if failure is not None:
            self._saved = None
            if tolerant and isinstance(failure, CheckpointError):
                self._warn("save_failed", failure)
                return None
        return failure

    def _warn(self, kind: str, error: RhymeError) -> None:
        """Tell of a failure that does not stop the run, on a disk that may be full."""
        self._say(f"warning: {error.cause}; training goes on")
        if not self._leader:
            return
        with suppress(RunError):
            self.run.event(kind, reason=error.reason)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the write in flight, but not when somebody presses Ctrl-C twice."""
        if kind is None or issubclass(kind, Exception):
            self._settle(tolerant=True)

    def find(self, resume: bool) -> Path | None:
        """The checkpoint to start from, on all ranks; None to start from the beginning.

        The first rank chooses: what one rank can read, another one may not for a moment.

        Raises:
            CheckpointError: there are checkpoints and ``resume`` is False, or all are damaged.
            StorageError: none can be read, of some for the storage under them.
        """
        path: Path | None = None
        failure: RhymeError | None = None
        if self._leader:
            try:
                path = self._find(resume)
            except RhymeError as error:
                failure = error
        facts = failure.facts() if failure is not None else None
        path, facts = distributed.broadcast_object((path, facts))
        if facts is not None:
            raise failure or from_facts(facts)
        return path

    def _find(self, resume: bool) -> Path | None:
        if resume:
            return latest(self.run, passed=self.passed_over)
        if checkpoint.steps_on_disk(self.run.checkpoints):
            raise CheckpointError(
                "the run has checkpoints already",
                file=self.run.checkpoints,
                stage="train",
                remedy=f"go on with: rhyme train --resume {self.run.path}, or take another --out",
            )
        return None

    def before(self, step: int) -> Path | None:
        """The checkpoint of at most ``step`` steps to roll back to, on all ranks; None without."""
        path = None
        self._settle(tolerant=True)
        distributed.barrier()  # where every rank writes its slices, all are on the disk
        if self._leader:
            path = checkpoint_before(self.run, step, self.config)
        return distributed.broadcast_object(path)

    def forget_after(self, step: int) -> None:
        """Drop what was saved after the step that the run went back to.

        Raises:
            CheckpointError: the disk refuses.
        """
        if self._leader:
            checkpoint.drop_after(self.run.checkpoints, step)
        distributed.barrier()  # nobody trains on before they are gone

    def restore(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Load a checkpoint into system, optimisers and source.

        Returns:
            The trainer's own state, and the environment that the checkpoint was written in.

        Raises:
            CheckpointError: it is damaged, or of another configuration, catalog or build, or not
                the same on all ranks.
            StorageError: the storage under it keeps failing.
        """
        held = checkpoint.read(path)
        check_same(held)
        for name, now, what in (
            ("config", identity(self.system, self.config), "configuration"),
            ("data", data_facts(self.source), "catalog"),
        ):
            check_identity(held.state.get(name, {}), now, what)
        counters = restore(
            held.tensors,
            held.state,
            self.system,
            self.stepper.pairs,
            self.source,
            self._counters(),
        )
        self._saved = held.step
        return counters, held.state.get("environment", {})

    def export(self, step: int, *, last: bool = False) -> None:
        """Write the system's exports as they are now; what was exported before is replaced.

        Args:
            step: steps done.
            last: nothing follows, so that a failure is never tolerated.

        Raises:
            PackageError: weights are not finite, or the disk refuses; on all ranks alike.
        """
        with self.stepper.parallel.whole():
            failure = self._export(step, last) if self._leader else None
        if distributed.agree(failure is not None):  # also: no rank leaves before it is on disk
            raise failure or PackageError("the first rank could not export", stage="export")

    def _export(self, step: int, last: bool) -> RhymeError | None:
        card = export_card(self.system, self.config, step, data_facts(self.source), self.run)
        try:
            export_packages(self.system, self.run.path, card | self._about, self._extra)
        except RhymeError as error:
            if last or self.config.save_errors == "stop":
                return error
            self._warn("export_failed", error)
        return None


def export_card(
    system: System, config: TrainConfig, step: int, data: Mapping[str, Any], run: RunFolder
) -> dict[str, Any]:
    """Where an export comes from."""
    own = identity(system, config)["system"]
    facts = {"system": own, "step": step, "seed": config.seed}
    return facts | {"data": dict(data), "run": run.path.name}
