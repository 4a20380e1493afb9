"""Frames of items, decoded once for all clips, from files opened where they are read."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.catalog import Catalog
from rhyme.errors import TruncatedMedia
from rhyme.media import FrameReader, Video
from rhyme.views.clips import FrameDraws

__all__ = ["HELD", "Readers"]

HELD = 64 * 2**20
"""Bytes of decoded frames that are held."""
_OPEN = 8


class Readers:
    """The most recently used readers of a catalog, opened lazily and closed when others come.

    A copy that travels to another process starts without open files.

    Args:
        catalog: the items.
        limit: files that stay open at most.
    """

    def __init__(self, catalog: Catalog, limit: int = _OPEN) -> None:
        self.catalog = catalog
        self.limit = limit
        self._open: OrderedDict[tuple[str, ...], FrameReader] = OrderedDict()
        weakref.finalize(self, _close, self._open)

    def __getstate__(self) -> dict[str, object]:
        return {"catalog": self.catalog, "limit": self.limit}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return len(self._open)

    def frames(self, row: int, times: NDArray[np.float64]) -> tuple[Tensor, NDArray[np.float64]]:
        """Frames ``uint8 [t, 3, h, w]`` of an item at times, and the times at which they are shown.

        Args:
            row: the item's row in the catalog.
            times: ``float64 [t]`` seconds in the file, in any order, repeats allowed.

        Raises:
            MediaError: the file cannot be decoded there, or ends well before.
            CatalogError: the file has gone or changed since the scan.
        """
        reader = self._reader(row)
        try:
            return self._read(reader, times)
        except Exception:
            self._drop(reader)  # it may be left half open: the next read opens the file anew
            raise

    def _read(
        self, reader: FrameReader, times: NDArray[np.float64]
    ) -> tuple[Tensor, NDArray[np.float64]]:
        if isinstance(reader, Video) and len(times):
            table = reader.table
            # A header that is believed at the scan may be off by a little.
            slack = max(2.0, 2 * table.duration / len(table.times))
            if times.max() > table.duration + slack:
                raise TruncatedMedia(
                    f"the pictures end at {table.duration:.2f} s, before the item's frames",
                    file=reader.path,
                    stage="decode",
                    value=float(times.max()),
                    remedy="scan the folder again with --depth packets",
                )
        frames, shown = reader.read(times)
        return frames, np.asarray(shown)

    def scaled(
        self, row: int, times: NDArray[np.float64], scale: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, NDArray[np.float64]]]:
        """Frames of an item, of which at most `HELD` bytes are held before they are scaled.

        They are decoded in the order of time: going on costs no seek, and no frame is asked for
        twice.

        Args:
            row: the item's row in the catalog.
            times: seconds in the file, of any shape and order, repeats allowed.
            scale: makes ``[f, ...]`` of ``uint8 [f, 3, h, w]``.

        Yields:
            Places ``[f]`` among all wanted times, what ``scale`` made of their frames, and the
            seconds ``[f]`` at which they are shown.

        Raises:
            MediaError: as for :meth:`frames`, at whatever group of them.
            CatalogError: the file has gone or changed since the scan.
        """
        facts = self.catalog.facts([row])
        together = max(HELD // max(3 * int(facts.height[0]) * int(facts.width[0]), 1), 1)
        wanted, where = np.unique(times.reshape(-1), return_inverse=True)
        for first in range(0, len(wanted), together):
            frames, shown = self.frames(row, wanted[first : first + together])
            small = scale(frames)
            del frames  # before the next ones are decoded
            among = np.flatnonzero((where >= first) & (where < first + together))
            pick = where[among] - first
            yield among, small[torch.from_numpy(pick)], shown[pick]

    def clips(
        self, row: int, draws: Mapping[str, FrameDraws], place: int
    ) -> dict[str, tuple[Tensor, NDArray[np.float64]]]:
        """Frames and times of every clip of one item, each file position decoded once.

        Args:
            row: the item's row in the catalog.
            draws: the drawn clips of a batch.
            place: the item's place in that batch.
        """
        times = {name: draw.times[place] for name, draw in draws.items()}
        frames, shown = self.frames(row, np.concatenate(list(times.values())))
        out: dict[str, tuple[Tensor, NDArray[np.float64]]] = {}
        first = 0
        for name, asked in times.items():
            part = slice(first, first + len(asked))
            out[name] = (frames[part], shown[part])
            first += len(asked)
        return out

    def close(self) -> None:
        """Close all files."""
        _close(self._open)

    def _reader(self, row: int) -> FrameReader:
        item = self.catalog.item(row)
        key = (item.kind, *(item.files or (item.path,)))
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        reader = self.catalog.reader(row)
        self._open[key] = reader
        if len(self._open) > self.limit:
            self._open.popitem(last=False)[1].close()
        return reader

    def _drop(self, reader: FrameReader) -> None:
        for key in [key for key, held in self._open.items() if held is reader]:
            del self._open[key]
        reader.close()


def _close(readers: OrderedDict[tuple[str, ...], FrameReader]) -> None:
    while readers:
        readers.popitem()[1].close()
