"""Checkpoints: written whole or not at all, verified when read.

A checkpoint is a folder ``checkpoints/step-00000123/``::

    state.safetensors   every tensor, by a flat name; any number of such files together
    state.json          everything else, with references to the tensors by name
    slices-00000.safetensors, ...   rows of the tensors of which each rank holds some
    manifest.json       size and SHA-256 of all others, written last

The folder is filled under a temporary name; its files and the folder are synced before the rename
that makes it visible, and the parent folder after it. Whatever moment a process is killed at, the
newest folder with a matching manifest is a complete checkpoint. Nothing is pickled.

:func:`save` does it in one call. Where several ranks have tensors to write, one of them opens a
:class:`Draft` and commits it, and all of them add files in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from rhyme.errors import CheckpointError, StorageError
from rhyme.media.patience import patiently
from rhyme.run import fsync_directory, sha256_file

FORMAT = 1
TENSORS, STATE, MANIFEST = "state.safetensors", "state.json", "manifest.json"
SLICES = "slices-"  # begins the names of files with some rows of tensors, in the order of the rows
_NAME = re.compile(r"step-(\d{8,})")
_TENSOR_FILE = re.compile(r"\w[\w-]*\.safetensors")
_TEMPORARY = ".writing-"
_DROPPED = ".dropped-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes:
        path: its folder.
        step: steps done.
        sha256: of its manifest, which tells it from any other.
        tensors: tensors by flat name.
        state: everything else.
    """

    path: Path
    step: int
    sha256: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]


# The operations that touch the disk, one function each: tests stop the world around them.
def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file."""
    with path.open("xb") as file:
        file.write(data)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a new file of contiguous tensors, straight from their memory."""
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    try:
        safetensors.torch.save_file(dict(tensors), path)
    except SafetensorError as error:  # how the library tells what the system said
        raise OSError(str(error)) from error
    path.chmod(mode)  # the library makes private files


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    fsync_directory(path)


def rename(old: Path, new: Path) -> None:
    """Give a folder its name."""
    old.rename(new)


def folder_name(step: int) -> str:
    """Name of a step's folder."""
    return f"step-{step:08d}"


def steps_on_disk(folder: Path) -> list[int]:
    """Steps whose folder exists, complete or not, rising."""
    if not folder.is_dir():
        return []
    found = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


class Draft:
    """A checkpoint that is being written.

    Args:
        folder: the run's ``checkpoints``.
        step: steps done.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step
        self.final = folder / folder_name(step)
        self.path = folder / f"{_TEMPORARY}{self.final.name}"

    def open(self) -> None:
        """Make the temporary folder; remove what a killed save left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        self.path.mkdir()

    def add(self, name: str, content: Mapping[str, Tensor] | bytes) -> dict[str, Any]:
        """Write and sync a file.

        Args:
            name: ``state.json``, or a name that ends with ``.safetensors``.
            content: its bytes, or its tensors: contiguous, on the CPU, each with its own memory.

        Returns:
            Its entry of the manifest.
        """
        path = self.path / name
        if isinstance(content, bytes):
            write_bytes(path, content)
        else:
            write_tensors(path, content)
        sync_file(path)
        return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}

    def commit(self, listed: Mapping[str, Mapping[str, Any]]) -> Path:
        """Give the folder its name, for good.

        Args:
            listed: what :meth:`add` returned, on all ranks, by the files' names.
        """
        manifest = {"format": FORMAT, "step": self.step, "files": listed}
        write_bytes(self.path / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync_file(self.path / MANIFEST)
        sync_folder(self.path)
        if self.final.exists():
            drop(self.final)
        rename(self.path, self.final)
        sync_folder(self.folder)
        return self.final

    def refused(self, error: OSError) -> CheckpointError:
        """Remove the temporary folder, and say why there is no checkpoint."""
        shutil.rmtree(self.path, ignore_errors=True)
        return CheckpointError(
            f"the checkpoint could not be written: {error.strerror or error}",
            file=self.final,
            stage="save checkpoint",
            remedy="make room or give a writable --out; earlier checkpoints are intact",
        )


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int,
    keep_every: int | None = None,
    spare: int | None = None,
) -> Path:
    """Write a checkpoint and drop the oldest ones.

    Args:
        folder: the run's ``checkpoints``.
        step: steps done.
        tensors: tensors by flat name; contiguous, on the CPU, each with its own memory, such as
            :class:`rhyme.training.writer.Copies` makes.
        state: JSON data.
        keep: newest checkpoints that stay, this one included.
        keep_every: those of every so many steps stay as well.
        spare: the one of this step stays as well.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: the disk refuses; earlier checkpoints are as they were.
    """
    draft = Draft(folder, step)
    try:
        draft.open()
        listed = {TENSORS: draft.add(TENSORS, tensors)}
        text = json.dumps(state, allow_nan=False, ensure_ascii=True)
        listed[STATE] = draft.add(STATE, text.encode())
        final = draft.commit(listed)
    except OSError as error:
        raise draft.refused(error) from error
    prune(folder, step, keep, keep_every, spare)
    return final


def prune(
    folder: Path, step: int, keep: int, keep_every: int | None = None, spare: int | None = None
) -> None:
    """Drop checkpoints before a step, but for the newest, a spared one, and those kept for good.

    What cannot be removed stays until the next time: it harms nothing.
    """
    older = [s for s in steps_on_disk(folder) if s < step]
    for old in older[: -(keep - 1) or None]:
        if old != spare and (keep_every is None or old % keep_every):
            with suppress(OSError):
                drop(folder / folder_name(old))


def drop_after(folder: Path, step: int) -> None:
    """Drop all checkpoints after a step, the newest first: none of them is to be resumed from.

    Raises:
        CheckpointError: the disk refuses.
    """
    later = [s for s in steps_on_disk(folder) if s > step]
    try:
        for left in reversed(later):
            drop(folder / folder_name(left))
        if later:
            sync_folder(folder)
    except OSError as error:
        raise CheckpointError(
            f"a checkpoint that the run went back behind stays: {error.strerror or error}",
            file=folder,
            stage="roll back",
            remedy="make the folder writable; then go on with the run: it goes back once more",
        ) from error


def sweep(folder: Path) -> None:
    """Remove what a killed save or removal left behind."""
    for entry in folder.iterdir():
        if entry.name.startswith((_TEMPORARY, _DROPPED)):
            shutil.rmtree(entry, ignore_errors=True)


def drop(path: Path) -> None:
    """Remove a checkpoint so that no half of it is ever found under its name."""
    aside = path.with_name(f"{_DROPPED}{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None.

    Raises:
        StorageError: the storage under them keeps failing; nothing is known of the files.
    """
    try:
        return patiently(lambda: _problem(path), path)
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except OSError as error:
        return f"unreadable: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"


def _problem(path: Path) -> str | None:
    manifest = json.loads((path / MANIFEST).read_bytes())
    listed = cast(dict[str, Any], manifest["files"])
    if manifest["format"] != FORMAT:
        return f"format {manifest['format']!r} is not {FORMAT}"
    tensors = {name for name in listed if _TENSOR_FILE.fullmatch(name)}
    if not tensors or set(listed) - tensors != {STATE}:
        return "the manifest lists other files"
    if folder_name(manifest["step"]) != path.name:
        return "the manifest is of another step"
    for name, facts in listed.items():
        if (path / name).stat().st_size != facts["bytes"]:
            return f"{name} has another size than the manifest says"
        if sha256_file(path / name) != facts["sha256"]:
            return f"{name} has another checksum than the manifest says"
    return None


def newest(folder: Path, damaged: Callable[[Path, str], None] | None = None) -> Path | None:
    """The newest complete checkpoint whose checksums match.

    Args:
        folder: the run's ``checkpoints``.
        damaged: told of each newer one that is passed over, and why.

    Raises:
        StorageError: none is whole, and one could not be read for the storage under it.
    """
    trouble: StorageError | None = None
    for step in reversed(steps_on_disk(folder)):
        path = folder / folder_name(step)
        try:
            cause = problem(path)
        except StorageError as error:
            trouble, cause = error, error.cause
        if cause is None:
            return path
        if damaged is not None:
            damaged(path, cause)
    if trouble is not None:
        raise trouble
    return None


def read(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: it is missing, incomplete or damaged.
        StorageError: the storage under it keeps failing.
    """
    cause = problem(path)
    if cause is not None:
        raise CheckpointError(
            f"the checkpoint is damaged: {cause}",
            file=path,
            stage="read checkpoint",
            remedy="resume from an earlier one",
        )
    try:
        return patiently(lambda: _read(path), path)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            "the checkpoint cannot be read", file=path, stage="read checkpoint", value=str(error)
        ) from error


def _read(path: Path) -> Checkpoint:
    manifest = (path / MANIFEST).read_bytes()
    tensors: dict[str, Tensor] = {}
    slices: dict[str, list[Tensor]] = {}
    for name in sorted(json.loads(manifest)["files"]):
        if name != STATE:
            found = safetensors.torch.load((path / name).read_bytes())
            if name.startswith(SLICES):
                for key, rows in found.items():
                    slices.setdefault(key, []).append(rows)
            else:
                tensors |= found
    tensors |= {name: torch.cat(rows) for name, rows in slices.items()}
    state = json.loads((path / STATE).read_bytes())
    if not isinstance(state, dict):
        raise CheckpointError("the checkpoint holds no table", file=path, stage="read checkpoint")
    match = _NAME.fullmatch(path.name)
    step = int(match[1]) if match else -1
    digest = hashlib.sha256(manifest).hexdigest()
    return Checkpoint(path, step, digest, tensors, cast(dict[str, Any], state))
