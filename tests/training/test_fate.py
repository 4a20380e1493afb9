"""What fails on one rank ends all of them, soon, with the same error."""

from __future__ import annotations

import errno
import importlib
import time
from pathlib import Path

import pytest
import torch

from ranks.pool import run_on_new_ranks
from rhyme import distributed
from rhyme.errors import DataError, RhymeError
from rhyme.training import ranks
from rhyme.training.ranks import leader_first, one_fate

BAD = 1
"""The rank that fails."""


LOADED_LATE = ("torch.distributed.nn.functional", "torch.distributed.fsdp", "torchvision")
"""Modules that keep the group alive where they are loaded after joining, as an encoder may do."""


def fail(kind: str) -> None:
    if kind == "data":
        raise DataError("too many bad files", file="a.mp4", value=[1, object], remedy="scan again")
    if kind == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", "run/metrics.jsonl")
    raise ValueError("a flaw of the program")


def between_collectives(kind: str, bad: int) -> tuple[str, str, str, bool, float]:
    """One rank fails while the other waits for it in a collective."""
    began = time.monotonic()
    try:
        with one_fate():
            distributed.barrier()
            for name in LOADED_LATE:
                importlib.import_module(name)
            if distributed.rank() == bad:
                fail(kind)
            distributed.sum_all(torch.ones(4))
    except RhymeError as error:
        facts = error.facts()
        return facts["error"], str(error), facts["value"], error.told, time.monotonic() - began
    except ValueError as error:
        return "ValueError", str(error), "", False, time.monotonic() - began
    return "nothing", "", "", False, 0.0


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_of_one_rank_is_raised_on_all(bad: int) -> None:
    found = run_on_new_ranks(between_collectives, 2, "data", bad)
    assert [f[0] for f in found] == ["DataError"] * 2
    assert found[0][1] == found[1][1], "both say the same"
    assert "a.mp4" in found[0][1]
    assert "scan again" in found[0][1]
    assert found[0][2] == found[1][2] == repr([1, object])
    assert [f[3] for f in found] == [False, True], "the leader tells it, the other does not"
    assert max(f[4] for f in found) < 30


def test_a_full_disk_is_named_on_all() -> None:
    found = run_on_new_ranks(between_collectives, 2, "disk", BAD)
    for kind, text, *_ in found:
        assert kind == "RhymeError"
        assert "No space left" in text
        assert "run/metrics.jsonl" in text


def test_a_flaw_of_one_rank_frees_the_other() -> None:
    leader, flawed = run_on_new_ranks(between_collectives, 2, "flaw", BAD)
    assert flawed[:2] == ("ValueError", "a flaw of the program")
    assert leader[0] == "RankError"
    assert "the connection to another rank is lost" in leader[1]
    assert leader[4] < 30


def stuck(folder: str) -> str:
    """The leader fails while the other sits in something that no broken connection wakes."""
    ranks.GRACE_S = 0.5
    try:
        with one_fate():
            distributed.barrier()
            if distributed.rank() == 0:
                fail("data")
            time.sleep(300)
            Path(folder, "woken").touch()
    except DataError as error:
        return error.cause
    return "nothing"


def test_a_rank_that_is_stuck_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    assert run_on_new_ranks(stuck, 2, str(tmp_path)) == ["too many bad files", DataError.exit_code]
    assert time.monotonic() - began < 60
    assert not (tmp_path / "woken").exists()


def made_once(folder: str) -> list[str]:
    """Work of the leader that the others open."""

    def make() -> str:
        path = Path(folder) / "made"
        if not path.exists():
            time.sleep(0.3)
            path.write_text(f"by {distributed.rank()}")
        return path.read_text()

    return [leader_first(make), leader_first(lambda: f"twice {distributed.rank()}")]


def never_made(folder: str) -> str:
    def make() -> None:
        if distributed.rank() == 0:
            fail("data")
        Path(folder, "opened").touch()

    try:
        with one_fate():
            leader_first(make)
    except DataError as error:
        return error.cause
    return "nothing"


def test_the_leader_goes_first(tmp_path: Path) -> None:
    assert run_on_new_ranks(made_once, 2, str(tmp_path)) == [
        ["by 0", "twice 0"],
        ["by 0", "twice 1"],
    ]
    assert run_on_new_ranks(never_made, 2, str(tmp_path)) == ["too many bad files"] * 2
    assert not (tmp_path / "opened").exists()


def test_one_rank_alone_needs_nothing() -> None:
    with pytest.raises(ValueError, match="flaw"), one_fate():
        fail("flaw")
    assert leader_first(lambda: 3) == 3
