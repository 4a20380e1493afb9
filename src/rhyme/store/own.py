"""What of a folder is a store's own: nothing else is ever deleted."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

from rhyme.encoders import load_package
from rhyme.encoders.files import CARD, CONFIG, WEIGHTS
from rhyme.encoders.files import PLAN as INFERENCE
from rhyme.errors import PackageError
from rhyme.store.layout import ENCODER, LOCK, TABLE, VECTORS, WORK, StoreInfo

__all__ = ["PLAN", "delete_work", "is_generation", "strangers"]

PLAN = "plan.json"
"""What the job in hand is: written before its first shard, deleted after its last."""
_PLANNED = {"package", "every"}
_GENERATION = re.compile(r"g\d{6,}")
_ROWS = {VECTORS, f"{TABLE}.lance", ".DS_Store"}
_PACKAGE = {WEIGHTS, CONFIG, INFERENCE, CARD, ".DS_Store"}
# shards, copies of an encoder that were cut short, and files that were being written
_WORK = re.compile(r"\d{6,}\.npz|encoder-[0-9a-f]{8}|\.(plan\.json|\d{6,}\.npz)\..+")


def strangers(target: Path, info: StoreInfo | None, package: str) -> list[str]:
    """Names within a folder, which is to become a store or is one, that are not the store's.

    Before the first generation is committed the plan of a job is what tells a store: without it
    no folder of rows, shards or an encoder is taken for one of ours.

    Args:
        target: the folder.
        info: what the store is; None where nothing was committed.
        package: hash of the encoder that is to write.

    Returns:
        Names by their place in the folder. Of a store only what stands where the store's own would:
        other files are let be.
    """
    known = info is not None or _is_plan(target / WORK / PLAN)
    found: list[str] = []
    for path in sorted(target.iterdir()):
        if path.name == WORK:
            found += _strange_work(path, known)
        elif path.name == ENCODER:
            found += _strange_encoder(path, package) if known else [path.name]
        elif path.name == LOCK:
            found += [] if info or (path.is_file() and not path.stat().st_size) else [path.name]
        elif _GENERATION.fullmatch(path.name):
            found += [] if known and is_generation(path) else [path.name]
        elif info is None and not path.name.startswith("."):
            found.append(path.name)
    return found


def is_generation(path: Path) -> bool:
    """Whether a folder is a generation, or one that was cut short: it holds nothing else."""
    return (
        _GENERATION.fullmatch(path.name) is not None and _is_folder(path) and _inside(path) <= _ROWS
    )


def delete_work(folder: Path) -> None:
    """Delete the shards of a job, and its plan last: what a kill leaves is still known for ours.

    Args:
        folder: ``work`` of a store; what is not the job's stays in it.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _WORK.fullmatch(path.name):
            if _is_folder(path):
                shutil.rmtree(path)
            else:
                path.unlink()
    if _is_plan(folder / PLAN):
        (folder / PLAN).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _strange_work(folder: Path, known: bool) -> list[str]:
    if not folder.is_dir():
        return [folder.name]
    return [
        f"{folder.name}/{name}"
        for name in sorted(_inside(folder))
        if not name.startswith(".")
        and not (known and (_WORK.fullmatch(name) or _is_plan(folder / name)))
    ]


def _strange_encoder(folder: Path, package: str) -> list[str]:
    """What would be lost with the store's encoder; nothing where that stays as it is."""
    if not _is_folder(folder):
        return [folder.name]
    found = sorted(_inside(folder) - _PACKAGE)
    if found:
        with contextlib.suppress(PackageError):
            found = [] if load_package(folder).hash == package else found
    return [f"{folder.name}/{name}" for name in found]


def _is_plan(path: Path) -> bool:
    try:
        return path.name == PLAN and set(json.loads(path.read_bytes())) == _PLANNED
    except (OSError, ValueError, TypeError):
        return False


def _inside(folder: Path) -> set[str]:
    """Names in a folder; none where another process has just deleted it."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
