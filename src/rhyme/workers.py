"""A pool of worker processes: order kept, a deadline an item, nothing left behind.

Everything that decodes or computes many independent items goes through here: the scan, batch
loading, embedding, and decoding in isolation. Processes are *spawned*, never forked, because a
decoder or a thread pool that was opened before a fork hangs in the child.

What is promised:

* results come in the order of the items, and at most ``workers * prefetch`` items are out at once,
  so the items may be an endless generator;
* an exception raised by the function arrives with its own type and fields;
* an item that passes its deadline, or whose worker dies (killed, out of memory, crashed in a
  codec), becomes a :class:`~rhyme.errors.WorkerError` that names the item; the worker is replaced;
* each worker computes on one thread, so that ``workers`` is the number of busy cores;
* when the pool closes, for whatever reason, its processes end; when the parent is killed outright,
  they notice and end too.

Results travel as bytes through a pipe (pickle protocol 5). Tensors travel as NumPy arrays inside
them, never as shared memory: nothing is left in ``/dev/shm`` when somebody dies half way.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import os
import pickle
import reprlib
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, Generic, Literal, TypeVar, cast

import pebble

from rhyme.errors import ConfigError, WorkerError

__all__ = ["Errors", "Pool", "Ticket", "map_ordered"]

Item = TypeVar("Item")
Result = TypeVar("Result")

Errors = Literal["raise", "return"]
"""What becomes of a failed item: raised, which ends the map, or yielded in its place."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_POLL_S = 0.5  # how often a waiting consumer looks whether the pool itself still lives


# --------------------------------------------------------------------------------- transport


class _Pickler(pickle.Pickler):
    """Protocol 5, with plain tensors sent as NumPy arrays instead of shared memory."""

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or type(obj) is not torch.Tensor or obj.layout != torch.strided:
            return NotImplemented
        tensor = obj.detach().cpu().contiguous()
        flat = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else None
        name = str(tensor.dtype).removeprefix("torch.")
        return _tensor, (None if flat is None else flat.numpy(), name, tuple(tensor.shape))


def _tensor(flat: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """Rebuild a tensor from its bytes, its type and its shape."""
    import torch

    kind = getattr(torch, dtype)
    if flat is None:
        return torch.empty(shape, dtype=kind)
    return torch.from_numpy(flat).view(kind).reshape(shape)


def _dumps(value: object) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(value)
    return stream.getvalue()


# -------------------------------------------------------------------------------- in the worker

_function: Callable[[Any], Any] | None = None
_start_error: BaseException | None = None


def _one_thread() -> None:
    """Keep this process on one compute thread, also in libraries that load later."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="rhyme-parent-watch").start()


def _start(blob: bytes) -> None:
    """Prepare a worker: one thread, the user's initializer, the function itself."""
    global _function, _start_error
    _end_with_parent()
    _one_thread()
    try:
        function, initializer, initargs = pickle.loads(blob)
        _one_thread()  # loading the function may have brought torch in
        if initializer is not None:
            initializer(*initargs)
        _function = function
    except Exception as error:
        _start_error = error  # told with the first item: a worker that fails here cannot answer yet


def _run(blob: bytes) -> tuple[bool, bytes]:
    """Apply the function to one item; the answer is (worked, pickled result or error)."""
    try:
        if _start_error is not None:
            raise _start_error
        assert _function is not None
        return True, _dumps(_function(pickle.loads(blob)))
    except Exception as error:
        return False, _dumps_error(error)


def _dumps_error(error: Exception) -> bytes:
    """An error and its traceback as bytes; one that cannot travel becomes a WorkerError."""
    trace = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        blob = pickle.dumps((error, trace), protocol=5)
        pickle.loads(blob)  # some exceptions pickle but cannot be rebuilt
        return blob
    stand_in = WorkerError(f"{type(error).__name__}: {error}", stage="workers")
    return pickle.dumps((stand_in, trace), protocol=5)


# -------------------------------------------------------------------------------- in the parent


class Ticket(Generic[Result]):
    """The claim on one submitted item."""

    def __init__(self, future: Future[tuple[bool, bytes]], item: object, pool: Pool[Any, Any]):
        self._future = future
        self._name = reprlib.repr(item)
        self._pool = pool

    def done(self) -> bool:
        """Whether the result, or the failure, is here."""
        return self._future.done()

    def result(self) -> Result:
        """Wait for the item and return its result.

        Raises:
            WorkerError: the deadline passed, the worker died, or the pool broke down.
            Exception: whatever the function raised, with its own type.
        """
        deadline = self._pool.deadline
        try:
            worked, blob = self._wait()
        except CancelledError:
            raise self._failure("the pool was closed before the item was done") from None
        except BrokenProcessPool:
            raise self._broken() from None
        except pebble.ProcessExpired as error:
            raise self._failure(
                f"the worker process died ({_exit_text(error.exitcode)})",
                "leave the item out, or lower the memory use (fewer workers, smaller items)",
            ) from None
        except FutureTimeout:
            raise self._failure(
                f"the item took longer than its deadline of {deadline:g} s",
                "raise the deadline, or leave the item out",
            ) from None
        value = pickle.loads(blob)
        if worked:
            return cast(Result, value)
        error, trace = value
        error.add_note(f"raised in a worker process:\n{trace}")
        raise error

    def _wait(self) -> tuple[bool, bytes]:
        while True:
            try:
                return self._future.result(_POLL_S)
            except FutureTimeout:
                if self._future.done():
                    return self._future.result()
                if not self._pool.alive:
                    raise BrokenProcessPool from None

    def _broken(self) -> WorkerError:
        return self._failure(
            "the worker processes ended before they could take the item",
            'guard the script with `if __name__ == "__main__":`, and see the messages above',
        )

    def _failure(self, cause: str, remedy: str | None = None) -> WorkerError:
        return WorkerError(cause, stage="workers", value=self._name, remedy=remedy)


def _exit_text(code: int | None) -> str:
    if code is None:
        return "no exit code"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


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
            item; what it raises is raised by the first item.
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
        if workers < 0:
            raise ConfigError("workers must be 0 or more", value=workers)
        if prefetch < 1:
            raise ConfigError("prefetch must be 1 or more", value=prefetch)
        if deadline is not None and not deadline > 0:
            raise ConfigError("the deadline must be above 0 seconds", value=deadline)
        self.workers = workers
        self.prefetch = prefetch
        self.deadline = deadline
        self._fn = fn
        self._closed = False
        self._initializer = (initializer, initargs)
        self._pool: pebble.ProcessPool | None = None
        self._finalizer: Callable[[], object] = _nothing
        if workers:
            blob = _dumps((fn, initializer, initargs))
            self._pool = pebble.ProcessPool(
                max_workers=workers,
                initializer=_start,
                initargs=(blob,),
                context=multiprocessing.get_context("spawn"),
            )
            self._finalizer = weakref.finalize(self, _stop, self._pool)

    @property
    def alive(self) -> bool:
        """Whether items can still be submitted."""
        return not self._closed and (self._pool is None or self._pool.active)

    def submit(self, item: Item) -> Ticket[Result]:
        """Hand one item to the next free worker; with ``workers=0`` it is computed now.

        Raises:
            WorkerError: the pool is closed or broke down.
        """
        if not self.alive:
            raise WorkerError(
                "the pool is closed or its processes ended",
                stage="workers",
                value=reprlib.repr(item),
                remedy='open a new pool; guard scripts with `if __name__ == "__main__":`',
            )
        if self._pool is None:
            return _Inline(self._inline, item, self)
        future = self._pool.schedule(_run, args=(_dumps(item),), timeout=self.deadline)
        return Ticket(cast("Future[tuple[bool, bytes]]", future), item, self)

    def map(self, items: Iterable[Item], *, errors: Errors = "raise") -> Iterator[Result]:
        """Results in the order of the items, lazily; ``items`` may be endless.

        Closing the iterator early leaves the pool usable: items that are out are finished and
        dropped.

        Args:
            items: consumed only as far as workers have room.
            errors: ``"raise"`` ends the map at the first failed item; ``"return"`` yields the
                exception in its place and goes on.
        """
        limit = max(1, self.workers * self.prefetch)
        source = iter(items)
        out: deque[Ticket[Result]] = deque()
        while True:
            for item in itertools.islice(source, limit - len(out)):
                out.append(self.submit(item))
            if not out:
                return
            try:
                result = out.popleft().result()
            except Exception as error:
                if errors == "raise":
                    raise
                result = cast(Result, error)
            yield result

    def close(self) -> None:
        """End all workers now, whatever they do. Harmless when repeated."""
        self._closed = True
        self._finalizer()

    def __enter__(self) -> Pool[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _inline(self, item: Item) -> Result:
        initializer, initargs = self._initializer
        if initializer is not None:
            initializer(*initargs)
            self._initializer = (None, ())
        return self._fn(item)


class _Inline(Ticket[Result]):
    """The ticket of an item that is computed in this process, when it is asked for."""

    def __init__(self, fn: Callable[[Any], Result], item: object, pool: Pool[Any, Any]):
        super().__init__(Future(), item, pool)
        self._fn = fn
        self._item = item

    def done(self) -> bool:
        return True

    def result(self) -> Result:
        return self._fn(self._item)


def _nothing() -> None:
    return None


def _stop(pool: pebble.ProcessPool) -> None:
    """Kill the workers of a pool and wait until they are gone."""
    pool.stop()
    pool.join()


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
