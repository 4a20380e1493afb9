"""What a run writes to go on from, and what it leaves: checkpoints and packages.

The trainer says when; a :class:`Saver` knows what belongs to the state, and brings it to the disk
and back. Only the first rank writes, and all ranks learn whether it could.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.errors import CheckpointError, RhymeError
from rhyme.loading.batch import Source
from rhyme.run import RunFolder
from rhyme.systems.base import System
from rhyme.training import checkpoint
from rhyme.training.config import TrainConfig
from rhyme.training.environment import environment
from rhyme.training.packages import export_packages
from rhyme.training.state import check_identity, collect, data_facts, identity, restore
from rhyme.training.stepper import Stepper


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
        about: entries for the cards of exported packages.
        extra: plain data to store in them.
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
        about: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.system, self.stepper, self.source = system, stepper, source
        self.config, self.run, self.device = config, run, device
        self._counters = counters
        self._about, self._extra = dict(about or {}), dict(extra or {})
        self._leader = distributed.rank() == 0
        self._saved: int | None = None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state of the run: tensors by flat name, and JSON data with the items' schema."""
        tensors, state = collect(self.system, self.stepper.pairs, self.source, self._counters())
        state["config"] = identity(self.system, self.config)
        state["data"] = data_facts(self.source)
        state["environment"] = environment(self.device)
        return tensors, state

    def save(self, step: int) -> None:
        """Write a checkpoint of this step, unless there is one.

        Raises:
            CheckpointError: the disk refuses, on all ranks alike; earlier checkpoints stay.
        """
        if self._saved == step:
            return
        failure: RhymeError | None = None
        if self._leader:
            try:
                tensors, state = self.state()
                folder = self.run.checkpoints
                checkpoint.save(folder, step, tensors, state, keep=self.config.keep)
            except CheckpointError as error:
                failure = error
        # The others wait for the leader: a rank that leaves early takes the whole job down.
        if distributed.agree(failure is not None):
            raise failure or CheckpointError("the first rank could not save", stage="train")
        self._saved = step

    def find(self, resume: bool) -> Path | None:
        """The checkpoint to start from; None to start from the beginning.

        Raises:
            CheckpointError: there are checkpoints and ``resume`` is False, or all are damaged.
        """
        if resume:
            return checkpoint.latest(self.run, tell=self._leader)
        if checkpoint.steps_on_disk(self.run.checkpoints):
            raise CheckpointError(
                "the run has checkpoints already",
                file=self.run.checkpoints,
                stage="train",
                remedy=f"go on with: rhyme train --resume {self.run.path}, or take another --out",
            )
        return None

    def restore(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Load a checkpoint into system, optimisers and source.

        Returns:
            The trainer's own state, and the environment that the checkpoint was written in.

        Raises:
            CheckpointError: it is damaged, or of another configuration, catalog or build.
        """
        held = checkpoint.read(path)
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

    def export(self, step: int) -> None:
        """Write the system's exports as they are now; the first rank does."""
        if self._leader:
            export_packages(self.system, self.run, self._card(step), self._extra)

    def _card(self, step: int) -> dict[str, Any]:
        """Where an export comes from."""
        system = identity(self.system, self.config)["system"]
        facts = {"system": system, "step": step, "seed": self.config.seed}
        return facts | {"data": data_facts(self.source), "run": self.run.path.name} | self._about
