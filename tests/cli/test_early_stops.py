"""Real processes of `rhyme train` that are told to stop before their first step."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rhyme.run import read_jsonl
from support.tiny_runs import OVERRIDES, catalog, flags, rhyme, trained

PAUSE = """
import os, sys, time
from unittest import mock
from rhyme.cli import main

def wait(*_, **__):
    open(os.environ["REACHED"], "w").close()
    time.sleep(100)

with mock.patch(os.environ["PLACE"], wait):
    main(sys.argv[1:])
"""
"""The command line, which comes to a place and stays there."""


def stopped(place: str, number: int, words: list[object], reached: Path) -> tuple[int, str]:
    """Exit code and standard error of a command that a signal finds at a place."""
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
        "PLACE": place, "REACHED": str(reached),
    }  # fmt: skip
    command = [sys.executable, "-c", PAUSE, "train", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as child:
        deadline = time.monotonic() + 120
        while not reached.exists():
            assert child.poll() is None, child.stderr.read() if child.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(number)
        _, told = child.communicate(timeout=30)
    return child.returncode, told


@pytest.mark.parametrize(
    ("place", "number", "launch", "begun"),
    [
        ("rhyme.cli._parse", signal.SIGTERM, [], False),  # its libraries are read then
        ("rhyme.api.train.read_data", signal.SIGUSR1, [], False),
        ("rhyme.api.train.read_data", signal.SIGTERM, ["--launch", "local", "--ranks", "2"], False),
        ("rhyme.loading.decode.Readers.frames", signal.SIGINT, [], True),
    ],
)
def test_a_signal_before_the_first_step(
    place: str, number: int, launch: list[str], begun: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["moco_world_demo", "--data", catalog(), "--out", run, *flags(OVERRIDES["moco"])]
    code, told = stopped(place, number, [*words, *launch], tmp_path / "reached")
    assert code == 75, told
    assert f"stopped by {signal.Signals(number).name} before the first step" in told
    assert "Traceback" not in told
    assert run.exists() == begun
    assert (f"rhyme train --resume {run}" if begun else "nothing was begun") in told


def test_a_signal_before_the_first_step_of_a_run_that_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    code, told = stopped(
        "rhyme.loading.decode.Readers.frames", signal.SIGTERM, ["--resume", run],
        tmp_path / "reached",
    )  # fmt: skip
    assert code == 75, told
    assert f"--resume {run}" in told
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row][-1] == 6


def test_a_kill_while_the_run_folder_is_made_leaves_one_that_can_be_begun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["moco_world_demo", "--data", catalog(), "--out", run, *flags(OVERRIDES["moco"])]
    code, _ = stopped("rhyme.catalog.Catalog.save", signal.SIGKILL, words, tmp_path / "reached")
    assert code == -signal.SIGKILL
    assert run.exists()
    done = rhyme("train", *words)
    assert done.code == 0, done.err
