"""Finished parts of an embedding job, kept until the job commits."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rhyme.run import atomic_write, to_json
from rhyme.store.own import PLAN, delete_work

__all__ = ["ItemKey", "Rows", "Work"]


class ItemKey(NamedTuple):
    """What an item is, wherever its catalog row: a stretch of a file in a certain state.

    Attributes:
        path: resolved path of the file.
        start: seconds.
        stop: seconds.
        state: size and time of the last change of the file.
    """

    path: str
    start: float
    stop: float
    state: str

    def overlaps(self, other: ItemKey) -> bool:
        """Whether both speak of the same moments of one file."""
        if self.path != other.path:
            return False
        return self.start == other.start or max(self.start, other.start) < min(
            self.stop, other.stop
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Moments of one item.

    Attributes:
        times: ``float64 [m]``.
        vectors: ``float32 [m, d]``, normalised.
    """

    times: NDArray[np.float64]
    vectors: NDArray[np.float32]


class Work:
    """Shards of the job in hand: each a file of finished items, written whole or not at all.

    Args:
        folder: where they lie.
        plan: what the job is; shards of another plan are thrown away.
        fresh: throw away what is there.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], *, fresh: bool = False) -> None:
        self.folder = folder
        self._pending: list[tuple[ItemKey, Rows]] = []
        self._where: dict[ItemKey, tuple[Path, int, int]] = {}
        self._open: tuple[Path, NDArray[np.float64], NDArray[np.float32]] | None = None
        text = to_json(plan)
        file = folder / PLAN
        if fresh or not file.is_file() or file.read_text(encoding="utf-8") != text:
            self.clear()
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(file, text)
        self._next = 0
        for shard in sorted(folder.glob("*.npz")):
            self._next = max(self._next, int(shard.stem) + 1)
            self._index(shard)

    def __contains__(self, key: ItemKey) -> bool:
        return key in self._where

    @property
    def pending(self) -> int:
        """Moments that are added and not yet written."""
        return sum(len(rows.times) for _, rows in self._pending)

    def add(self, key: ItemKey, rows: Rows) -> None:
        """Take a finished item; it is safe after the next :meth:`flush`.

        Args:
            key: the item.
            rows: its moments, one at least.
        """
        self._pending.append((key, rows))

    def flush(self) -> None:
        """Write what is pending as a shard."""
        if not self._pending:
            return
        filled = [rows for _, rows in self._pending]
        out = io.BytesIO()
        np.savez(
            out,
            keys=np.frombuffer(to_json([list(key) for key, _ in self._pending]).encode(), np.uint8),
            counts=np.array([len(rows.times) for rows in filled], dtype=np.int64),
            times=np.concatenate([rows.times for rows in filled]),
            vectors=np.concatenate([rows.vectors for rows in filled]),
        )
        shard = self.folder / f"{self._next:06d}.npz"
        atomic_write(shard, out.getvalue())
        self._next += 1
        self._index(shard)
        self._pending.clear()

    def rows(self, key: ItemKey) -> Rows:
        """The moments of a finished item.

        Args:
            key: the item.
        """
        shard, at, count = self._where[key]
        if self._open is None or self._open[0] != shard:
            with np.load(shard, allow_pickle=False) as arrays:
                self._open = (shard, arrays["times"], arrays["vectors"])
        _, times, vectors = self._open
        return Rows(times=times[at : at + count], vectors=vectors[at : at + count])

    def clear(self) -> None:
        """Delete everything that is the job's."""
        delete_work(self.folder)
        self._where.clear()

    def _index(self, shard: Path) -> None:
        try:
            # NumPy leaves a file open that is no archive: it is opened here
            with shard.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                keys = json.loads(arrays["keys"].tobytes())
                counts = arrays["counts"].tolist()
                sound = len(arrays["times"]) == len(arrays["vectors"]) == sum(counts)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            sound, keys, counts = False, [], []
        if not sound or len(keys) != len(counts):
            shard.unlink()  # its items are embedded again
            return
        at = 0
        for key, count in zip(keys, counts, strict=True):
            if count:  # older shards name items that could not be read, too: they are tried again
                self._where[ItemKey(*key)] = (shard, at, count)
            at += count
