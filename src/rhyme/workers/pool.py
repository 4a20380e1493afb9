"""The parent's side: one slot for each worker process, and the pool over them."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import pickle
import reprlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, Literal, TypeVar, cast

import pebble

from rhyme.errors import ConfigError, WorkerError
from rhyme.workers.child import Status, dumps, run, start

Item = TypeVar("Item")
Result = TypeVar("Result")

Errors = Literal["raise", "return"]
"""What becomes of a failed item: raised, which ends the map, or yielded in its place."""

_GUARD = 'guard the script with `if __name__ == "__main__":`, and see the messages above'


@dataclass(frozen=True)
class _Task:
    """One submitted item on its way."""

    blob: bytes
    name: str
    future: Future[Any] = field(default_factory=Future)


@dataclass
class _Shared:
    """What the workers of one pool have in common; holds no reference to the pool itself."""

    blob: bytes
    deadline: float | None
    tasks: SimpleQueue[_Task | None] = field(default_factory=SimpleQueue)
    answered: bool = False  # some worker got as far as taking an item
    fatal: Exception | None = None  # no worker can start


class _Slot(threading.Thread):
    """Feeds one worker process and replaces it when it dies."""

    def __init__(self, shared: _Shared) -> None:
        super().__init__(name="rhyme-worker-slot", daemon=True)
        self._shared = shared
        self._pool: pebble.ProcessPool | None = None
        self._current: Future[Any] | None = None
        self._lock = threading.Lock()
        self._closing = False

    def run(self) -> None:
        try:
            while (task := self._shared.tasks.get()) is not None:
                if task.future.set_running_or_notify_cancel():
                    try:
                        value = self._serve(task)
                    except Exception as error:
                        task.future.set_exception(error)
                    else:
                        task.future.set_result(value)
                del task  # an idle slot must not keep the last item or result alive
        finally:
            self._end()

    def close(self) -> None:
        """Stop waiting for the item in work; ``run`` then ends the process."""
        with self._lock:
            self._closing = True
            if self._current is not None:
                self._current.cancel()

    def _serve(self, task: _Task) -> Any:
        shared = self._shared
        try:
            try:
                status, blob = self._call(task)
            except BrokenProcessPool:  # it died before the item, e.g. for lack of memory
                status, blob = self._call(task)
        except CancelledError:
            raise _failure("the pool was closed before the item was done", task.name) from None
        except BrokenProcessPool:
            error = _failure("the worker process ended before it took the item", task.name, _GUARD)
            if not shared.answered:
                shared.fatal = error
            raise error from None
        except pebble.ProcessExpired as expired:
            code = expired.exitcode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            remedy = "leave the item out, or use less memory: fewer workers, smaller items"
            raise _failure(f"the worker process died ({how})", task.name, remedy) from None
        except TimeoutError:
            cause = f"the item took longer than its deadline of {shared.deadline:g} s"
            remedy = "raise the deadline, or leave the item out"
            raise _failure(cause, task.name, remedy) from None
        value = pickle.loads(blob)
        if status == "done":
            return value
        error, trace = value
        error.add_note(f"raised in a worker process:\n{trace}")
        if status == "start":
            shared.fatal = error
        raise error

    def _call(self, task: _Task) -> tuple[Status, bytes]:
        """Run the item in this slot's process; a process that fails is given up."""
        try:
            with self._lock:
                if self._closing:
                    raise CancelledError
                if self._pool is None:
                    self._pool = pebble.ProcessPool(
                        max_workers=1,
                        initializer=start,
                        initargs=(self._shared.blob,),
                        context=cast(Any, multiprocessing.get_context("spawn")),
                    )
                try:
                    future = self._pool.schedule(
                        run, args=(task.blob,), timeout=self._shared.deadline
                    )
                except RuntimeError:  # the pool found its process dead
                    raise BrokenProcessPool from None
                self._current = future
            answer = future.result()
        except BrokenProcessPool:
            self._end()
            raise
        except (pebble.ProcessExpired, TimeoutError):
            self._shared.answered = True
            self._end()
            raise
        finally:
            self._current = None
        self._shared.answered = True
        return answer

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _failure(cause: str, name: str, remedy: str | None = None) -> WorkerError:
    return WorkerError(cause, stage="workers", value=name, remedy=remedy)


def _close(shared: _Shared, slots: Sequence[_Slot]) -> None:
    """End all processes of a pool and wait until they are gone."""
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
        self._prepare = (initializer, initargs)
        self._shared = _Shared(dumps((fn, initializer, initargs)) if workers else b"", deadline)
        self._slots = [_Slot(self._shared) for _ in range(workers)]
        for slot in self._slots:
            slot.start()
        self._finalizer = weakref.finalize(self, _close, self._shared, self._slots)

    def submit(self, item: Item) -> Future[Result]:
        """Hand one item to the next free worker; with ``workers=0`` it is computed at once.

        Raises:
            WorkerError: the pool is closed.
        """
        if not self._finalizer.alive:
            raise _failure("the pool is closed", reprlib.repr(item), "open a new pool")
        if self.workers:
            task = _Task(dumps(item), reprlib.repr(item))
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
        limit = max(1, self.workers * self.prefetch)
        source = iter(items)
        out: deque[Future[Result]] = deque()
        while True:
            for item in itertools.islice(source, limit - len(out)):
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
