"""The command line in this process, and a tiny generated world with runs on it.

The world and the runs are made once a test session and shared; a test that changes one of them
works on a copy.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rhyme import api
from rhyme.catalog import scan
from rhyme.cli import run

SYSTEMS = ("cycle_contrast", "moco")
MOCO = {
    "train.steps": 6,
    "train.batch_size": 8,
    "train.schedule.warmup_steps": 0,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.keep": 3,
    "train.probe_every": 3,
    "model.queue": 32,
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "moco": MOCO,
    "dual": {name: value for name, value in MOCO.items() if name.startswith("train.")},
    "cycle_contrast": {**MOCO, "model.cycle_queue": 40, "model.support": 10},
}
"""Six steps of eight items: enough for every part of the loop to be used."""


@dataclass(frozen=True)
class Outcome:
    """What a command left.

    Attributes:
        code: exit code.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that ``--json`` promises on standard output."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


def rhyme(*arguments: object) -> Outcome:
    """Run a command in this process, its cache apart from the user's."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, RHYME_CACHE=str(_place() / "cache")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run([str(a) for a in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def flags(values: Mapping[str, Any]) -> list[str]:
    """Dotted options as a user types them."""
    return [word for k, v in values.items() for word in (f"--{k.replace('_', '-')}", str(v))]


def train(system: str, out: Path, *more: object, data: Path | None = None) -> Outcome:
    """``rhyme train`` of a system on the tiny world, by its catalog unless told otherwise."""
    return rhyme(
        "train", f"{system}_world_demo", "--data", data or catalog(), "--out", out,
        *flags(OVERRIDES[system]), *more,
    )  # fmt: skip


@functools.cache
def world() -> Path:
    """A world of 24, 8 and 12 videos at 30 pixels; not to be changed."""
    folder = _place() / "world"
    api.world(folder, counts=(24, 8, 12), size=30, truth="labels")
    return folder


@functools.cache
def catalog() -> Path:
    """The catalog of the world, labelled by appearance; not to be changed."""
    path = _place() / "world.catalog"
    scan(world(), out=path, label_column="appearance")
    return path


@functools.cache
def trained(system: str) -> Path:
    """A run of six steps on the world; not to be changed."""
    folder = _place() / "runs" / system
    done = train(system, folder)
    assert done.code == 0, done.err
    return folder


def judged_shared_runs() -> list[Path]:
    """Results that a test has written into a run which others look at, taken away again."""
    if not _place.cache_info().currsize:
        return []
    found = sorted(_place().glob("runs/*/results.jsonl"))
    for path in found:
        path.unlink()
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that nothing was touched."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


ALONE = ("--workers", 0)  # two processes need longer to start than a few files to be read


def refused(outcome: Outcome, code: int | None, *says: object) -> None:
    """The exit code (None: 1 or 2), the words, and no traceback."""
    assert outcome.code in ((1, 2) if code is None else (code,)), outcome.err
    for word in says:
        assert str(word) in outcome.err
    assert "remedy:" in outcome.err
    assert "Traceback" not in outcome.err + outcome.out


def videos(folder: Path, count: int) -> list[Path]:
    """Copy some of the world's videos into a new folder."""
    folder.mkdir()
    chosen = sorted((world() / "videos").rglob("*.mp4"))[:count]
    return [Path(shutil.copy(path, folder)) for path in chosen]


@functools.cache
def _place() -> Path:
    folder = tempfile.mkdtemp(prefix="rhyme-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
