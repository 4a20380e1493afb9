"""The docs are run: every command and every block of Python, in the order of its page.

Each page gets a folder of its own with the stand-ins of ``support.rooms`` that it speaks of.
Commands run as they are typed, but for the options that ``support.reduced`` makes small. What is
not run stands below with its reason, and nothing else is left out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import rooms, tiny_runs
from support.pages import GIVEN, NOT_EXECUTED, PAGES, blocks, commands, name_of, python
from support.reduced import reduced

MAKE = "a target of the Makefile; .ci/run runs make setup, check, docs, demo and test"
HOURS = "minutes to hours of measuring; tests/benchmarks runs its parts"
EXTRA = "needs an extra beside the locked environment; tests/encoders/test_shelf.py has its own"
PUBLISHED = "needs a published data set that is not ours to generate"

NOT_RUN = {
    "make demo": MAKE,
    "make test": MAKE,
    "make bench": HOURS,
    "make gpu GPU_PYTHON=python3": HOURS,
    "make gpu-evidence GPU_PYTHON=python3": HOURS,
    "make evidence SYSTEM=cstp": HOURS,
    "make evidence SYSTEM=cycle_contrast": HOURS,
    "make evidence SYSTEM=densecl": HOURS,
    "make evidence SYSTEM=dual": HOURS,
    "make evidence SYSTEM=lsfd": HOURS,
    "make evidence SYSTEM=moco": HOURS,
    "make evidence SYSTEM=simclr": HOURS,
    "make evidence SYSTEM=vfs": HOURS,
    "python -m benchmarks decode kernels/queue": HOURS,
    "python -m benchmarks step/compile": HOURS,
    "python -m benchmarks --quick": HOURS,
    "python -m benchmarks --docs": "rewrites the docs from the newest rows",
    "tensorboard --logdir runs": "another program, which serves until it is stopped",
    "rhyme train moco --data my_videos --out runs/mine --launch slurm --slurm.nodes 2 "
    "--slurm.ranks 8": "needs a SLURM cluster; tests/ranks submits such a job to this machine",
    "rhyme estimate cycle_contrast_r2v2_8gpu --data my_videos --gpus 8 --train.epochs 100": HOURS,
    "rhyme evaluate runs/mine --data 50salads --protocol segmentation --segmentation.bundle 1 "
    "--segmentation.every 2": PUBLISHED,
    "rhyme evaluate runs/mine --data imagenet --protocol semi_supervised --semi_supervised.lists "
    '"[1percent.txt, 10percent.txt]"': PUBLISHED,
    "rhyme evaluate --encoder hf:folders/dinov2-base --data my_videos --protocol knn,propagation "
    "--propagation.stride 14": EXTRA,
}
"""Commands that are not run, and why."""

FOUND = {
    "README": ("my_videos",),
    "docs/data": ("clips", "UCF-101", "ucf.shards", "runs/k400"),
    "docs/evaluation": (
        "my_videos", "other_videos", "DAVIS", "scenes", "runs/mine", "runs/dual", "resnet50.pth",
        "r3d_18.pth", "runs/moco-0", "runs/moco-1", "runs/cycle-0", "runs/cycle-1",
    ),
    "docs/quickstart": ("my_videos",),
    "docs/python": ("my_videos",),
    "docs/report": (
        "other_videos", "runs/a", "runs/mine",
        "runs/moco-0", "runs/moco-1", "runs/cycle-0", "runs/cycle-1",
    ),
    "docs/prepare": ("clips",),
    "docs/searching": ("my_videos", "runs/mine"),
    "docs/systems/simclr": ("my_videos", "cifar10"),
    "docs/encoders": ("my_videos", "convnext_tiny.pth"),
    "docs/training": ("my_videos", "resnet18.pth"),
}  # fmt: skip
"""What the commands of a page find in their folder; the pages of systems find ``my_videos``."""

BEFORE_PYTHON = {
    "docs/searching": ("my.store",),
    "docs/systems/lsfd": ("long_world", "runs/lsfd-world"),
}
"""What the Python of a page finds besides; its commands make that themselves."""

REPLACED = {
    'rhyme.train("cycle_contrast", "my_videos", out="runs/mine")': (
        'rhyme.train("cycle_contrast", "my_videos", out="runs/mine", overrides={'
        '"train.steps": 2, "train.batch_size": 8, "train.schedule.warmup_steps": 0})'
    ),
    "    epochs=200,\n    batch_size=512,\n": "    epochs=1,\n    batch_size=8,\n",
    "WorldConfig(videos=100, seed=0, size=64, workers=2)": (
        "WorldConfig(videos=5, seed=0, size=32)"
    ),
}
"""Python that is made small."""

QUICK = {
    "docs/quickstart", "docs/python", "docs/searching", "docs/train", "docs/world", "docs/views",
    "docs/encoders", "docs/kernels", "docs/prepare", "docs/report", "docs/systems/cstp",
    "docs/systems/cycle_contrast", "docs/systems/densecl", "docs/systems/moco",
    "docs/systems/simclr", "docs/systems/vfs",
}  # fmt: skip
"""Pages that take seconds; the others are left out of ``make test``."""


def marked(pages: list[Path]) -> Iterator[object]:
    for page in pages:
        marks = () if name_of(page) in QUICK else (pytest.mark.slow,)
        yield pytest.param(page, id=name_of(page), marks=marks)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the page's commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RHYME_CACHE", str(tmp_path / ".cache"))
    return tmp_path


@pytest.mark.parametrize("page", marked([p for p in PAGES if {*commands(p)} - {*NOT_RUN}]))
def test_commands_run_in_the_order_of_their_page(page: Path, room: Path) -> None:
    rooms.furnish(room, *FOUND.get(name_of(page), ("my_videos",)))
    for command in commands(page):
        if command not in NOT_RUN:
            run(command, room)


def run(command: str, room: Path) -> None:
    """Run a command in its small form; of alternatives the earlier run makes room."""
    words = shlex.split(command)
    if "train" in words and "--out" in words:
        shutil.rmtree(room / words[words.index("--out") + 1], ignore_errors=True)
    if words[0] == "rhyme":
        done = tiny_runs.rhyme(*reduced(words[1:]))
        assert done.code in (0, 3), f"{command}\n{done.err}"
        return
    at = words.index("rhyme")  # torchrun ... -m rhyme ...
    program = [sys.executable, "-m", "torch.distributed.run", *words[1:at], "rhyme"]
    made = subprocess.run(
        [*program, *reduced(words[at + 1 :])], capture_output=True, text=True, env=os.environ
    )
    assert made.returncode == 0, f"{command}\n{made.stderr}"


@pytest.mark.parametrize("page", marked([p for p in PAGES if blocks(p, "python")]))
def test_python_runs_in_the_order_of_its_page(page: Path, room: Path) -> None:
    name = name_of(page)
    rooms.furnish(room, *FOUND.get(name, ("my_videos",)), *BEFORE_PYTHON.get(name, ()))
    names: dict[str, object] = {"__name__": "page"}
    exec(GIVEN.get(name, ""), names)
    for block in python(page):
        # Lines of errors are those of the page.
        exec(compile("\n" * (block.line - 1) + small(block.text), str(page), "exec"), names)


def small(text: str) -> str:
    """The same Python, made small."""
    for given, instead in REPLACED.items():
        text = text.replace(given, instead)
    return text


def test_nothing_is_excused_that_is_not_there() -> None:
    shown = {command for page in PAGES for command in commands(page)}
    assert set(NOT_RUN) <= shown
    texts = {name_of(page): [b.text for b in blocks(page, "python")] for page in PAGES}
    for name, first in NOT_EXECUTED:
        assert any(text.startswith(first) for text in texts[name]), (name, first)
    everything = "".join(text for found in texts.values() for text in found)
    assert all(given in everything for given in REPLACED)
    assert {*FOUND, *GIVEN, *BEFORE_PYTHON, *QUICK} <= {name_of(page) for page in PAGES}


def test_only_commands_that_can_be_run_are_shown() -> None:
    """Another program than rhyme is run through torchrun, or is excused."""
    for page in PAGES:
        for command in commands(page):
            known = re.match(r"rhyme |torchrun ", command)
            assert known or command in NOT_RUN, f"{name_of(page)}: {command}"


def test_a_command_that_fails_fails_the_test(room: Path) -> None:
    rooms.furnish(room, "my_videos")
    with pytest.raises(AssertionError, match="no such"):
        run("rhyme evaluate runs/nowhere", room)
