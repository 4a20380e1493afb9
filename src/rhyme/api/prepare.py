"""Prepared shards: a collection's frames at training size, written once, read many times faster."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rhyme.api.checks import check_root
from rhyme.api.data import ReadOptions, read_source
from rhyme.api.data_notes import data_notes
from rhyme.api.progress import progress_bar
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError, DataError
from rhyme.loading import PREPARED, PreparedSummary, PrepareOptions, prepare_shards
from rhyme.loading import verify_shards as verify_folder
from rhyme.loading.prepare_file import sources, typical_bytes
from rhyme.notices import tell


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What shards will hold, from a few frames.

    Attributes:
        files: source files.
        frames: pictures, as far as the catalog knows.
        bytes: of all shards, about.
        source_bytes: of the source files.
        free_bytes: on the disk.
    """

    files: int
    frames: int
    bytes: int
    source_bytes: int
    free_bytes: int


def prepare(
    data: str | Path | Catalog,
    *,
    out: str | Path,
    size: int = 128,
    format: str = "jpeg",  # noqa: A002
    quality: int = 90,
    fps: float | None = None,
    workers: int = 0,
    shard_mib: int = 256,
    options: ReadOptions | None = None,
    progress: bool | None = None,
) -> PreparedSummary:
    """Write a collection's frames at training size as shards that are read like the collection.

    Items, ids, groups, labels, splits, times, draws and maps stay those of the originals; only the
    pixels are smaller, by a PSNR that is measured while writing. A call that was stopped goes on
    where it was.

    Args:
        data: a folder of files, a catalog, or its path.
        out: folder of the shards: a new one, or one that the same call began.
        size: pixels of the shorter side; frames are never enlarged.
        format: ``jpeg`` or ``webp``.
        quality: of the encoder, 1 to 100.
        fps: frames a second that are kept; None keeps all, and only then are all times equal.
        workers: processes that decode and encode; 0 works in this one.
        shard_mib: MiB of a shard.
        options: how a folder is read.
        progress: False for silence on standard error.

    Returns:
        What was written.

    Raises:
        DataError: the folder holds something else, the disk is full, or no file can be used.
        ConfigError: an option is out of range.
    """
    kept = PrepareOptions(size=size, format=cast(Any, format), quality=quality, fps=fps)
    if shard_mib < 1:
        raise ConfigError(
            "a shard must have at least 1 MiB", value=shard_mib, remedy="e.g. --shard-mib 256"
        )
    catalog = read_source(data, options)
    check_root(catalog)
    for note in data_notes(data, catalog) if progress is not False else ():
        tell(note)
    target = Path(out)
    if not (target / PREPARED).is_file():
        expected = expect(catalog, kept, target)
        if expected is not None:
            if progress is not False:
                tell(_about(expected))
            if expected.bytes > expected.free_bytes:
                raise DataError(
                    f"the shards will take about {mib(expected.bytes)} and the disk has "
                    f"{mib(expected.free_bytes)} left",
                    file=target,
                    stage="prepare",
                    remedy="free some space, or a smaller --size, --quality or --fps",
                )
    with progress_bar("prepare", "frames") as bar:
        return prepare_shards(
            catalog,
            target,
            kept,
            workers=workers,
            shard_bytes=shard_mib << 20,
            progress=bar,
        )


def verify(shards: str | Path) -> dict[str, Any]:
    """Read every byte of a folder of shards and compare its checksums.

    Args:
        shards: folder that :func:`prepare` wrote.

    Returns:
        Number of shards and bytes.

    Raises:
        DataError: shards are missing or changed; all are named.
    """
    with progress_bar("verify", "MiB") as bar:
        return verify_folder(shards, progress=bar)


def expect(catalog: Catalog, options: PrepareOptions, out: Path) -> Expected | None:
    """About how large shards will be; None where no frame can be read.

    Args:
        catalog: the items.
        options: what is kept.
        out: where the shards go.
    """
    files = sources(catalog, options)
    frame = typical_bytes(catalog, files, options)
    if frame is None:
        return None
    frames = sum(f.frames for f in files)
    there = out.absolute()
    while not there.exists():
        there = there.parent
    return Expected(
        files=len(files),
        frames=frames,
        bytes=round(frame * frames),
        source_bytes=int(catalog.numbers("bytes")[[f.row for f in files]].sum()),
        free_bytes=shutil.disk_usage(there).free,
    )


def prepared_note(catalog: Catalog) -> str | None:
    """What a command says when it reads prepared shards; None for original files."""
    facts = catalog.meta.get("prepared")
    if not isinstance(facts, dict):
        return None
    told = cast("dict[str, Any]", facts)
    rate = "all frames" if told.get("fps") is None else f"{told['fps']:g} frames/s"
    mean, worst = (float(told[name]) for name in ("psnr_mean", "psnr_worst"))
    return (
        f"reads prepared shards: {rate}, shorter side {told['size']} px, {told['format']} "
        f"q{told['quality']}, PSNR {mean:.1f} dB (worst frame {worst:.1f} dB); no sound"
    )


def mib(count: float) -> str:
    """Bytes for people."""
    if count < 2**20:
        return f"{count:,.0f} bytes"
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.2f} GiB"


def _about(expected: Expected) -> str:
    return (
        f"{expected.files} files, {expected.frames:,} frames: about {mib(expected.bytes)} "
        f"(the originals have {mib(expected.source_bytes)}; {mib(expected.free_bytes)} are free)"
    )
