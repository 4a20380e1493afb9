"""A checkpoint that two ranks write together is whole, or is not there."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import torch

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.errors import CheckpointError
from rhyme.training import checkpoint
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
