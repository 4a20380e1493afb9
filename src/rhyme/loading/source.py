"""Batches of a catalog: an exact order, read ahead by workers, damaged items replaced."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme import distributed
from rhyme.catalog import Catalog
from rhyme.config import fingerprint as config_fingerprint
from rhyme.errors import CheckpointError, DataError, WorkerError, WorkerHung
from rhyme.loading.batch import Batch
from rhyme.loading.cache import FrameCache
from rhyme.loading.damaged import Damaged, Tell
from rhyme.loading.maker import BatchMaker, Made, Replaced, Request
from rhyme.loading.order import BatchOrder
from rhyme.loading.placement import Finisher, Placement
from rhyme.loading.usable import unusable
from rhyme.views import ViewPlan
from rhyme.workers import Pool

__all__ = ["CatalogSource"]

_NOTED = 1000  # replacements that are kept; each file was told when it was first met
_RETRIES = 2
_RESTARTS = 3  # that a worker may take in a minute, the search for the item to blame included

_Asked = tuple[int, int, Request]  # epoch, place of the batch in it, what was asked of a worker


class _Coming(NamedTuple):
    """A batch that is being finished: its place, and itself."""

    epoch: int
    batch: int
    ready: Future[Batch]


class CatalogSource:
    """The items of a catalog, seen through a view plan; satisfies ``Source``.

    The same batches, bit for bit, for any number of workers and from any position. An item that
    cannot be decoded is replaced by another one, chosen by seed, and noted in ``replaced``; an item
    that crashes or hangs its worker is found and treated alike.

    Args:
        catalog: the items.
        plan: the draws and views.
        batch_size: items of a *global* batch; each rank makes its own rows of it.
        seed: run seed.
        workers: processes that make batches ahead; 0 makes them here, when asked.
        cache: decoded frames to use instead of the files.
        frames: draw from so many equally spaced frames of an item alone, as a cache of so many
            does; None draws from all.
        drop_last: leave out the last batch of an epoch if it is smaller.
        shuffle: permute the items in each epoch.
        weights: ``[n]`` sampling weights, see ``set_sampler_weights``.
        prefetch: batches ahead, for each worker.
        bad_limit: largest share of items that may prove damaged (three always may).
        deadline: seconds that a worker may take for a batch.
        tell: called once for each file that proves damaged.
        placement: where views are made; None makes them with the decoding.

    Attributes:
        catalog: the items that are used, after leaving out those in ``left_out``.
        left_out: why, by row of the given catalog: items that are too short for the plan, have no
            frames, or failed in the cache.
        replaced: the last damaged items met by this object, with reason and stand-in.
        wait_seconds: time that the consumer spent waiting for batches.

    Raises:
        DataError: an epoch would be shorter than one batch.
    """

    def __init__(
        self,
        catalog: Catalog,
        plan: ViewPlan,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        cache: FrameCache | None = None,
        frames: int | None = None,
        drop_last: bool = True,
        shuffle: bool = True,
        weights: Tensor | NDArray[Any] | None = None,
        prefetch: int = 2,
        bad_limit: float = 0.01,
        deadline: float | None = 300.0,
        tell: Tell | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.left_out: dict[int, str] = unusable(catalog, plan, cache, frames=frames)
        kept = np.setdiff1d(np.arange(len(catalog)), list(self.left_out))
        if self.left_out and not len(kept):
            raise DataError(
                "every item is too short for the view plan, or damaged",
                stage="loading",
                value=next(iter(self.left_out.values())),
                remedy='use fewer or closer frames, or another policy than short="drop"'
                + ("" if cache is None else ", or hold more frames: --data.cache_frames"),
            )
        self.catalog = catalog.select(indices=kept) if self.left_out else catalog
        self.plan = plan
        self.replaced: deque[Replaced] = deque(maxlen=_NOTED)
        self.wait_seconds = 0.0
        self._maker = BatchMaker(
            catalog=self.catalog, plan=plan, seed=seed, cache=cache, frames=frames
        )
        self._workers, self._prefetch, self._deadline = workers, prefetch, deadline
        self._placement = placement or Placement("cpu", torch.device("cpu"))
        self._placement.ahead = workers * prefetch + 1  # one is being finished
        self._pool: Pool[Request, Made] | None = None
        ids = np.asarray(self.catalog.numbers("id")).view(np.uint64)
        self._damaged = Damaged(ids, bad_limit, tell)
        self._order = BatchOrder(
            ids,
            seed=seed,
            batch_size=batch_size,
            drop_last=drop_last,
            shuffle=shuffle,
            fingerprint=self.catalog.fingerprint,
        )
        if weights is not None:
            self._order.set_weights(weights)

    @property
    def items(self) -> int:
        """Number of items of one epoch."""
        return len(self.catalog)

    @property
    def groups(self) -> int:
        """Number of groups among the items."""
        return len(np.unique(self.catalog.group_codes))

    @property
    def fingerprint(self) -> str:
        """Hash of the items that are used."""
        return self._order.fingerprint

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch."""
        return self._order.batches_per_epoch

    @property
    def batch_size(self) -> int:
        """Items of a global batch."""
        return self._order.batch_size

    def batches(self) -> Iterator[Batch]:
        """Batches from the current position on, without end.

        Raises:
            DataError: more items are damaged than may be.
            WorkerError: a batch fails again and again, and no single item is to blame.
        """
        if self._pool is None:
            self._pool = Pool(
                self._maker,
                workers=self._workers,
                prefetch=self._prefetch,
                deadline=self._deadline,
                restarts=_RESTARTS * (self._workers + 1),
            )
        pool = self._pool
        waiting: deque[_Asked] = deque()

        def requests() -> Iterator[Request]:
            for epoch, batch in self._order.positions():
                rows, repeats = self._order.rows(epoch, batch)
                mine = distributed.rank_slice(len(rows))
                request = Request(
                    epoch=epoch,
                    rows=rows[mine],
                    repeats=repeats[mine],
                    bad=dict(self._damaged.deadly),
                    raw=self._placement.where == "device",
                )
                waiting.append((epoch, batch, request))
                yield request

        self._placement.reopen()
        results = pool.map(requests(), errors="return")
        coming: deque[_Coming] = deque()
        with closing(Finisher(self.plan, self._placement.device)) as finisher:
            while True:
                begun = time.perf_counter()
                while len(coming) < finisher.ahead:
                    coming.append(self._begin(pool, results, waiting, finisher))
                next_one = coming.popleft()
                ready = next_one.ready.result()
                waited = time.perf_counter() - begun
                self.wait_seconds += waited
                self._order.handed_out(next_one.epoch, next_one.batch)
                self._placement.handed_out(waited)
                yield ready

    def observe(self, output: Any) -> None:
        """Nothing is learnt from the steps."""

    def set_sampler_weights(self, weights: Tensor | NDArray[Any]) -> None:
        """Sample items by weight, with replacement.

        It holds from the current epoch on if no batch of it was handed out, else from the next one.
        Iterators that are open must be opened anew: they may have read ahead.
        """
        self._order.set_weights(weights)

    def state_dict(self) -> dict[str, Any]:
        """Position, weights, what they belong to, what proved damaged, where views are made."""
        return {
            **self._order.state_dict(),
            "plan": config_fingerprint(self.plan),
            "damaged": self._damaged.state_dict(),
            "augment": self._placement.decided,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; iterators that are open must be opened anew.

        Raises:
            CheckpointError: it belongs to other data, another plan, seed or batch size.
        """
        plan = config_fingerprint(self.plan)
        if state.get("plan") != plan:
            raise CheckpointError(
                "the checkpoint's view plan is another one",
                stage="resume",
                value={"checkpoint": state.get("plan"), "now": plan},
                remedy="resume with the options that the run was started with",
            )
        self._order.load_state_dict(state)
        self._damaged.load_state_dict(state["damaged"])
        self._placement.decided = state["augment"]

    def close(self) -> None:
        """End the workers and close the files."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._maker.close()

    def _begin(
        self,
        pool: Pool[Request, Made],
        results: Iterator[Made | BaseException],
        waiting: deque[_Asked],
        finisher: Finisher,
    ) -> _Coming:
        """Receive the next batch and let its views be made; an error waits for its turn."""
        try:
            made = next(results)
            epoch, batch, request = waiting.popleft()
            made = self._sound(pool, request, made)
            return _Coming(epoch, batch, finisher.start(made.batch, made.raw))
        except Exception as error:
            failed: Future[Batch] = Future()
            failed.set_exception(error)
            return _Coming(0, 0, failed)

    def _sound(
        self, pool: Pool[Request, Made], request: Request, made: Made | BaseException
    ) -> Made:
        """What was made, or what is made instead; damaged items are noted."""
        if isinstance(made, Made) and self._damaged.unforeseen(
            request.bad, made.batch.index.tolist()
        ):
            made = self._again(pool, request)
        if isinstance(made, WorkerError):
            made = self._recover(pool, request, made)
        if isinstance(made, BaseException):
            raise made
        self.replaced.extend(made.replaced)
        self._damaged.note(made.replaced)
        return made

    def _again(self, pool: Pool[Request, Made], request: Request) -> Made | BaseException:
        """Make a batch once more, with what is known by now."""
        fresh = replace(request, bad=dict(self._damaged.deadly))
        try:
            return pool.submit(fresh).result()
        except Exception as error:
            return error

    def _recover(
        self, pool: Pool[Request, Made], request: Request, error: WorkerError
    ) -> Made | BaseException:
        """Make a batch whose worker died or hung: once more, then without the item to blame."""
        made: Made | BaseException = error
        for _ in range(_RETRIES):
            if not isinstance(made, WorkerHung):  # a second wait would be as long as the first
                made = self._again(pool, request)
            if isinstance(made, WorkerError) and pool.broken is None:
                self._damaged.deadly.update(self._blame(pool, request))
                if pool.broken is None:
                    pool.forgive()
                    made = self._again(pool, request)
            if pool.broken is not None:
                return pool.broken
            if not isinstance(made, WorkerError):
                break
        return made

    def _blame(self, pool: Pool[Request, Made], request: Request) -> dict[int, str]:
        """Reasons by row of the items that kill or hang a worker on their own."""
        blamed: dict[int, str] = {}
        for place in range(len(request.rows)):
            one = slice(place, place + 1)
            single = replace(
                request,
                rows=request.rows[one],
                repeats=request.repeats[one],
                bad=dict(self._damaged.deadly),
            )
            try:
                pool.submit(single).result()
            except WorkerError as error:
                blamed[int(request.rows[place])] = error.reason
        return blamed
