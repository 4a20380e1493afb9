"""Commands whose log or answer nobody reads: work is never cut short, nor said to be done."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rhyme.cli import run
from rhyme.run import read_jsonl
from support.tiny_runs import OVERRIDES, catalog, flags, trained


class Lost(io.StringIO):
    """A stream that stops to take text, as a pipe without a reader or a full disk does."""

    def __init__(self, number: int, lines: int = 0) -> None:
        super().__init__()
        self.number, self.lines = number, lines

    def write(self, text: str) -> int:
        if self.getvalue().count("\n") >= self.lines:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


def words(run_folder: Path) -> list[str]:
    return [
        "train", "moco_world_demo", "--data", str(catalog()), "--out", str(run_folder),
        *flags(OVERRIDES["moco"]),
    ]  # fmt: skip


def steps(run_folder: Path) -> int:
    return read_jsonl(run_folder / "metrics.jsonl")[-1]["step"]


@pytest.mark.parametrize(("number", "lines"), [(errno.EPIPE, 2), (errno.ENOSPC, 0)])
def test_training_goes_on_when_nobody_reads_its_log(
    tmp_path: Path, number: int, lines: int
) -> None:
    out, lost = io.StringIO(), Lost(number, lines)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(lost):
        assert run([*words(tmp_path / "run"), "--json"]) == 0
    assert json.loads(out.getvalue())["steps"] == 6
    assert steps(tmp_path / "run") == 6


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_work_whose_answer_is_lost_does_not_end_with_0(tmp_path: Path, number: int) -> None:
    told, judged = io.StringIO(), shutil.copytree(trained("moco"), tmp_path / "run")
    with contextlib.redirect_stdout(Lost(number)), contextlib.redirect_stderr(told):
        assert run(["evaluate", str(judged), "--protocol", "knn"]) == 1
    for word in ("the answer could not be written", "standard output", "remedy:"):
        assert word in told.getvalue()


@pytest.mark.parametrize("command", [["systems"], ["--help"], ["runs", "--help"]])
def test_who_reads_the_first_lines_of_a_list_has_seen_enough(command: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as told:
        with contextlib.redirect_stdout(Lost(errno.EPIPE)):
            assert run(command) == 0
        with contextlib.redirect_stdout(Lost(errno.ENOSPC)):
            assert run(command) == 1
    assert told.getvalue().count("the answer could not be written") == 1


def test_a_pipe_that_breaks_within_the_work_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("rhyme.api.systems", broken)
    with contextlib.redirect_stderr(io.StringIO()) as told:
        assert run(["systems"]) == 1
    assert "Broken pipe" in told.getvalue()


@pytest.mark.parametrize("how", ["{} >&- 2>&-", "{} 2>/dev/full"])
def test_streams_that_are_closed_or_full_from_the_start(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    command = " ".join([sys.executable, "-m", "rhyme", *words(folder)])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(how.format(command), shell=True, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert steps(folder) == 6


@pytest.mark.parametrize(
    ("how", "code"),
    [("{} systems >&-", 0), ("{} systems 2>&-", 0), ("{} systems | true", 0),
     ("{} train --help | true", 0), ("{} systems >/dev/full", 1), ("{} no 2>/dev/full", 2),
     ("{} no 2>&-", 2)],
)  # fmt: skip
def test_streams_of_a_real_process(how: str, code: int) -> None:
    command = "set -o pipefail; " + how.format(f"{sys.executable} -m rhyme")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
