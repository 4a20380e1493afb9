"""A checkpoint that two ranks write together is whole, or is not there."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import torch

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.errors import CheckpointError
from rhyme.run import RunFolder
from rhyme.training import checkpoint
from rhyme.training.checkpoint import Checkpoint
from rhyme.training.newest import check_same
from rhyme.training.saving import Saver
from rhyme.training.together import save_together


def save(folder: str, step: int, broken: int | None) -> str:
    """Three rows of a matrix on two ranks; one of them may have a full disk."""
    rank = distributed.rank()
    rows = torch.arange(6.0).reshape(3, 2)[distributed.item_slice(3)]
    kept = checkpoint.write_tensors

    def full(path, tensors):
        raise OSError(errno.ENOSPC, "No space left on device")

    if rank == broken:
        checkpoint.write_tensors = full
    try:
        whole = {"bias": torch.ones(2)} if rank == 0 else {}
        save_together(Path(folder), step, whole, {"weight": rows}, {"step": step}, keep=2)
    except CheckpointError as error:
        return str(error)
    finally:
        checkpoint.write_tensors = kept
    return ""


def test_every_rank_writes_its_rows_and_they_are_read_as_one(tmp_path):
    assert run_on_ranks(save, 2, str(tmp_path), 1, None) == ["", ""]
    (folder,) = tmp_path.iterdir()
    listed = json.loads((folder / "manifest.json").read_bytes())["files"]
    slices = ["slices-00000.safetensors", "slices-00001.safetensors"]
    assert sorted(listed) == [*slices, "state.json", "state.safetensors"]
    held = checkpoint.read(folder)
    assert torch.equal(held.tensors["weight"], torch.arange(6.0).reshape(3, 2))
    assert torch.equal(held.tensors["bias"], torch.ones(2))
    (folder / slices[1]).unlink()
    assert checkpoint.problem(folder) == "slices-00001.safetensors is missing"


def test_a_rank_that_cannot_write_leaves_the_checkpoint_before(tmp_path):
    run_on_ranks(save, 2, str(tmp_path), 1, None)
    for broken in (1, 0):
        leader, other = run_on_ranks(save, 2, str(tmp_path), 2, broken)
        assert f"rank {broken}: No space left" in leader
        assert other == ""
        assert [entry.name for entry in tmp_path.iterdir()] == [checkpoint.folder_name(1)]
    assert run_on_ranks(save, 2, str(tmp_path), 2, None) == ["", ""]


class Finding(Saver):
    """A saver that only looks for the checkpoint to start from."""

    def __init__(self, folder: str) -> None:
        self.run = RunFolder(folder)
        self.passed_over = []
        self._leader = distributed.rank() == 0


def found(folder: str, resume: bool, unreadable: dict[int, list[int]]) -> str:
    """What a rank resumes from; each may be unable to read the checkpoints of some steps."""
    true = checkpoint.problem
    names = [checkpoint.folder_name(step) for step in unreadable.get(distributed.rank(), [])]
    checkpoint.problem = lambda path: "unreadable" if path.name in names else true(path)
    try:
        path = Finding(folder).find(resume)
    except CheckpointError as error:
        return error.cause
    finally:
        checkpoint.problem = true
    return path.name if path is not None else "the beginning"


def test_ranks_start_from_one_checkpoint_whatever_one_of_them_can_read(tmp_path):
    RunFolder.create(tmp_path / "run", {})
    folder = str(tmp_path / "run")
    assert run_on_ranks(found, 2, folder, True, {}) == ["the beginning"] * 2
    for step in (1, 2):
        checkpoint.save(tmp_path / "run/checkpoints", step, {"w": torch.ones(2)}, {}, keep=2)
    for unreadable, name in (
        ({1: [2]}, "step-00000002"),
        ({0: [2]}, "step-00000001"),
        ({0: [1, 2]}, "no checkpoint of the run is whole"),
        ({1: [1, 2]}, "step-00000002"),
    ):
        assert run_on_ranks(found, 2, folder, True, unreadable) == [name] * 2
    assert run_on_ranks(found, 2, folder, False, {}) == ["the run has checkpoints already"] * 2


def parted(step: int) -> str:
    """What a rank says that has read another checkpoint than the first one, or the same."""
    here = step if distributed.rank() else 1
    try:
        check_same(Checkpoint(Path("run"), here, f"{here}", {}, {}))
    except CheckpointError as error:
        return str(error.value)
    return "the same"


def test_ranks_that_have_read_different_checkpoints_do_not_train():
    assert run_on_ranks(parted, 2, 1) == ["the same"] * 2
    assert run_on_ranks(parted, 2, 2) == ["{'steps': [1, 2]}"] * 2


class Failing(Saver):
    """A saver whose disk is full on one rank."""

    def __init__(self, broken: int) -> None:
        self.broken = broken

    def _save(self, step: int, last: bool) -> CheckpointError | None:
        if distributed.rank() == self.broken:
            return CheckpointError("cannot be written", file="checkpoints", value="No space left")
        return None


def told(broken: int) -> tuple[str, str]:
    try:
        Failing(broken).save(1)
    except CheckpointError as error:
        return str(error), type(error).__name__
    return "", ""


def test_every_rank_is_told_why_one_could_not_save():
    for broken in (0, 1):
        one, other = run_on_ranks(told, 2, broken)
        assert one == other
        assert "No space left" in one[0]
