"""Writing a shard: pictures as they come, the index last, the name when everything is durable."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from rhyme.errors import DataError
from rhyme.media.shard import COLUMNS, END, FOOTER, MAGIC, RECORD, Shard
from rhyme.media.still import FORMATS, StillFormat
from rhyme.run import fsync_directory

_BLOCK = 1 << 22


class ShardWriter:
    """Writes one shard under a temporary name; `finish` gives it its own.

    As a context it removes what was not finished.

    Args:
        path: name of the finished shard.
        durable: sync to the disk before the name is given.

    Attributes:
        path: name of the finished shard.
        size: bytes written so far.
        entries: entries written so far.

    Raises:
        DataError: nothing can be written there.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self.size = 0
        self.entries = 0
        self._durable = durable
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._digest = hashlib.sha256()
        self._records: list[tuple[int, ...]] = []
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name, _ in COLUMNS}
        self._facts = bytearray()
        self._frames = 0
        self._open: tuple[list[float], list[int], list[int], list[bool]] = ([], [], [], [])
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise self._failed(error) from error
        self._write(MAGIC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # what was not finished is thrown away
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def add(self, picture: bytes, time: float, damaged: bool = False) -> None:
        """Add a frame to the entry in hand.

        Args:
            picture: an encoded picture.
            time: seconds; above that of the frame before.
            damaged: the source's decoder reported damage.

        Raises:
            DataError: it cannot be written.
        """
        times, offsets, lengths, flags = self._open
        times.append(time)
        offsets.append(self.size)
        lengths.append(len(picture))
        flags.append(damaged)
        self._write(picture)

    def end_entry(
        self, facts: Mapping[str, Any], *, rows: int, columns: int, form: StillFormat
    ) -> None:
        """Close the entry in hand.

        Args:
            facts: kept as JSON; ``info`` holds the fields of `rhyme.media.MediaInfo`.
            rows: height of its pictures.
            columns: width of its pictures.
            form: how they are encoded.
        """
        blob = json.dumps(dict(facts), allow_nan=False).encode()
        self._entry(self._open, blob, rows, columns, FORMATS.index(form))
        self._open = ([], [], [], [])

    def copy(self, part: Shard, number: int = 0) -> str:
        """Take over an entry of another shard.

        Args:
            part: the shard.
            number: which of its entries.

        Returns:
            SHA-256 of the entry's pictures, in hex.

        Raises:
            DataError: it cannot be read or written.
        """
        entry, facts = part.entry(number), json.dumps(part.facts(number)).encode()
        first, last = int(entry.offsets[0]), int(entry.offsets[-1]) + int(entry.lengths[-1])
        offsets = (entry.offsets.astype(np.int64) - first + self.size).tolist()
        digest = hashlib.sha256()
        for at in range(first, last, _BLOCK):
            block = part.data[at : min(at + _BLOCK, last)]
            digest.update(block)
            self._write(block)
        values = (entry.times.tolist(), offsets, entry.lengths.tolist(), entry.damaged.tolist())
        self._entry(values, facts, entry.rows, entry.columns, FORMATS.index(entry.form))
        return digest.hexdigest()

    def _entry(
        self,
        values: tuple[list[float], list[int], list[int], list[bool]],
        facts: bytes,
        rows: int,
        columns: int,
        form: int,
    ) -> None:
        count = len(values[0])
        for (name, kind), column in zip(COLUMNS, values, strict=True):
            self._columns[name].append(np.array(column, dtype=kind))
        record = (self._frames, count, len(self._facts), len(facts), rows, columns, form)
        self._records.append(record)
        self._facts += facts
        self._frames += count
        self.entries += 1

    def finish(self) -> str:
        """Write the index and give the shard its name.

        Returns:
            SHA-256 of the whole file, in hex.

        Raises:
            DataError: it cannot be written.
        """
        self._write(b"\0" * (-self.size % 8))
        index = self.size
        self._write(np.array(self._records, dtype=RECORD).tobytes())
        for name, kind in COLUMNS:
            parts = self._columns[name] or [np.zeros(0, dtype=kind)]
            self._write(np.concatenate(parts).tobytes())
        self._write(bytes(self._facts))
        counts = (len(self._records), self._frames, len(self._facts))
        self._write(FOOTER.pack(index, *counts, END))
        try:
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            if self._durable:
                fsync_directory(self.path.parent)
        except OSError as error:
            raise self._failed(error) from error
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failed(error) from error
        self._digest.update(data)
        self.size += len(data)

    def _failed(self, error: OSError) -> DataError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return DataError(
            "the disk is full" if full else f"the shard cannot be written: {error.strerror}",
            file=self.path,
            stage="prepare",
            remedy="free some space" * full
            + "check permissions" * (not full)
            + ", then run the same command: it goes on where it was",
        )
