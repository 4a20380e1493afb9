"""Moments of a collection as an encoder wants them: fixed frames, fixed order, no randomness."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.catalog import Catalog
from rhyme.errors import CatalogError, ConfigError, MediaError, WorkerError
from rhyme.loading.cache import FrameCache
from rhyme.loading.decode import Readers
from rhyme.views.crops import Interpolation
from rhyme.views.facts import (
    clip_times,
    equally_spaced,
    frame_counts,
    frame_times,
    moments_every,
)
from rhyme.views.sampling import WholeClips
from rhyme.views.transforms import EvalTransform, Triple
from rhyme.workers import Pool

__all__ = ["InferenceBatch", "PixelPlan", "eval_transform", "inference_batches"]

_NONE = np.empty((0, 2))


class PixelPlan(Protocol):
    """What an encoder says of its input (``rhyme.encoders.InferencePlan``)."""

    @property
    def size(self) -> int:
        """Side of the square that the encoder sees."""
        ...

    @property
    def resize(self) -> int:
        """Shorter side before the central cut."""
        ...

    @property
    def mean(self) -> Triple:
        """Mean a channel."""
        ...

    @property
    def std(self) -> Triple:
        """Standard deviation a channel."""
        ...

    @property
    def interpolation(self) -> Interpolation:
        """Of the scaling, which is antialiased."""
        ...

    @property
    def aspect(self) -> float | None:
        """Width by height that frames are scaled to before the cut; None keeps theirs."""
        ...

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        ...

    @property
    def spacing(self) -> float:
        """Seconds between them."""
        ...

    @property
    def stride(self) -> int:
        """Native frames between them; 0 goes by ``spacing``."""
        ...


def eval_transform(plan: PixelPlan) -> EvalTransform:
    """The transform of a plan's pixels."""
    return EvalTransform(
        size=plan.size,
        resize=plan.resize,
        interpolation=plan.interpolation,
        mean=plan.mean,
        std=plan.std,
        aspect=plan.aspect,
    )


class InferenceBatch(NamedTuple):
    """Moments of items.

    Attributes:
        pixels: ``float32 [m, t, 3, h, w]``, normalised.
        rows: ``int64 [m]`` rows of the catalog.
        times: ``float64 [m]`` seconds in the file at which the (middle) frame is shown.
    """

    pixels: Tensor
    rows: Tensor
    times: Tensor


class _Unit(NamedTuple):
    """A part of the work: rows ``[m]`` and, for each, the times of its frames ``[m, t]``."""

    rows: NDArray[np.int64]
    times: NDArray[np.float64]


class _Done(NamedTuple):
    batch: InferenceBatch | None
    failed: dict[int, str]


def inference_batches(
    catalog: Catalog,
    plan: PixelPlan,
    *,
    frames_per_item: int = 4,
    every: float | None = None,
    moments: Iterable[tuple[int, float]] | None = None,
    clips: WholeClips | None = None,
    batch_size: int = 64,
    workers: int = 0,
    prefetch: int = 2,
    cache: FrameCache | None = None,
    failed: MutableMapping[int, str] | None = None,
    deadline: float | None = 300.0,
) -> Iterator[InferenceBatch]:
    """Decode moments of items for embedding and evaluation.

    Items come in the order of the catalog, moments in the order of time (``moments`` in the order
    given). The same batches for any number of workers.

    Args:
        catalog: the items.
        plan: size, normalisation and clip rule. A clip is centred on its moment and stays inside
            the item: at its ends frames repeat.
        frames_per_item: moments of each item, equally spaced from its first frame to its last.
        every: seconds between moments instead, the first after half of that; at least one an item.
        moments: explicit (row, seconds in the file) pairs instead.
        clips: explicit frames of each clip instead, whatever the plan's clip rule says
            (``rhyme.views.ClipSampling`` makes them); ``batch_size`` then counts clips.
        batch_size: moments of a batch.
        workers: decoding processes; 0 decodes here.
        prefetch: batches ahead for each worker.
        cache: decoded frames to use instead of the files, for single frames and ``frames_per_item``
            only; then the frames nearest to the wanted ones among the cached.
        failed: gets the reason of every item that could not be decoded; such items are left out of
            the batches in any case.
        deadline: seconds that a worker may take for a batch.

    Yields:
        Batches of at most ``batch_size`` moments.

    Raises:
        ConfigError: options that do not go together.
    """
    if batch_size < 1 or frames_per_item < 1 or (every is not None and not every > 0):
        raise ConfigError(
            "batch_size, frames_per_item and every must be above 0",
            value=(batch_size, frames_per_item, every),
        )
    if sum(given is not None for given in (every, moments, clips)) > 1:
        raise ConfigError("give 'every', 'moments' or 'clips', not two of them", remedy="drop one")
    transform = eval_transform(plan)
    if cache is not None:
        if plan.frames != 1 or not (every is moments is clips is None):
            raise ConfigError(
                "a frame cache serves single, equally spaced frames only",
                remedy="leave the cache out: the files are decoded then",
            )
        if plan.aspect is not None and cache.cut:
            raise ConfigError(
                "the cache holds squares, and the plan wants whole frames of another aspect",
                value=plan.aspect,
                remedy="build the cache with that aspect, or leave it out",
            )
        return _from_cache(catalog, cache, transform, frames_per_item, batch_size, failed)
    if clips is not None:
        rows, times = clips.rows, frame_times(catalog.facts(clips.rows), clips.index)
    else:
        rows, centres = _moments(catalog, frames_per_item, every, moments)
        times = _clip_times(catalog, plan, rows, centres)
    units = [
        _Unit(rows[first : first + batch_size], times[first : first + batch_size])
        for first in range(0, len(rows), batch_size)
    ]
    job = _Job(readers=Readers(catalog), transform=transform)
    return _decoded(job, units, workers, prefetch, deadline, failed)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Makes one batch; travels to the workers."""

    readers: Readers
    transform: EvalTransform

    def __call__(self, unit: _Unit) -> _Done:
        count, side = unit.times.shape[1], self.transform.size
        pixels = torch.empty(len(unit.rows), count, 3, side, side)
        shown = np.empty((len(unit.rows), count))
        good = np.ones(len(unit.rows), dtype=bool)
        failed: dict[int, str] = {}
        for row in dict.fromkeys(unit.rows.tolist()):
            places = np.flatnonzero(unit.rows == row)
            facts = self.readers.catalog.facts([row])
            seen = partial(self._seen, size=np.stack([facts.height, facts.width], axis=1))
            try:
                for among, data, times in self.readers.scaled(row, unit.times[places], seen):
                    at, frame = places[among // count], among % count
                    pixels[torch.from_numpy(at), torch.from_numpy(frame)] = data
                    shown[at, frame] = times
            except (MediaError, CatalogError) as error:
                good[places] = False
                failed[row] = error.reason
        if not good.any():
            return _Done(None, failed)
        keep = torch.from_numpy(np.flatnonzero(good))
        batch = InferenceBatch(
            pixels if good.all() else pixels[keep],
            torch.from_numpy(unit.rows.copy())[keep],
            torch.from_numpy(shown[:, count // 2])[keep],
        )
        return _Done(batch, failed)

    def _seen(self, frames: Tensor, size: NDArray[np.int64]) -> Tensor:
        """Frames as the encoder sees them, ``float32 [f, 3, size, size]``."""
        return self.transform.apply(frames[None], {}, size)[0][0]


def _decoded(
    job: _Job,
    units: list[_Unit],
    workers: int,
    prefetch: int,
    deadline: float | None,
    failed: MutableMapping[int, str] | None,
) -> Iterator[InferenceBatch]:
    waiting = deque(units)
    with Pool(job, workers=workers, prefetch=prefetch, deadline=deadline) as pool:
        try:
            for done in pool.map(units, errors="return"):
                unit = waiting.popleft()
                found: _Done | BaseException = done
                if isinstance(found, WorkerError):
                    found = _one_by_one(pool, unit)
                if isinstance(found, BaseException):
                    raise found
                if failed is not None:
                    failed.update(found.failed)
                if found.batch is not None:
                    yield found.batch
        finally:
            job.readers.close()


def _one_by_one(pool: Pool[_Unit, _Done], unit: _Unit) -> _Done:
    """A batch that killed its worker, item by item: the one to blame is left out."""
    parts: list[InferenceBatch] = []
    failed: dict[int, str] = {}
    for row in dict.fromkeys(unit.rows.tolist()):
        mine = unit.rows == row
        try:
            done = pool.submit(_Unit(unit.rows[mine], unit.times[mine])).result()
        except WorkerError as error:
            failed[row] = error.reason
            continue
        failed.update(done.failed)
        if done.batch is not None:
            parts.append(done.batch)
    if not parts:
        return _Done(None, failed)
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return _Done(InferenceBatch(*columns), failed)


def _from_cache(
    catalog: Catalog,
    cache: FrameCache,
    transform: EvalTransform,
    frames_per_item: int,
    batch_size: int,
    failed: MutableMapping[int, str] | None,
) -> Iterator[InferenceBatch]:
    place = cache.rows(catalog.facts().id)
    counts = cache.counts[place]
    slots = equally_spaced(np.maximum(counts, 1), frames_per_item)
    rows = np.repeat(np.arange(len(catalog)), frames_per_item)
    slots = slots.reshape(-1)
    usable = counts[rows] > 0
    if failed is not None:
        for row in np.flatnonzero(counts == 0).tolist():
            failed[row] = cache.failed.get(int(place[row]), "not in the cache")
    rows, slots = rows[usable], slots[usable]
    for first in range(0, len(rows), batch_size):
        part = slice(first, first + batch_size)
        pick = (place[rows[part]], slots[part])
        frames = torch.from_numpy(np.asarray(cache.frames[pick]))[:, None]
        data, _ = transform.apply(frames, {}, _NONE.astype(np.int64))
        yield InferenceBatch(
            data, torch.from_numpy(rows[part].copy()), torch.from_numpy(cache.times[pick])
        )


def _moments(
    catalog: Catalog,
    frames_per_item: int,
    every: float | None,
    moments: Iterable[tuple[int, float]] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows ``[m]`` and seconds ``[m]``."""
    facts = catalog.facts()
    if moments is not None:
        pairs = list(moments)
        rows = np.array([row for row, _ in pairs], dtype=np.int64).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(catalog)):
            raise ConfigError("a moment names a row that the catalog lacks", value=len(catalog))
        return rows, np.array([time for _, time in pairs], dtype=np.float64).reshape(-1)
    if every is None:
        index = equally_spaced(frame_counts(facts), frames_per_item)
        rows = np.repeat(np.arange(len(catalog)), frames_per_item)
        return rows, frame_times(facts, index).reshape(-1)
    rows, offsets = moments_every(facts.stop - facts.start, every)
    return rows, facts.start[rows] + offsets


def _clip_times(
    catalog: Catalog, plan: PixelPlan, rows: NDArray[np.int64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``float64 [m, t]``: frames around each moment, inside the item."""
    facts = catalog.facts(rows)
    return clip_times(
        centres,
        frames=plan.frames,
        spacing=plan.spacing,
        stride=plan.stride,
        fps=facts.fps,
        start=facts.start,
        counts=frame_counts(facts),
    )
