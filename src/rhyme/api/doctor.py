"""What this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rhyme.board import backends
from rhyme.errors import ConfigError

Level = Literal["ok", "absent", "problem"]

_EXTRAS = {
    "tensorboard": "curves beside the JSONL log",
    "submitit": "jobs on a SLURM cluster",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        level: ``ok``, ``absent`` (optional and not there) or ``problem``.
        value: version or figure.
        remedy: what to do, where something is to be done.
    """

    name: str
    level: Level
    value: str
    remedy: str = ""


def doctor(folder: str | Path = ".") -> list[Finding]:
    """Look at Python, libraries, devices, decoders, disk and shared memory.

    Args:
        folder: where runs will be written.

    Returns:
        Findings, problems being those that keep rhyme from working.
    """
    found = [Finding(name="python", level="ok", value=platform.python_version())]
    found += _requirements()
    found += [
        _ffmpeg(),
        _codec("h264"),
        _codec("aac"),
        *_decoding(),
        *_devices(),
        _ranks(),
        _shared_memory(),
        _disk(Path(folder)),
    ]
    found += [_program("ffmpeg", "remuxing damaged files"), _program("chromium", "browser tests")]
    for name, use in _EXTRAS.items():
        there = importlib.util.find_spec(name) is not None
        found.append(
            Finding(
                name=name,
                level="ok" if there else "absent",
                value=_version(name) if there else "not installed",
                remedy="" if there else f"optional, for {use}",
            )
        )
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "present"


def _requirements() -> list[Finding]:
    """The packages that rhyme needs, as its own metadata lists them."""
    try:
        lines = importlib.metadata.requires("rhyme-ssl") or []
    except importlib.metadata.PackageNotFoundError:
        told = "not known, as rhyme itself is not installed"
        return [Finding(name="requirements", level="absent", value=told, remedy="run: make setup")]
    needed = [line for line in lines if "extra ==" not in line]
    return [_library(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in needed]


def _library(name: str) -> Finding:
    try:
        return Finding(name=name, level="ok", value=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, level="problem", value="not installed", remedy="run: make setup")


def _ffmpeg() -> Finding:
    """FFmpeg's libraries as they are built into PyAV, which read every file."""
    import av

    versions = {name: ".".join(map(str, parts)) for name, parts in av.library_versions.items()}
    value = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding(name="libraries of FFmpeg", level="ok", value=value)


def _codec(name: str) -> Finding:
    import av

    there = name in av.codecs_available
    return Finding(
        name=f"decoder {name}",
        level="ok" if there else "problem",
        value="built into PyAV" if there else "missing",
        remedy="" if there else "install PyAV from its wheel: pip install --force-reinstall av",
    )


def _decoding() -> list[Finding]:
    """The second decoding library, and which one `RHYME_DECODER` chooses."""
    from rhyme.media.choice import VARIABLE, backends, chosen

    found = [
        Finding(
            name=backend.name,
            level="ok" if backend.usable else "absent",
            value=f"{backend.version}, loads and decodes" if backend.usable else backend.reason,
            remedy="" if backend.usable else "optional: pip install rhyme-ssl[torchcodec]",
        )
        for backend in backends()
        if backend.name != "pyav"
    ]
    try:
        return [*found, Finding(name="video decoder", level="ok", value=chosen())]
    except ConfigError as error:
        remedy = error.remedy or f"unset {VARIABLE}"
        return [
            *found,
            Finding(name="video decoder", level="problem", value=error.cause, remedy=remedy),
        ]


def _devices() -> list[Finding]:
    import torch

    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    found = [Finding(name="cpu", level="ok", value=cores)]
    if not torch.cuda.is_available():
        return [*found, Finding(name="gpu", level="absent", value="none; recipes for CPUs work")]
    for i in range(torch.cuda.device_count()):
        facts: Any = torch.cuda.get_device_properties(i)
        value = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
        found.append(Finding(name=f"gpu {i}", level="ok", value=value))
    return found


def _ranks() -> Finding:
    """The backends through which several ranks talk."""
    there = backends()
    return Finding(
        name="ranks",
        level="ok" if there else "absent",
        value=", ".join(there) if there else "no backend; training runs in one process",
    )


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(name="shared memory", level="absent", value=f"none on {sys.platform}")
    free = shutil.disk_usage(path).free / 2**20
    return Finding(name="shared memory", level="ok", value=f"{free:.0f} MiB free")


def _disk(folder: Path) -> Finding:
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**30
    return Finding(
        name="disk",
        level="ok" if free > 1 else "problem",
        value=f"{free:.1f} GiB free",
        remedy="" if free > 1 else "free some space before training",
    )


def _program(name: str, use: str) -> Finding:
    path = shutil.which(name)
    return Finding(
        name=name,
        level="ok" if path else "absent",
        value="installed" if path else "not installed",
        remedy="" if path else f"optional, for {use}",
    )
