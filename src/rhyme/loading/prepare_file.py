"""One source file becomes a part of a shard: decoded once, scaled, encoded, measured."""

from __future__ import annotations

import faulthandler
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rhyme.catalog import Catalog
from rhyme.errors import ConfigError, NotMedia, RhymeError
from rhyme.media import FrameReader
from rhyme.media.shard import Shard
from rhyme.media.shard_writer import ShardWriter
from rhyme.media.still import FORMATS, StillFormat, decode_still, encode_still
from rhyme.media.times import shown_at
from rhyme.views.crops import resized

__all__ = ["PrepareFile", "PrepareOptions", "SourceFile", "part_of", "sources", "typical_bytes"]

_CHUNK_BYTES = 64 << 20
_CHUNK_FRAMES = 64
_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What is kept of each frame.

    Attributes:
        size: pixels of the shorter side; smaller frames stay as they are.
        format: ``"jpeg"``, or ``"webp"``: fewer bytes, several times slower to decode and encode.
        quality: of the encoder, 1 to 100.
        fps: frames a second of the source's clock that are kept; None keeps every frame.
    """

    size: int = 128
    format: StillFormat = "jpeg"
    quality: int = 90
    fps: float | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise ConfigError(
                "the size must lie between 8 and 4096 pixels",
                value=self.size,
                remedy="e.g. --size 128",
            )
        if self.format not in FORMATS:
            raise ConfigError(
                "no such picture format", value=self.format, remedy=f"one of {', '.join(FORMATS)}"
            )
        if not 1 <= self.quality <= 100:
            raise ConfigError(
                "the quality must lie between 1 and 100",
                value=self.quality,
                remedy="e.g. --quality 90",
            )
        if self.fps is not None and not 0 < self.fps < 1e6:
            raise ConfigError(
                "frames a second must be above 0", value=self.fps, remedy="or keep all: --fps all"
            )

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of what is kept of a frame."""
        scale = self.size / min(rows, columns)
        if scale >= 1:
            return rows, columns
        return max(1, round(rows * scale)), max(1, round(columns * scale))


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of the collection, with all of its items.

    Attributes:
        number: place among the files.
        row: a row of the catalog whose reader opens it.
        path: the item path.
        rows: all rows of the file.
        frames: frames to be kept, as far as the catalog knows.
    """

    number: int
    row: int
    path: str
    rows: tuple[int, ...]
    frames: int


def sources(catalog: Catalog, options: PrepareOptions) -> list[SourceFile]:
    """The files of a catalog that have frames, in its order."""
    facts = catalog.facts()
    names = ["path", "kind", "files"]
    table = catalog.table.select(names).to_pylist()
    rows_of: dict[tuple[str, ...], list[int]] = {}
    for row, item in enumerate(table):
        if facts.width[row] > 0 and facts.height[row] > 0:
            key = (str(item["kind"]), *(item["files"] or (str(item["path"]),)))
            rows_of.setdefault(key, []).append(row)
    found: list[SourceFile] = []
    for number, rows in enumerate(rows_of.values()):
        frames = int(facts.frames[rows].sum())
        fps = float(facts.fps[rows[0]])
        if options.fps is not None and 0 < options.fps < fps:
            frames = int(np.ceil(frames * options.fps / fps))
        found.append(
            SourceFile(
                number=number,
                row=rows[0],
                path=str(table[rows[0]]["path"]),
                rows=tuple(rows),
                frames=max(frames, 1),
            )
        )
    return found


def part_of(folder: Path, number: int) -> Path:
    """Where the part of a source file lies until its shard is whole."""
    return folder / f"{number:08d}.part"


@dataclass(frozen=True, kw_only=True)
class PrepareFile:
    """Writes the part of one source file; travels to the workers.

    Attributes:
        catalog: the collection.
        options: what is kept.
        folder: where parts are written.
        patience: seconds that a few frames may take in a worker process, which is ended then: only
            that stops a decoder that hangs. None waits.
    """

    catalog: Catalog
    options: PrepareOptions
    folder: Path
    patience: float | None = None

    def __call__(self, source: SourceFile) -> None:
        """Decode, scale, encode and measure every frame that is kept.

        Raises:
            MediaError: the file cannot be used.
            CatalogError: it has changed or gone.
            DataError: the part cannot be written.
        """
        reader = self.catalog.reader(source.row)
        try:
            with (
                Path(os.devnull).open("w") as nothing,
                ShardWriter(part_of(self.folder, source.number), durable=False) as writer,
            ):
                self._write(source, reader, writer, nothing)
        finally:
            if self.patience is not None:
                faulthandler.cancel_dump_traceback_later()
            reader.close()

    def _write(
        self, source: SourceFile, reader: FrameReader, writer: ShardWriter, nothing: object
    ) -> None:
        errors: list[float] = []
        damaged = 0
        digest = hashlib.sha256()
        shape = (0, 0)
        for k, pixels, time in self._frames(source, reader, nothing):
            shape = (pixels.shape[0], pixels.shape[1])
            picture = encode_still(pixels, self.options.format, self.options.quality)
            errors.append(_squared_error(picture, pixels, self.options.format))
            bad = k in getattr(reader, "damaged", ())
            damaged += bad
            digest.update(picture)
            writer.add(picture, time, bad)
        info = replace(reader.info, corrupt_frames=damaged)
        facts = {
            "number": source.number,
            "path": source.path,
            "info": asdict(info),
            "frames": len(errors),
            "bytes": writer.size,
            "sha256": digest.hexdigest(),
            "mse": float(np.mean(errors)),
            "worst_mse": float(np.max(errors)),
        }
        writer.end_entry(facts, rows=shape[0], columns=shape[1], form=self.options.format)
        writer.finish()

    def _frames(
        self, source: SourceFile, reader: FrameReader, nothing: object
    ) -> Iterator[tuple[int, NDArray[np.uint8], float]]:
        """Number, pixels ``[h, w, 3]`` and time of the frames that are kept."""
        self._watch(nothing)
        times = reader.times
        wanted = np.flatnonzero(self._kept(source, reader))
        info = reader.info
        room = _CHUNK_BYTES // max(info.width * info.height * 3, 1)
        step = int(np.clip(room, 1, _CHUNK_FRAMES))
        shape: tuple[int, int] | None = None
        for first in range(0, len(wanted), step):
            self._watch(nothing)
            numbers = wanted[first : first + step]
            frames, shown = reader.read(times[numbers])
            shape = shape or self.options.shape(int(frames.shape[-2]), int(frames.shape[-1]))
            for k, pixels, time in zip(numbers, _scaled(frames, shape), shown, strict=True):
                yield int(k), pixels, float(time)

    def _kept(self, source: SourceFile, reader: FrameReader) -> NDArray[np.bool_]:
        """``bool [n]``: frames of the file that its items may ask for, at the rate that is kept."""
        times, info = reader.times, reader.info
        kept = np.zeros(len(times), dtype=bool)
        facts = self.catalog.facts(list(source.rows))
        for start, stop, fps in zip(facts.start, facts.stop, facts.fps, strict=True):
            # Counts are rounded where a file is cut into items: one frame more than its time.
            ends = [start, stop + (1.0 / fps if fps > 0 else 0.0)]
            first, last = shown_at(times, ends).tolist()
            kept[first : last + 1] = True
        if self.options.fps is not None:
            ticks = np.arange(0.0, max(info.duration, 1e-9), 1.0 / self.options.fps)
            shown = np.zeros(len(times), dtype=bool)
            shown[shown_at(times, ticks)] = True
            kept &= shown
        if not kept.any():  # items shorter than a tick
            kept[shown_at(times, [float(facts.start[0])])] = True
        return kept

    def _watch(self, nothing: object) -> None:
        if self.patience is not None:
            faulthandler.dump_traceback_later(self.patience, exit=True, file=nothing)  # pyright: ignore


def _scaled(frames: Tensor, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """``uint8 [t, h, w, 3]``."""
    small = resized(frames, *shape, "bilinear")
    return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())


def _squared_error(picture: bytes, pixels: NDArray[np.uint8], form: StillFormat) -> float:
    """Mean squared error of an encoded picture, in levels, read as it will be read later."""
    back = np.empty_like(pixels)
    try:
        decode_still(picture, form, back)
    except ValueError as error:
        raise NotMedia(f"the encoder wrote what cannot be read: {error}", stage="encode") from error
    apart = back.astype(np.float32).ravel()
    apart -= pixels.astype(np.float32).ravel()
    return float(np.dot(apart, apart)) / len(apart)


def part_is_whole(path: Path) -> bool:
    """Whether a part that an earlier call left is complete, every byte of its pictures included."""
    try:
        part = Shard(path)
        entry, facts = part.entry(0), part.facts(0)
        first, last = int(entry.offsets[0]), int(entry.offsets[-1]) + int(entry.lengths[-1])
        return hashlib.sha256(part.data[first:last]).hexdigest() == facts.get("sha256")
    except RhymeError:
        return False


def typical_bytes(
    catalog: Catalog, files: list[SourceFile], options: PrepareOptions
) -> float | None:
    """Bytes of a kept frame, from the middle frames of a few files; None where none can be read."""
    taken = np.unique(np.linspace(0, len(files) - 1, min(_SAMPLES, len(files))).astype(int))
    sizes: list[int] = []
    for number in taken:
        facts = catalog.facts([files[number].row])
        try:
            reader = catalog.reader(files[number].row)
            try:
                frames, _ = reader.read([float(facts.start[0] + facts.stop[0]) / 2])
            finally:
                reader.close()
        except RhymeError:
            continue
        shape = options.shape(int(frames.shape[-2]), int(frames.shape[-1]))
        sizes.append(len(encode_still(_scaled(frames, shape)[0], options.format, options.quality)))
    return float(np.mean(sizes)) if sizes else None
