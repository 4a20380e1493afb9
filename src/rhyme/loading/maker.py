"""One batch from item rows: draws, decoding, views. The unit of work that goes to a worker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from rhyme.catalog import Catalog, ItemFacts
from rhyme.errors import CatalogError, DataError, MediaError
from rhyme.loading.bad_items import remedy_of
from rhyme.loading.batch import Batch
from rhyme.loading.cache import FrameCache, kept_frames, with_frames
from rhyme.loading.decode import Readers
from rhyme.loading.gathering import Decoded, Gathering, stacked
from rhyme.loading.placement import Raw
from rhyme.views import ClipPixels, Draws, Keys, View, ViewPlan
from rhyme.views.clips import FrameDraws
from rhyme.views.facts import frame_counts, frame_times

__all__ = ["BatchMaker", "Made", "Replaced", "Request"]

_ATTEMPTS = 20
_STAND_IN = 1_000_000  # repeats from here on belong to items that stand in for damaged ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """The rows of one batch.

    Attributes:
        epoch: pass over the data.
        rows: ``int64 [b]`` item rows, this rank's part.
        repeats: ``int64 [b]`` how often each came before in the epoch.
        bad: reasons by row of items known to be unusable.
        raw: hand over frames and draws; the views are made by whoever gets them.
    """

    epoch: int
    rows: NDArray[np.int64]
    repeats: NDArray[np.int64]
    bad: dict[int, str] = field(default_factory=dict)
    raw: bool = False


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A damaged item and the one that took its place in a batch.

    Attributes:
        id: id of the damaged item.
        path: its file.
        epoch: pass over the data.
        reason: why it could not be used.
        by: id of the item that stands in.
    """

    id: int
    path: str
    epoch: int
    reason: str
    by: int


@dataclass(frozen=True, kw_only=True)
class Made:
    """A batch, what its views are to be made of if it has none, and what had to be replaced."""

    batch: Batch
    raw: Raw | None = None
    replaced: tuple[Replaced, ...] = ()


@dataclass(kw_only=True, eq=False)
class BatchMaker:
    """Makes batches of a catalog; picklable, files are opened where it runs.

    Attributes:
        catalog: the items; rows are its rows.
        plan: the draws and views.
        seed: run seed.
        cache: decoded frames to read instead of the files.
        frames: draw from so many equally spaced frames of an item alone, those that a cache of so
            many holds; None draws from all.
    """

    catalog: Catalog
    plan: ViewPlan
    seed: int
    cache: FrameCache | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        self.readers = Readers(self.catalog)

    def __call__(self, request: Request) -> Made:
        """Make the batch of a request.

        Raises:
            DataError: an item and all its stand-ins are damaged.
        """
        rows, repeats = request.rows.copy(), request.repeats.copy()
        if self.cache is not None:
            draws = self._draw(request.epoch, rows, repeats)
            pixels = self._cached(self.cache, rows, draws)
            if request.raw:
                return self._made(request, rows, draws, {}, Raw(pixels=pixels, draws=draws))
            return self._made(request, rows, draws, self.plan.apply(pixels, draws))
        gathering = Gathering(self.plan, len(rows), keep=request.raw)
        replaced: list[Replaced] = []
        todo = list(range(len(rows)))
        for attempt in range(_ATTEMPTS):
            draws = self._draw(request.epoch, rows[todo], repeats[todo])
            failed: list[int] = []
            for place, j in enumerate(todo):
                row = int(rows[j])
                try:
                    if row in request.bad:
                        raise MediaError(request.bad[row])
                    gathering.add(j, place, self._decoded(row, draws, place), draws)
                except (MediaError, CatalogError) as error:
                    known = request.bad.get(row)
                    rows[j], repeats[j] = self._stand_in(request.epoch, row, attempt)
                    replaced.append(
                        self._record(request.epoch, row, known or error.reason, int(rows[j]))
                    )
                    failed.append(j)
            gathering.flush(draws)
            if not failed:
                break
            todo = failed
        else:
            raise DataError(
                f"an item and {_ATTEMPTS} stand-ins cannot be decoded",
                stage="loading",
                value=[f"{r.path}: {r.reason}" for r in replaced[-3:]],
                remedy=remedy_of(r.reason for r in replaced),
            )
        if replaced:
            draws = self._draw(request.epoch, rows, repeats)
        if not request.raw:
            return self._made(request, rows, draws, gathering.views(), replaced=tuple(replaced))
        raw = Raw(pixels=stacked(self.plan, gathering.decoded), draws=draws)
        return self._made(request, rows, draws, {}, raw, tuple(replaced))

    def facts(self, rows: NDArray[np.int64] | None = None) -> ItemFacts:
        """Facts of items as the draws see them."""
        facts = self.catalog.facts(rows)
        if self.cache is not None:
            return self.cache.facts(facts)
        if self.frames is None:
            return facts
        return with_frames(facts, np.minimum(frame_counts(facts), self.frames))

    def close(self) -> None:
        """Close all files."""
        self.readers.close()

    def _draw(self, epoch: int, rows: NDArray[np.int64], repeats: NDArray[np.int64]) -> Draws:
        facts = self.facts(rows)
        keys = Keys(self.seed, epoch, np.asarray(facts.id, dtype=np.uint64), repeats)
        draws = self.plan.draw(facts, keys)
        if self.cache is not None or self.frames is None:
            return draws
        # what was drawn is a place among the frames that count: where they lie in the files
        own = self.catalog.facts(rows)
        numbers = kept_frames(frame_counts(own), self.frames)
        clips: dict[str, FrameDraws] = {}
        for name, drawn in draws.clips.items():
            index = np.take_along_axis(numbers, drawn.index, axis=1)
            clips[name] = replace(drawn, index=index, times=frame_times(own, index))
        return replace(draws, clips=clips)

    def _decoded(self, row: int, draws: Draws, place: int) -> Decoded:
        """Frames and times of all clips of an item, as small as all their views want them."""
        found = self.readers.clips(row, draws.clips, place)
        return {
            name: (self.plan.scaled(name, frames), times) for name, (frames, times) in found.items()
        }

    def _cached(
        self, cache: FrameCache, rows: NDArray[np.int64], draws: Draws
    ) -> dict[str, ClipPixels]:
        place = cache.rows(self.catalog.facts(rows).id)
        out: dict[str, ClipPixels] = {}
        for name, drawn in draws.clips.items():
            pick = (place[:, None], drawn.index)
            frames = torch.from_numpy(np.asarray(cache.frames[pick]))
            small = self.plan.scaled(name, frames.flatten(0, 1))
            out[name] = ClipPixels(
                frames=small.unflatten(0, frames.shape[:2]),
                times=cache.times[pick],
                maps=cache.maps[place],
            )
        return out

    def _made(
        self,
        request: Request,
        rows: NDArray[np.int64],
        draws: Draws,
        views: dict[str, View],
        raw: Raw | None = None,
        replaced: tuple[Replaced, ...] = (),
    ) -> Made:
        facts = self.catalog.facts(rows)
        ids = np.ascontiguousarray(facts.id, dtype=np.uint64)
        batch = Batch(
            ids=torch.from_numpy(ids.view(np.int64).copy()),
            index=torch.from_numpy(rows.astype(np.int64)),
            group=torch.from_numpy(np.array(facts.group, dtype=np.int64)),
            views=views,
            targets={name: torch.from_numpy(value) for name, value in draws.targets.items()},
            epoch=request.epoch,
        )
        return Made(batch=batch, raw=raw, replaced=replaced)

    def _stand_in(self, epoch: int, row: int, attempt: int) -> tuple[int, int]:
        """Another row, drawn for the damaged item, and a repeat number of its own."""
        ids = np.asarray(self.catalog.facts([row]).id, dtype=np.uint64)
        keys = Keys(self.seed, epoch, ids).within(f"replace/{attempt}")
        other = int(keys.integers("row", max(len(self.catalog) - 1, 1))[0])
        return min(other + (other >= row), len(self.catalog) - 1), _STAND_IN + row

    def _record(self, epoch: int, row: int, reason: str, by: int) -> Replaced:
        ids = self.catalog.facts([row, by]).id
        return Replaced(
            id=int(ids[0]),
            path=self.catalog.item(row).path,
            epoch=epoch,
            reason=reason,
            by=int(ids[1]),
        )
