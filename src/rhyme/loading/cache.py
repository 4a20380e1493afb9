"""Decoded frames of a small collection, held in memory or in a memory-mapped file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rhyme.catalog import Catalog, ItemFacts
from rhyme.errors import CatalogError, DataError, MediaError, StorageError, WorkerError
from rhyme.loading.bad_items import too_many_bad
from rhyme.loading.decode import Readers
from rhyme.run import atomic_write, fsync_directory, naming, take_room
from rhyme.views.crops import centre_square, resized, shorter_side, square_map
from rhyme.views.facts import equally_spaced, frame_counts, frame_times
from rhyme.views.geometry import crop_resize_map
from rhyme.workers import map_ordered

__all__ = ["FrameCache"]

_GIB = 2**30
_TOGETHER = 32
"""Pictures that travel to a worker as one item: one alone is decoded sooner than it is sent."""
_Decoded = tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[Any]]
"""Frames ``[t, 3, h, w]`` of an item, their times ``[t]``, the map ``[2, 3]`` to the original."""
_FAULTS = (MediaError, CatalogError, WorkerError)
"""What is the fault of an item, and leaves it out."""

_INDEX = "index.json"
_ARRAYS = ("frames", "times", "maps", "counts", "ids")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Decodes the frames of some items; travels to the workers."""

    readers: Readers
    frames: int
    shape: tuple[int, int]
    cut: bool

    def __call__(self, rows: range) -> list[_Decoded | BaseException]:
        found: list[_Decoded | BaseException] = []
        for row in rows:
            try:
                found.append(self._decode(row))
            except _FAULTS as error:
                found.append(error)
        return found

    def _decode(self, row: int) -> _Decoded:
        facts = self.readers.catalog.facts([row])
        index = kept_frames(frame_counts(facts), self.frames)
        # Prepared shards give smaller copies; maps lead to the original all the same.
        size = int(facts.height[0]), int(facts.width[0])
        kept = np.empty((index.size, 3, *self.shape), dtype=np.uint8)
        times = np.empty(index.size)
        scale = partial(self._small, size=size)
        for among, small, shown in self.readers.scaled(row, frame_times(facts, index), scale):
            kept[among], times[among] = small.numpy(), shown
        return kept, times, self._map(size)

    def _small(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        if self.cut:
            return centre_square(frames, *self.shape, "bilinear", size)[0]
        return resized(frames, *self.shape, "bilinear")

    def _map(self, size: tuple[int, int]) -> NDArray[np.float64]:
        if self.cut:
            return square_map(size, shorter_side(*size, self.shape[0]), self.shape[0])
        return crop_resize_map(0, 0, *size, *self.shape)


def with_frames(facts: ItemFacts, counts: NDArray[np.int64]) -> ItemFacts:
    """Facts of items of which only so many frames ``[b]``, equally spaced, are there."""
    length = np.maximum(facts.stop - facts.start, 1e-6)
    return replace(facts, frames=counts, fps=np.maximum(counts, 1) / length)


class FrameCache:
    """A few equally spaced frames of every item, decoded and scaled once.

    Frames are kept as ``uint8``; the first and the last frame of an item are among them. If all
    items have the same size their aspect is kept; otherwise every frame is cut to its central
    square, and ``cut`` says so, or scaled whole to a given aspect. Maps still lead to original
    display pixels.

    Attributes:
        frames: ``uint8 [n, f, 3, h, w]``.
        times: ``float64 [n, f]`` seconds in the file at which they are shown.
        maps: ``float64 [n, 2, 3]`` from cached to original display pixels.
        counts: ``int64 [n]`` different frames of the item, at most ``f`` (the last one is repeated
            beyond); 0 for an item that could not be decoded.
        ids: ``uint64 [n]`` item ids.
        fingerprint: of the catalog that it was made from.
        cut: whether frames were cut to squares.
        failed: reasons by item row.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        *,
        fingerprint: str,
        cut: bool,
        failed: Mapping[int, str] | None = None,
        path: Path | None = None,
    ) -> None:
        self.frames: NDArray[np.uint8] = arrays["frames"]
        self.times: NDArray[np.float64] = arrays["times"]
        self.maps: NDArray[np.float64] = arrays["maps"]
        self.counts: NDArray[np.int64] = arrays["counts"]
        self.ids: NDArray[np.uint64] = arrays["ids"]
        self.fingerprint = fingerprint
        self.cut = cut
        self.failed = dict(failed or {})
        self.path = path
        self._order = np.argsort(self.ids, kind="stable")

    @classmethod
    def build(
        cls,
        catalog: Catalog,
        frames_per_item: int = 4,
        size: int | None = None,
        *,
        aspect: float | None = None,
        budget_bytes: int = 4 * _GIB,
        workers: int = 0,
        path: str | Path | None = None,
        bad_limit: float = 0.01,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Decode a collection.

        Args:
            catalog: the items.
            frames_per_item: frames of each item, equally spaced from the first to the last.
            size: shorter side in pixels; None keeps the size, which must be the same everywhere.
            aspect: width by height that frames of different sizes are scaled to, where all views
                of them change their aspect anyway; None cuts squares.
            budget_bytes: most bytes that the frames may take.
            workers: decoding processes; 0 decodes here.
            path: a folder to keep the frames in, memory-mapped; one that already holds them for
                this catalog, files of these times, and these options is opened instead.
            bad_limit: largest share of items that may fail (three always may).
            progress: called with (items done, items).

        Raises:
            DataError: over budget, too many damaged items, sizes that differ without ``size``, or a
                folder that belongs to something else.
        """
        facts = catalog.facts()
        shape, cut = _shape(facts, size, aspect)
        options = {"frames_per_item": frames_per_item, "size": size}
        options |= {} if aspect is None else {"aspect": aspect}
        folder = None if path is None else Path(path)
        if folder is not None and (folder / _INDEX).exists():
            belongs = {"fingerprint": catalog.fingerprint, "identity": catalog.identity}
            return cls.open(folder, **belongs, options=options)
        n, full = len(catalog), (len(catalog), frames_per_item, 3, *shape)
        needed = int(np.prod(full, dtype=np.int64))
        if needed > budget_bytes:
            raise DataError(
                f"{n} items of {frames_per_item} frames take {needed / _GIB:.2f} GiB decoded",
                stage="cache",
                value=f"budget {budget_bytes / _GIB:.2f} GiB",
                remedy="fewer or smaller frames, a larger budget, or no cache",
            )
        partial = None if folder is None else folder.with_name(f".{folder.name}.partial")
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        frames = _allocate(full, partial)
        times = np.zeros((n, frames_per_item))
        maps = np.tile(np.eye(2, 3), (n, 1, 1))
        counts = np.minimum(frame_counts(facts), frames_per_item)
        failed: dict[int, str] = {}
        readers = Readers(catalog)
        job = _Job(readers=readers, frames=frames_per_item, shape=shape, cut=cut)
        together = _TOGETHER if int(facts.frames.max(initial=1)) == 1 else 1
        for row, result in enumerate(_decoded(job, range(n), workers, together)):
            if isinstance(result, BaseException):
                _note(failed, catalog, row, result, bad_limit)
                counts[row] = 0
            else:
                frames[row], times[row], maps[row] = result
            if progress is not None:
                progress(row + 1, n)
        readers.close()
        arrays = {"frames": frames, "times": times, "maps": maps, "counts": counts, "ids": facts.id}
        cache = cls(arrays, fingerprint=catalog.fingerprint, cut=cut, failed=failed)
        if folder is None or partial is None:
            return cache
        with naming(folder):
            cache._save(partial, folder, options, catalog.identity)
        return cls.open(folder)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: str | None = None,
        identity: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Map a saved cache into memory.

        Args:
            path: its folder.
            fingerprint: of the catalog that it must belong to.
            identity: of that catalog; an older cache, which does not tell its own, fits any.
            options: build options that it must have been made with.

        Raises:
            DataError: missing, damaged, or made of something else.
        """
        folder = Path(path)
        try:
            index = json.loads((folder / _INDEX).read_text())
            arrays = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r" if name == "frames" else None)
                for name in _ARRAYS
            }
            known, made = str(index["fingerprint"]), dict(index["options"])
            files = index.get("identity", identity)
            failed = {int(row): str(why) for row, why in index["failed"].items()}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(
                f"the frame cache cannot be read: {error}",
                file=folder,
                stage="cache",
                remedy="delete the folder, it is made anew",
            ) from error
        for made_of, have, want in (
            ("with other data", known, fingerprint),
            ("before files of the collection were changed", files, identity),
            ("with other options", made, options),
        ):
            if want is not None and have != want:
                raise DataError(
                    f"the frame cache was made {made_of}",
                    file=folder,
                    stage="cache",
                    value={"cache": have, "now": want},
                    remedy="delete the folder or give another one",
                )
        return cls(arrays, fingerprint=known, cut=bool(index["cut"]), failed=failed, path=folder)

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        if self.path is not None:
            return {"path": self.path}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        facts = {"fingerprint": self.fingerprint, "cut": self.cut, "failed": self.failed}
        return {"arrays": arrays, "facts": facts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "path" in state:
            self.__dict__.update(FrameCache.open(state["path"]).__dict__)
        else:
            self.__init__(state["arrays"], **state["facts"])

    def rows(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of the cache that hold these items.

        Raises:
            DataError: an item is not in it.
        """
        wanted = np.asarray(ids, dtype=np.uint64)
        place = np.searchsorted(self.ids, wanted, sorter=self._order)
        found = self._order[np.minimum(place, len(self.ids) - 1)]
        missing = self.ids[found] != wanted
        if missing.any():
            raise DataError(
                f"{int(missing.sum())} items are not in the frame cache",
                stage="cache",
                value=int(wanted[missing][0]),
                remedy="build the cache from the catalog that is trained on",
            )
        return found

    def facts(self, facts: ItemFacts) -> ItemFacts:
        """Facts of items as the cache shows them: few frames, at the cached size."""
        counts = self.counts[self.rows(facts.id)]
        height, width = self.frames.shape[-2:]
        return replace(
            with_frames(facts, counts),
            width=np.full(len(counts), width, dtype=np.int64),
            height=np.full(len(counts), height, dtype=np.int64),
        )

    def _save(self, partial: Path, folder: Path, options: Mapping[str, Any], identity: str) -> None:
        if isinstance(self.frames, np.memmap):
            self.frames.flush()
        for name in _ARRAYS[1:]:
            np.save(partial / f"{name}.npy", getattr(self, name))
        index = {
            "fingerprint": self.fingerprint,
            "identity": identity,
            "options": dict(options),
            "cut": self.cut,
            "failed": {str(row): why for row, why in self.failed.items()},
        }
        atomic_write(partial / _INDEX, json.dumps(index, indent=2))
        partial.rename(folder)
        fsync_directory(folder.parent)


def kept_frames(counts: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Frame numbers that are kept: equally spaced, or all and the last one again."""
    spaced = equally_spaced(counts, frames)
    every = np.minimum(np.arange(frames)[None, :], counts[:, None] - 1)
    return np.where((counts >= frames)[:, None], spaced, every)


def _shape(
    facts: ItemFacts, size: int | None, aspect: float | None
) -> tuple[tuple[int, int], bool]:
    """Rows and columns of a cached frame, and whether frames are cut to squares."""
    width, height = np.unique(facts.width), np.unique(facts.height)
    same = len(width) == 1 and len(height) == 1
    if same:
        rows, columns = int(height[0]), int(width[0])
        return (rows, columns) if size is None else shorter_side(rows, columns, size), False
    if size is None:
        raise DataError(
            "the items have different sizes",
            stage="cache",
            value=f"{width[0]}..{width[-1]} x {height[0]}..{height[-1]}",
            remedy="give the size that all frames are scaled to",
        )
    if aspect is not None:
        return shorter_side(size, size, size, aspect), False
    return (size, size), True


def _allocate(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.uint8]:
    if folder is None:
        return np.zeros(shape, dtype=np.uint8)
    file = folder / "frames.npy"
    try:
        mapped = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
        take_room(file)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(
            f"there is no room for the decoded frames: {error.strerror or error}",
            file=folder.parent,
            stage="cache",
            value=f"{np.prod(shape, dtype=np.int64) / _GIB:.2f} GiB",
            remedy="make room on that disk, or keep fewer or smaller frames: "
            "--data.cache_frames, --data.cache_size",
        ) from error
    return mapped


def _decoded(
    job: _Job, rows: range, workers: int, together: int
) -> Iterator[_Decoded | BaseException]:
    """Each item of the rows, or why it cannot be had; some travel together."""
    parts = [rows[at : at + together] for at in range(0, len(rows), together)]
    results = map_ordered(job, parts, workers=workers, prefetch=4, errors="return")
    for part, found in zip(parts, results, strict=True):
        if isinstance(found, list):
            yield from found
        elif len(part) > 1:  # their worker died of one of them: each gets one of its own
            yield from _decoded(job, part, workers, 1)
        else:
            yield found


def _note(
    failed: dict[int, str], catalog: Catalog, row: int, error: BaseException, limit: float
) -> None:
    """Keep the reason of a failed item; raise if it is no fault of the item, or one too many."""
    if not isinstance(error, _FAULTS):
        raise error
    failed[row] = error.reason
    named = {catalog.item(r).path: why for r, why in failed.items()}
    problem = too_many_bad(named, len(catalog), limit)
    if problem is not None:
        raise problem
