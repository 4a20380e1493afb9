"""Prepared shards: many files' frames as small pictures in one file, read by time.

A shard is written once and never changed::

    magic      16 bytes
    pictures   JPEG or WebP, one after another
    records    one an entry: where its frames and its facts begin, the pictures' size and format
    times, offsets, lengths, damaged      one of each a frame
    facts      JSON, one object an entry
    footer     where the index begins, how many of each there are, magic

An entry is what was one source file. The file is mapped into memory; opening it reads the footer,
an entry costs a look at its own frames. Every number is checked against the file's size before it
is used, so that a forged index reads nothing outside of the file and takes no memory.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from rhyme.errors import DataError, LimitExceeded, MediaError
from rhyme.media.info import AudioInfo, Kind, MediaInfo
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.sniff import open_regular
from rhyme.media.still import FORMATS, StillFormat

MAGIC = b"RHYME-SHARD-1\n\x1a\0"
END = b"RHYMEEND"
FOOTER = struct.Struct("<QQQQ8s")
RECORD = np.dtype(
    [
        *(("first", "<u8"), ("count", "<u8"), ("facts", "<u8")),
        *(("facts_bytes", "<u4"), ("rows", "<u4"), ("columns", "<u4"), ("form", "<u4")),
    ]
)
COLUMNS = (("times", "<f8"), ("offsets", "<u8"), ("lengths", "<u4"), ("damaged", "<u1"))

_REMEDY = "copy the shard again, or delete it and run the same rhyme prepare command"
_OPEN = 64
_FACTS_BYTES = 1 << 20
_PICTURE_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """The frames of one source file.

    Attributes:
        times: ``float64 [n]`` seconds after the first shown frame of the source, ascending.
        offsets: ``uint64 [n]`` first byte of each picture.
        lengths: ``uint32 [n]`` bytes of each picture.
        damaged: ``uint8 [n]`` 1 where the source's decoder reported damage.
        rows: height of the pictures.
        columns: width of the pictures.
        form: how they are encoded.
    """

    times: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    damaged: np.ndarray
    rows: int
    columns: int
    form: StillFormat


class Shard:
    """One shard file, mapped into memory.

    Args:
        path: the file.
        limits: bounds for the file and its pictures.
        size: bytes that it must have; None takes any.

    Attributes:
        path: the file.
        entries: how many source files it holds.

    Raises:
        DataError: missing, of another size, cut, or no shard.
    """

    def __init__(
        self, path: Path, *, limits: Limits = DEFAULT_LIMITS, size: int | None = None
    ) -> None:
        self.path = path
        self._limits = limits
        try:
            file, actual = open_regular(path, limits=limits)
        except MediaError as error:
            raise self._bad(f"the shard cannot be opened: {error.cause}") from error
        with file:
            if size is not None and actual != size:
                raise self._bad(f"the shard has {actual} bytes, its catalog says {size}")
            if actual < len(MAGIC) + FOOTER.size:
                raise self._bad("the shard is cut")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        end = actual - FOOTER.size
        index, entries, frames, facts, tail = FOOTER.unpack_from(self.data, end)
        if self.data[: len(MAGIC)] != MAGIC:
            raise self._bad("this is no shard")
        frame_bytes = sum(np.dtype(kind).itemsize for _, kind in COLUMNS)
        expected = index + entries * RECORD.itemsize + frames * frame_bytes + facts
        if tail != END or index < len(MAGIC) or expected != end:
            raise self._bad("the shard is cut or damaged: its index does not fit the file")
        self.entries, self._frames, self._pictures_end = int(entries), int(frames), int(index)
        self._records = np.frombuffer(self.data, RECORD, entries, index)
        at = index + entries * RECORD.itemsize
        self._columns: dict[str, np.ndarray] = {}
        for name, kind in COLUMNS:
            self._columns[name] = np.frombuffer(self.data, kind, frames, at)
            at += frames * np.dtype(kind).itemsize
        self._facts, self._facts_size = at, int(facts)

    def _bad(self, cause: str) -> DataError:
        return DataError(cause, file=self.path, stage="shards", remedy=_REMEDY)

    def _record(self, number: int) -> Any:
        if not 0 <= number < self.entries:
            raise self._bad(f"the shard has {self.entries} entries, number {number} is asked for")
        return self._records[number]

    def entry(self, number: int) -> Entry:
        """The frames of one source file.

        Args:
            number: which entry.

        Raises:
            DataError: no such entry, or its numbers cannot be true.
            LimitExceeded: its pictures are too large.
        """
        record = self._record(number)
        first, count, form = int(record["first"]), int(record["count"]), int(record["form"])
        rows, columns = int(record["rows"]), int(record["columns"])
        if count < 1 or first + count > self._frames or form >= len(FORMATS) or not rows * columns:
            raise self._bad(f"entry {number} of the shard is damaged")
        self._limits.check_picture(columns, rows, file=self.path, stage="shards")
        part = {name: values[first : first + count] for name, values in self._columns.items()}
        times, offsets, lengths = part["times"], part["offsets"], part["lengths"]
        # One comparison each, none of which can overflow.
        inside = (offsets >= len(MAGIC)) & (offsets <= self._pictures_end)
        inside &= lengths <= self._pictures_end - np.minimum(offsets, self._pictures_end)
        sound = bool(inside.all()) and int(lengths.max()) <= _PICTURE_BYTES
        rising = bool(np.isfinite(times).all()) and bool((times[1:] > times[:-1]).all())
        if not sound or not rising or part["damaged"].max() > 1:
            raise self._bad(f"the frame table of entry {number} is damaged")
        return Entry(**part, rows=rows, columns=columns, form=FORMATS[form])

    def facts(self, number: int) -> dict[str, Any]:
        """What was written about an entry: ``info`` and whatever its writer added.

        Args:
            number: which entry.

        Raises:
            DataError: no such entry, or damaged.
        """
        record = self._record(number)
        at, size = int(record["facts"]), int(record["facts_bytes"])
        if size > _FACTS_BYTES or at + size > self._facts_size:
            raise self._bad(f"the facts of entry {number} are damaged")
        try:
            found = json.loads(self.data[self._facts + at : self._facts + at + size])
        except (ValueError, RecursionError) as error:
            raise self._bad(f"the facts of entry {number} are damaged: {error}") from error
        if not isinstance(found, dict):
            raise self._bad(f"the facts of entry {number} are damaged")
        return cast("dict[str, Any]", found)

    def info(self, number: int) -> MediaInfo:
        """Facts about the source file of an entry.

        Args:
            number: which entry.

        Raises:
            DataError: no such entry, or damaged.
        """
        try:
            return _media_info(self.facts(number)["info"])
        except (TypeError, ValueError, KeyError) as error:
            raise self._bad(f"the facts of entry {number} are damaged: {error}") from error

    def picture(self, entry: Entry, k: int) -> bytes:
        """The bytes of one picture.

        Args:
            entry: of this shard.
            k: which frame of it.
        """
        at = int(entry.offsets[k])
        return self.data[at : at + int(entry.lengths[k])]


def _media_info(stored: Mapping[str, Any]) -> MediaInfo:
    """Facts from JSON, every value of the type that it must have."""
    values = dict(stored)
    if values.keys() != {f.name for f in fields(MediaInfo)}:
        raise ValueError("other fields than expected")
    audio = values.pop("audio")
    ranges = tuple((float(a), float(b)) for a, b in values.pop("usable"))
    for name in ("duration", "fps", "start", "pixel_aspect"):
        values[name] = float(values[name])
    for name in ("frames", "width", "height", "rotation", "corrupt_frames", "bytes"):
        if not isinstance(values[name], int) and not (name == "frames" and values[name] is None):
            raise ValueError(f"{name} is no whole number")
    numbers = [v for v in values.values() if isinstance(v, float)]
    if values["kind"] not in get_args(Kind) or not np.isfinite(numbers).all():
        raise ValueError("impossible facts")
    sound = None if audio is None else AudioInfo(**audio)
    return MediaInfo(**values, usable=ranges, audio=sound)


_OPENED: OrderedDict[tuple[object, ...], Shard] = OrderedDict()


def open_shard(path: Path, *, limits: Limits = DEFAULT_LIMITS, size: int | None = None) -> Shard:
    """A shard, from the most recently used ones that this process has mapped.

    Args:
        path: the file.
        limits: bounds for the file and its pictures.
        size: bytes that it must have.

    Raises:
        DataError: missing, of another size, cut, or no shard.
        LimitExceeded: larger than the limits allow.
    """
    try:
        facts = path.stat()
        key = (path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, limits)
    except OSError as error:
        raise DataError(
            "the shard is missing", file=path, stage="shards", remedy=_REMEDY
        ) from error
    shard = _OPENED.get(key)
    if shard is not None and size in (None, facts.st_size):
        _OPENED.move_to_end(key)
        return shard
    try:
        shard = Shard(path, limits=limits, size=size)
    except LimitExceeded as error:
        error.remedy = "raise the limit in media.Limits"
        raise
    _OPENED[key] = shard
    if len(_OPENED) > _OPEN:
        _OPENED.popitem(last=False)
    return shard
