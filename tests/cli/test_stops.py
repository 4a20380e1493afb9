"""Real processes of `rhyme train` that are told to stop, killed, or left without room."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rhyme.api as toolkit
from rhyme.run import read_jsonl
from rhyme.training import checkpoint
from support.tiny_runs import OVERRIDES, catalog, flags, rhyme

STEPS = 16
OPTIONS = {**OVERRIDES["moco"], "train.steps": STEPS, "train.checkpoint_every": 1}
GRACE = 30.0  # seconds that schedulers leave between SIGTERM and SIGKILL


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The encoder of a run that nobody disturbs, by its hash; one thread, like the processes."""
    run = tmp_path_factory.mktemp("straight") / "run"
    done = rhyme(*command(run)[3:])
    assert done.code == 0, done.err
    return toolkit.load(run).package.hash


def command(run: Path) -> list[str]:
    words = ["moco_world_demo", "--data", str(catalog()), "--out", str(run), *flags(OPTIONS)]
    return [sys.executable, "-m", "rhyme", "train", *words]


def started(words: list[str], **options: object) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env, **options)


def resumed(run: Path) -> list[str]:
    return [sys.executable, "-m", "rhyme", "train", "--resume", str(run)]


def wait_for(run: Path, step: int, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not any(row["step"] >= step for row in read_jsonl(run / "metrics.jsonl")):
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_signals_save_and_ask_for_a_requeue(tmp_path: Path, straight: str) -> None:
    """SIGTERM, and again while it saves; then the run goes on in this process."""
    run = tmp_path / "run"
    with started(command(run)) as child:
        wait_for(run, 2, child)
        began = time.monotonic()
        for _ in range(2):
            child.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        _, told = child.communicate(timeout=GRACE)
        assert child.returncode == 75, told
        assert time.monotonic() - began < GRACE
    assert f"--resume {run}" in told
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    assert newest.name == checkpoint.folder_name(read_jsonl(run / "metrics.jsonl")[-1]["step"])
    assert all(entry.name.startswith("step-") for entry in (run / "checkpoints").iterdir())
    assert rhyme("train", "--resume", run).code == 0
    assert toolkit.load(run).package.hash == straight
    steps = [row["step"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_kill_nine_again_and_again_ends_with_the_same_bits(tmp_path: Path, straight: str) -> None:
    """A checkpoint after every step, and SIGKILL at random moments, until the run comes through."""
    run, draw, kills = tmp_path / "run", random.Random(0), 0
    words = command(run)
    while True:
        steps = checkpoint.steps_on_disk(run / "checkpoints")
        with started(words) as child:
            if kills < 5 and (not steps or steps[-1] < STEPS - 3):
                wait_for(run, (steps or [0])[-1] + 1, child)
                time.sleep(draw.uniform(0, 0.4))
                child.kill()
                child.communicate()
                kills += 1
                words = resumed(run)
                continue
            _, told = child.communicate(timeout=240)
            assert child.returncode == 0, told
            break
    assert kills > 2
    assert toolkit.load(run).package.hash == straight
    steps = [row["step"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, STEPS + 1))


def test_a_disk_without_room_ends_with_one_and_a_typed_message(tmp_path: Path) -> None:
    """The system refuses files larger than 40 kB, which the tensors of a checkpoint are."""
    run = tmp_path / "run"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    with started(command(run), preexec_fn=limit) as child:
        _, told = child.communicate(timeout=120)
    assert child.returncode == 1, told
    assert "the checkpoint could not be written" in told
    assert "remedy:" in told
    assert "Traceback" not in told
    assert list((run / "checkpoints").iterdir()) == []
