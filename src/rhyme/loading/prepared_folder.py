"""A folder of prepared shards: what it says of itself, who may write it, whether it is whole."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rhyme.catalog import FILE_NAME, Catalog
from rhyme.errors import DataError
from rhyme.run import atomic_write, sha256_file

__all__ = ["PREPARED", "PreparedSummary", "claim", "locked", "psnr", "verify_shards"]

PREPARED = "prepared.json"
"""What a folder of shards is: written before its first shard, and again when it is complete."""


@dataclass(frozen=True, kw_only=True)
class PreparedSummary:
    """A folder of shards.

    Attributes:
        path: the folder.
        size: pixels of the shorter side.
        format: of the pictures.
        quality: of the encoder.
        fps: frames a second that were kept; None for all.
        items: items of the catalog.
        files: source files.
        frames: pictures.
        damaged: pictures that the source's decoder reported as damaged.
        bytes: of all shards.
        source_bytes: of the source files.
        psnr_mean: dB of the mean squared error over all pixels, against the frame scaled only.
        psnr_worst: dB of the worst frame.
        worst: the source file that the worst frame belongs to.
        shards: bytes and SHA-256 by file name.
        quarantine: files left out, by the scan or here.
        silent: items of sound alone, which have no frames to keep.
        found: source files that an earlier call had finished.
    """

    path: Path
    size: int
    format: str
    quality: int
    fps: float | None
    items: int
    files: int
    frames: int
    damaged: int
    bytes: int
    source_bytes: int
    psnr_mean: float
    psnr_worst: float
    worst: str
    shards: Mapping[str, Mapping[str, Any]]
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    silent: int = 0
    found: int = 0

    @property
    def ratio(self) -> float:
        """Bytes of the shards over those of the source files."""
        return self.bytes / max(self.source_bytes, 1)

    def rows(self) -> list[list[str]]:
        """What a person wants to know: name and value."""
        mean, worst = self.psnr_mean, self.psnr_worst
        rows = [
            ["items", f"{self.items:,} of {self.files:,} files"],
            [
                "frames",
                f"{self.frames:,}, shorter side {self.size} px, {self.format} q{self.quality}",
            ],
            ["bytes", f"{self.bytes:,} in {len(self.shards)} shards"],
            ["bytes of the originals", f"{self.source_bytes:,}, so {self.ratio:.2f} times as many"],
            ["PSNR", f"{mean:.1f} dB; worst frame {worst:.1f} dB, in {self.worst}"],
        ]
        if self.damaged:
            rows.append(["damaged frames", f"{self.damaged:,}, kept as the decoder concealed them"])
        if self.silent:
            rows.append(["sound alone", f"{self.silent:,} items, left out: shards hold frames"])
        return rows


def psnr(squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error in levels; infinite for none."""
    return math.inf if squared_error <= 0 else 10 * math.log10(255.0**2 / squared_error)


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Take a folder for shards: a new one, or one that the same call began.

    Raises:
        DataError: it holds something else, or shards of other data or options.
    """
    marker = folder / PREPARED
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not marker.is_file():
        raise DataError(
            "something else stands there, and it is not replaced",
            file=folder,
            stage="prepare",
            remedy="give a new folder: --out SHARDS",
        )
    if not marker.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(marker, json.dumps({"state": "begun", "settings": dict(settings)}, indent=2))
        return
    try:
        before = dict(json.loads(marker.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the folder says of no settings that it was made with",
            file=marker,
            stage="prepare",
            remedy="give a new folder: --out SHARDS",
        ) from error
    other = [k for k in sorted({*before, *settings}) if before.get(k) != settings.get(k)]
    if other:
        raise DataError(
            "the folder holds shards that were made with other data"
            if other == ["source"]
            else "the folder holds shards that were made with other options",
            file=folder,
            stage="prepare",
            value={k: {"there": before.get(k), "now": settings.get(k)} for k in other},
            remedy="give a new folder, or delete this one",
        )


def verify_shards(
    folder: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Read every byte of a folder's shards and compare the checksums.

    Args:
        folder: of prepared shards.
        progress: called with (MiB done, MiB).

    Returns:
        ``shards`` and ``bytes`` that were read.

    Raises:
        DataError: a shard is missing or changed, and all such are named; or they are not complete.
    """
    root = Path(folder)
    shards = cast("dict[str, Any]", _prepared(root)["shards"])
    total = sum(int(row["bytes"]) for row in shards.values())
    done, bad = 0, list[str]()
    for name, row in shards.items():
        path = root / name
        if not path.is_file():
            bad.append(f"{name} is missing")
        elif path.stat().st_size != row["bytes"]:
            bad.append(f"{name} has {path.stat().st_size} bytes instead of {row['bytes']}")
        elif sha256_file(path) != row["sha256"]:
            bad.append(f"{name} has changed")
        done += int(row["bytes"])
        if progress is not None:
            progress(done >> 20, total >> 20)
    if bad:
        raise DataError(
            f"{len(bad)} of {len(shards)} shards are not as they were written: {'; '.join(bad)}",
            file=root,
            stage="verify",
            remedy="copy them again, or delete them and run the same rhyme prepare command",
        )
    return {"path": str(root), "shards": len(shards), "bytes": total}


def _prepared(root: Path) -> dict[str, Any]:
    if not (root / FILE_NAME).is_file():
        begun = (root / PREPARED).is_file()
        raise DataError(
            "the shards in this folder are not complete" if begun else "no prepared shards here",
            file=root,
            stage="verify",
            remedy="run the same rhyme prepare command again: it goes on where it was"
            if begun
            else "make them: rhyme prepare DIR --out SHARDS",
        )
    found = Catalog.open(root).meta.get("prepared")
    if not isinstance(found, dict):
        raise DataError("the folder's catalog is not one of shards", file=root, stage="verify")
    return cast("dict[str, Any]", found)


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the folder for writing, until the process ends at the latest.

    Raises:
        DataError: another process holds it.
    """
    import fcntl

    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                "another process is writing these shards",
                file=folder.parent,
                stage="prepare",
                remedy="wait until it is done",
            ) from error
        yield
