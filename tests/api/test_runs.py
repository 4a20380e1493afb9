"""Runs at a glance: what state each is in, also when its process is gone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rhyme import api
from rhyme.api.runs import curve
from rhyme.run import RunFolder, append_jsonl
from rhyme.training.environment import process
from support.tiny_runs import rhyme, trained


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has only begun: a copy of a finished one without its ends."""
    shutil.copytree(trained("moco"), tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    folder.events.unlink()
    return folder


def gone() -> dict[str, object]:
    """A process of this machine that has ended."""
    code = "from rhyme.training.environment import process; print(process()['pid'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {**process(), "pid": int(done.stdout), "began": 1}


def test_a_run_is_running_while_its_process_lives(run: RunFolder) -> None:
    run.event("started", step=0, steps=600, process=process())
    (line,) = api.runs(run.path)
    assert (line.state, line.step, line.steps) == ("running", 6, 600)
    assert line.left is not None
    assert len(line.curve) == 6


def test_a_run_whose_process_is_gone_has_died(run: RunFolder) -> None:
    run.event("started", step=0, steps=6, process=gone())
    (line,) = api.runs(run.path)
    assert (line.state, line.left) == ("died", None)


def test_a_later_process_of_the_same_number_is_another_one(run: RunFolder) -> None:
    known = process()
    assert known["pid"] == os.getpid()
    run.event("started", steps=6, process={**known, "began": int(known["began"]) - 1})
    assert [line.state for line in api.runs(run.path)] == ["died"]


def test_of_another_machine_nothing_is_claimed(run: RunFolder) -> None:
    run.event("started", steps=6, process={**process(), "host": "elsewhere"})
    assert [line.state for line in api.runs(run.path)] == ["started"]


def test_a_run_that_was_stopped_before_its_first_step_has_not_begun(run: RunFolder) -> None:
    run.event("data", items=12)
    assert [line.state for line in api.runs(run.path)] == ["not begun"]


def test_runs_come_in_the_order_in_which_they_were_begun(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "other")
    other = RunFolder.open(tmp_path / "other")
    # Its name comes second and its clock is another one: it began an hour before the first.
    append_jsonl(run.events, {"time": "2026-01-02T03:00:00+0100", "event": "data"})
    append_jsonl(other.events, {"time": "2026-01-02T06:00:00+0500", "event": "data"})
    for late, early in ((other, run), (run, other)):
        os.utime(early.config, (1.7e9, 1.7e9))
        os.utime(late.config, (1.8e9, 1.8e9))  # as --resume RUN --train.workers 0 leaves it
        assert [line.path.name for line in api.runs(tmp_path)] == ["other", "run"]
    other.events.write_text('{"event": "data"}\n')  # by the file where no event has a time
    assert [line.path.name for line in api.runs(tmp_path)] == ["other", "run"]


def test_a_run_that_goes_on_is_no_longer_stopped(run: RunFolder) -> None:
    run.event("started", steps=6, process=gone())
    run.event("preempted", step=3, cause="SIGTERM")
    assert [line.state for line in api.runs(run.path)] == ["stopped"]
    run.event("resumed", steps=6, process=process())
    assert [line.state for line in api.runs(run.path)] == ["running"]
    run.event("finished", step=6)
    assert [line.state for line in api.runs(run.path)] == ["finished"]


def test_trouble_is_counted_and_one_run_shows_its_events(run: RunFolder) -> None:
    run.event("started", steps=6, process=process())
    for step in (1, 2):
        run.event("not_finite", step=step)
    shown = rhyme("runs", run.path)
    assert shown.code == 0, shown.err
    assert "2 not_finite" in shown.out
    assert shown.out.count("step 1") == 1  # the event itself
    listed = rhyme("runs", run.path.parent)
    assert "step 1" not in listed.out
    (document,) = rhyme("runs", run.path, "--json").document
    assert document["trouble"] == {"not_finite": 2}


def test_the_curve_falls_as_the_loss_does() -> None:
    assert curve([4.0, 3.0, 2.0, 1.0]) == "█▆▃▁"
    assert curve([float(32 - k) for k in range(32)], width=4) == "█▆▃▁"
    assert curve([1.0, 1.0]) == "▁▁"
    assert curve([2.0, float("nan"), 1.0]) == "█ ▁"
    assert curve([]) == ""


def test_a_loss_that_was_not_finite_is_read(run: RunFolder) -> None:
    run.event("started", steps=6, process=process())
    append_jsonl(run.metrics, {"step": 7, "loss": float("nan")})
    (line,) = api.runs(run.path)
    assert line.step == 7
    assert line.curve.endswith(" ")


@pytest.mark.parametrize(
    "kind", ["save_failed", "export_failed", "no_gradient", "rolled_back", "restarted"]
)
def test_what_asks_for_a_look_is_trouble(run: RunFolder, kind: str) -> None:
    run.event(kind)
    assert api.runs(run.path)[0].trouble == {kind: 1}
