"""The newest checkpoint of a run: found, the same on all ranks, and loaded to be looked at."""

from __future__ import annotations

from pathlib import Path

from rhyme import distributed
from rhyme.errors import CheckpointError
from rhyme.run import RunFolder
from rhyme.systems.base import RunContext, System
from rhyme.training import checkpoint
from rhyme.training.checkpoint import Checkpoint
from rhyme.training.config import TrainConfig
from rhyme.training.packages import load_module
from rhyme.training.state import check_identity, check_items, identity, restore_system


def latest(run: RunFolder, *, tell: bool = True, passed: list[str] | None = None) -> Path | None:
    """The checkpoint to resume a run from; None where the run has none.

    A damaged one is entered into the events, and the one before is taken.

    Args:
        run: the run.
        tell: False for no event, where the run is only looked at.
        passed: gets a line for each damaged one, for the user.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
        StorageError: the same, but of some the storage keeps failing.
    """
    causes: list[str] = []

    def note(path: Path, cause: str) -> None:
        causes.append(f"{path.name}: {cause}")
        if passed is not None:
            passed.append(f"checkpoint {path.name} is damaged and passed over: {cause}")
        if tell:
            run.event("checkpoint_damaged", checkpoint=path.name, cause=cause)

    found = checkpoint.newest(run.checkpoints, note)
    if found is None and causes:
        raise CheckpointError(
            "no checkpoint of the run is whole",
            file=run.checkpoints,
            stage="resume",
            value=causes,
            remedy="start a new run, or restore the folder from a copy",
        )
    return found


def check_same(held: Checkpoint) -> None:
    """Refuse to go on from different checkpoints on different ranks. All of them call it together.

    Raises:
        CheckpointError: on all ranks, with the step that each of them has read.
    """
    read = distributed.exchange((held.step, held.sha256))
    if len(set(read)) > 1:
        raise CheckpointError(
            "the ranks have read different checkpoints",
            file=held.path,
            stage="resume",
            value={"steps": [step for step, _ in read]},
            remedy="give all ranks one file system, and go on when it shows the same everywhere",
        )


def load_newest(run: RunFolder, system: System, config: TrainConfig) -> Checkpoint:
    """Give a fresh system the weights of a run's newest checkpoint; the run is not disturbed.

    The run may be training: a checkpoint that it drops meanwhile is passed over for its newest.

    Args:
        run: the run folder.
        system: the run's system, not set up.
        config: the run's options.

    Returns:
        The checkpoint, for its step and its facts.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another configuration or build.
    """
    held = _read_newest(run)
    check_identity(held.state.get("config", {}), identity(system, config), "configuration")
    data = held.state["data"]
    context = RunContext(
        items=data["items"],
        groups=data["groups"],
        batch_size=config.batch_size,
        steps=max(held.step, 1),
        seed=config.seed,
        load=load_module,
    )
    system.setup(context)
    check_items(held.tensors, held.state)
    restore_system(held.tensors, held.state, system)
    return held


def _read_newest(run: RunFolder) -> Checkpoint:
    while True:
        steps = checkpoint.steps_on_disk(run.checkpoints)
        if not steps:
            raise CheckpointError(
                "the run has no checkpoint yet",
                file=run.checkpoints,
                stage="export",
                remedy="wait for its first (train.checkpoint_every), or go on with it: "
                f"rhyme train --resume {run.path}",
            )
        try:
            path = latest(run, tell=False)
            assert path is not None
            return checkpoint.read(path)
        except CheckpointError:
            if checkpoint.steps_on_disk(run.checkpoints) == steps:
                raise
