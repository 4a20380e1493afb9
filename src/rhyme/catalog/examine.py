"""One candidate becomes facts or a reason to leave it out; runs in worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rhyme.catalog.candidates import Candidate
from rhyme.errors import MediaError, RhymeError, StorageError, printable
from rhyme.media import Depth, FrameFolder, Limits, MediaInfo, Member, Picture, probe


@dataclass(frozen=True, kw_only=True)
class Task:
    """A candidate and how to look at it; goes to a worker.

    Args:
        root: the collection's root.
        candidate: what to look at.
        depth: how far to look.
        spacing: seconds between frames of a frame folder.
        limits: bounds.
    """

    root: str
    candidate: Candidate
    depth: Depth
    spacing: float
    limits: Limits


def examine(task: Task) -> dict[str, Any]:
    """Facts about a candidate, or why it cannot be used; never raises for a bad file.

    Raises:
        StorageError: the disk or the network failed, which says nothing about the file.

    Args:
        task: the candidate.

    Returns:
        ``{"facts": {...}}`` or ``{"refused": {"reason", "remedy", "versions", "sha256"}}``.
    """
    try:
        return {"facts": _facts(task)}
    except StorageError:
        raise
    except RhymeError as error:
        return refusal(Path(task.root), task.candidate, error)


def _facts(task: Task) -> dict[str, Any]:
    candidate = task.candidate
    if candidate.kind == "frames":
        info = _frame_folder(task)
    elif candidate.member is not None:
        info = _archived_picture(candidate.member, task)
    else:
        info = probe(Path(task.root) / candidate.path, task.depth, limits=task.limits)
    # not asdict: its deep copies take longer than to look into a small picture
    facts = {f.name: getattr(info, f.name) for f in fields(info) if f.name != "audio"}
    return {**facts, "sound": info.audio is not None, "spacing": task.spacing}


def _archived_picture(member: Member, task: Task) -> MediaInfo:
    with Picture(member, limits=task.limits) as picture:
        info = picture.info
        picture.check(task.depth)
        return info


def _frame_folder(task: Task) -> MediaInfo:
    files = [Path(task.root) / name for name in task.candidate.files]
    with FrameFolder(files, spacing=task.spacing, limits=task.limits) as folder:
        task.limits.check("frames", len(files), file=files[0].parent, stage="scan")
        info = folder.info
        folder.check(task.depth)
        return info


def refusal(root: Path, candidate: Candidate, error: Exception) -> dict[str, Any]:
    """The quarantine entry for an error.

    Args:
        root: the collection's root.
        candidate: the file.
        error: what looking at it raised.
    """
    known = isinstance(error, RhymeError)
    reason = error.reason if known else f"{type(error).__name__}: {error}"
    if isinstance(error, MediaError) and isinstance(error.value, bytes):
        reason += f" (first bytes: {error.value!r})"
    if isinstance(error, MediaError) and candidate.files and error.file is not None:
        reason += f" ({Path(error.file).name})"  # one picture of a frame folder is to blame
    remedy = (error.remedy if known else None) or "leave the file out, or give another copy"
    entry = {
        "reason": printable(reason),
        "remedy": printable(remedy),
        "versions": tool_versions(),
        "sha256": head_hash(root / (candidate.files[0] if candidate.files else candidate.path)),
    }
    return {"refused": entry}


def quarantined(path: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """A quarantine row for a path."""
    return {"path": printable(path), **{name: str(entry[name]) for name in entry}}


def head_hash(file: Path) -> str:
    """sha256 of the first megabyte; empty where the file cannot be read."""
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as opened:
            return hashlib.sha256(opened.read(1 << 20)).hexdigest()
    except OSError:
        return ""


def tool_versions() -> str:
    """The libraries that read media, with their versions."""
    import av
    import PIL

    from rhyme import __version__

    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    return (
        f"rhyme {__version__}, PyAV {av.__version__}, libavcodec {codec}, Pillow {PIL.__version__}"
    )
