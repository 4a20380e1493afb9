"""The parent's side: items in, results out, in order; the memory they take."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import reprlib
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import Empty
from typing import Any, Generic, Literal, TypeVar, cast

from rhyme.errors import ConfigError
from rhyme.group import local_ranks
from rhyme.workers import memory
from rhyme.workers.free_memory import available_bytes
from rhyme.workers.packing import constant, dumps
from rhyme.workers.process import Setup
from rhyme.workers.slot import Shared, Slot, Task, failure

Item = TypeVar("Item")
Result = TypeVar("Result")

Errors = Literal["raise", "return"]
"""What becomes of a failed item: raised, which ends the map, or yielded in its place."""

_IN_USE = 3  # regions beyond those of items that are out: what the consumer has at hand
log = logging.getLogger("rhyme.workers")


def _arena(regions: int) -> memory.Arena | None:
    try:
        return memory.Arena(regions, memory.REGION)
    except OSError as error:
        log.warning("results travel through pipes, which is slower: %s", error)
        return None


def _close(shared: Shared, slots: Sequence[Slot]) -> None:
    """End all processes of a pool and wait until they are gone."""
    if os.getpid() != shared.owner:
        return  # a fork inherited the pool, not its workers
    with contextlib.suppress(Empty):
        while True:
            task = shared.tasks.get_nowait()
            if task is not None:
                task.future.cancel()
    for slot in slots:
        shared.tasks.put(None)
        slot.close()
    for slot in slots:
        slot.join()
    if shared.setup.constants is not None:
        os.close(shared.setup.constants)


class Pool(Generic[Item, Result]):
    """Worker processes that apply one function; kept as long as wanted, e.g. over epochs.

    Args:
        fn: applied to every item. It must be picklable (a module-level function, a
            ``functools.partial`` of one, or an object with ``__call__``); it is sent once to each
            worker, so large state belongs into it and not into the items.
        workers: number of processes; 0 runs everything in this process, without deadlines.
        prefetch: items out at once for each worker, at least 1.
        deadline: seconds an item may take from the moment a worker takes it; ``None`` = no limit.
        initializer: called once in each worker (once here with ``workers=0``) before the first
            item; what it raises is raised for the first item and ends the map.
        initargs: arguments of the initializer.
        restarts: worker processes that may die or hang within a minute; one more ends the pool with
            an error that names their items. ``None``: each costs its item, and no more.
        budget: bytes that results made ahead may take; where they are large, fewer items are out
            than ``prefetch`` says. By default a quarter of the memory that is left, shared by the
            ranks of this machine.

    Raises:
        ConfigError: a count or the deadline is out of range.
    """

    def __init__(
        self,
        fn: Callable[[Item], Result],
        *,
        workers: int = 0,
        prefetch: int = 2,
        deadline: float | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        restarts: int | None = None,
        budget: int | None = None,
    ) -> None:
        if workers < 0 or prefetch < 1:
            raise ConfigError(
                "workers must be 0 or more and prefetch 1 or more", value=(workers, prefetch)
            )
        if deadline is not None and not deadline > 0:
            raise ConfigError("the deadline must be above 0 seconds", value=deadline)
        self.workers = workers
        self.prefetch = prefetch
        self.deadline = deadline
        self._fn = fn
        self._told = False
        self._prepare = (initializer, initargs)
        self.budget = available_bytes() // (4 * local_ranks()) if budget is None else budget
        work, constants = constant((fn, initializer, initargs) if workers else None)
        arena = _arena(workers * prefetch + _IN_USE) if workers else None
        self._shared = Shared(Setup(work, constants, arena), deadline, restarts)
        self._slots = [Slot(self._shared) for _ in range(workers)]
        for slot in self._slots:
            slot.start()
        self._finalizer = weakref.finalize(self, _close, self._shared, self._slots)

    def submit(self, item: Item) -> Future[Result]:
        """Hand one item to the next free worker; with ``workers=0`` it is computed at once.

        Raises:
            WorkerError: the pool is closed.
        """
        if not self._finalizer.alive:
            raise failure("the pool is closed", reprlib.repr(item), "open a new pool")
        if self.workers:
            task = Task(dumps(item), reprlib.repr(item))
            self._shared.tasks.put(task)
            return task.future
        future: Future[Result] = Future()
        initializer, initargs = self._prepare
        try:
            if initializer is not None:
                initializer(*initargs)
                self._prepare = (None, ())
            future.set_result(self._fn(item))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, items: Iterable[Item], *, errors: Errors = "raise") -> Iterator[Result]:
        """Results in the order of the items, lazily; ``items`` may be endless.

        Closing the iterator early leaves the pool usable: items that are out are finished and
        dropped.

        Args:
            items: consumed only as far as workers have room.
            errors: ``"raise"`` ends the map at the first failed item; ``"return"`` yields the
                exception in its place and goes on, unless no worker can start at all.
        """
        source = iter(items)
        out: deque[Future[Result]] = deque()
        while True:
            for item in itertools.islice(source, max(self._room() - len(out), 0)):
                out.append(self.submit(item))
            if not out:
                return
            try:
                result = out.popleft().result()
            except Exception as error:
                if errors == "raise" or self._shared.fatal is not None:
                    raise
                result = cast(Result, error)
            yield result

    @property
    def broken(self) -> Exception | None:
        """Why no worker can go on, if that is so."""
        return self._shared.fatal

    def forgive(self) -> None:
        """Forget the workers that ended so far: what ended them is known and dealt with."""
        self._shared.ends.clear()

    def _room(self) -> int:
        """Items that may be out at once: as ``prefetch`` says, as far as memory allows."""
        wanted = max(1, self.workers * self.prefetch)
        fits = self.budget // max(self._shared.largest, 1)
        room = max(1, min(wanted, fits))
        if room < wanted and not self._told:
            self._told = True
            log.warning(
                "%d instead of %d results are made ahead: one takes %.0f MB, and %.0f MB may be "
                "used for them; smaller batches or fewer workers need less",
                *(room, wanted, self._shared.largest / 1e6, self.budget / 1e6),
            )
        return room

    def close(self) -> None:
        """End all workers now, whatever they do. Harmless when repeated."""
        self._finalizer()

    def __enter__(self) -> Pool[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def map_ordered(
    fn: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 0,
    prefetch: int = 2,
    deadline: float | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    errors: Errors = "raise",
) -> Iterator[Result]:
    """Apply ``fn`` to every item in worker processes; results in the order of the items.

    The processes start with the first result asked for and end with the iterator: when it is
    exhausted, closed, garbage, or left through an exception, Ctrl-C included.

    Args:
        fn: picklable; see :class:`Pool`.
        items: consumed lazily, at most ``workers * prefetch`` ahead; may be endless.
        workers: number of processes; 0 runs in this process, where no deadline applies.
        prefetch: items out at once for each worker.
        deadline: seconds an item may take in its worker.
        initializer: called once in each worker.
        initargs: arguments of the initializer.
        errors: ``"raise"``, or ``"return"`` to get an exception as the failed item's result.

    Yields:
        ``fn(item)`` for each item.

    Raises:
        WorkerError: an item passed the deadline or its worker died.
        Exception: whatever ``fn`` raised.
    """
    pool = Pool(
        fn,
        workers=workers,
        prefetch=prefetch,
        deadline=deadline,
        initializer=initializer,
        initargs=initargs,
    )
    return _drain(pool, items, errors)


def _drain(pool: Pool[Item, Result], items: Iterable[Item], errors: Errors) -> Iterator[Result]:
    with pool:
        yield from pool.map(items, errors=errors)
