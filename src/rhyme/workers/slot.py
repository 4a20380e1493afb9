"""A thread for each worker process: feeds it, replaces it, turns its failures into errors."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from rhyme.errors import WorkerError, WorkerHung
from rhyme.workers.process import (
    Died,
    Hung,
    NotTaken,
    Reply,
    Setup,
    WorkerProcess,
    innermost,
)

WINDOW = 60.0
"""Seconds over which the ends of workers are counted."""
GUARD = (
    'guard the script with `if __name__ == "__main__":`, keep it in a file (no pipe), and see the '
    "messages above"
)
_SIGNALS = {9: "; the system kills so when memory runs out", 11: "; its code crashed"}

log = logging.getLogger("rhyme.workers")


@dataclass(frozen=True)
class Task:
    """One submitted item on its way."""

    blob: bytes
    name: str
    future: Future[Any] = field(default_factory=Future)


@dataclass
class Shared:
    """What the workers of one pool have in common; holds no reference to the pool itself.

    Attributes:
        setup: what processes are started with.
        deadline: seconds an item may take.
        restarts: processes that may end in a window of time; None for any number.
        tasks: items that wait; None ends one slot.
        answered: some worker got as far as taking an item.
        fatal: why no worker can go on.
        largest: bytes of the largest result so far.
        ends: when workers ended, and with which item.
        owner: the process that the workers belong to; after a fork there are two with this object.
    """

    setup: Setup
    deadline: float | None
    restarts: int | None
    tasks: SimpleQueue[Task | None] = field(default_factory=SimpleQueue)
    answered: bool = False
    fatal: Exception | None = None
    largest: int = 0
    ends: deque[tuple[float, str]] = field(default_factory=deque)
    owner: int = field(default_factory=os.getpid)
    told: bool = False

    def count(self, name: str) -> None:
        """A worker ended with an item; too many within the window end the pool."""
        now = time.monotonic()
        self.ends.append((now, name))
        while self.ends and now - self.ends[0][0] > WINDOW:
            self.ends.popleft()
        if self.restarts is not None and len(self.ends) > self.restarts:
            self.fatal = failure(
                f"worker processes ended {len(self.ends)} times within {WINDOW:g} s",
                list(dict.fromkeys(item for _, item in self.ends)),
                "look for what ends them: too little memory (use fewer workers, smaller batches), "
                "or a file that crashes its decoder (rhyme scan --depth frames finds it)",
            )


class Slot(threading.Thread):
    """Feeds one worker process and replaces it when it ends."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(name="rhyme-worker-slot", daemon=True)
        self._shared = shared
        self._process: WorkerProcess | None = None
        self._lock = threading.Lock()
        self._closing = False

    def run(self) -> None:
        """Serve items until there is a None."""
        try:
            while (task := self._shared.tasks.get()) is not None:
                if task.future.set_running_or_notify_cancel():
                    try:
                        value = self._serve(task)
                    except Exception as error:
                        task.future.set_exception(error)
                    else:
                        task.future.set_result(value)
                        del value
                del task  # an idle slot must not keep the last item or result alive
        finally:
            self._end()

    def close(self) -> None:
        """End the process now; ``run`` then finds the end of its tasks."""
        with self._lock:
            self._closing = True
            if self._process is not None:
                self._process.kill()

    def _serve(self, task: Task) -> Any:
        shared = self._shared
        if shared.fatal is not None:
            raise shared.fatal
        arena = shared.setup.arena
        region = None if arena is None else arena.take()
        lent = False
        try:
            reply = self._twice(task, region)
            if reply.status == "done":
                self._tell(reply)
                buffers: list[Any] = []
                if arena is not None and region is not None and reply.spans:
                    lent = True
                    buffers = list(arena.lend(region, reply.spans))
                size = len(reply.stream) + sum(length for _, length in reply.spans)
                shared.largest = max(shared.largest, size)
                return pickle.loads(reply.stream, buffers=buffers)
        finally:
            if arena is not None and region is not None and not lent:
                arena.give_back(region)
        error, trace = pickle.loads(reply.stream)
        error.add_note(f"raised in a worker process:\n{trace}")
        if reply.status == "start":
            shared.fatal = error
        raise error

    def _twice(self, task: Task, region: int | None) -> Reply:
        """The answer to an item; a process that ended idle is replaced without a word."""
        shared = self._shared
        try:
            try:
                return self._call(task, region)
            except NotTaken:
                return self._call(task, region)
        except CancelledError:
            raise failure("the pool was closed before the item was done", task.name) from None
        except NotTaken:
            error = failure("the worker process ended before it took the item", task.name, GUARD)
            if not shared.answered:
                shared.fatal = error
            raise error from None
        except Died as died:
            code = died.code
            how = f"signal {-code}{_SIGNALS.get(-code, '')}" if code < 0 else f"exit code {code}"
            cause = f"the worker process died ({how})"
            remedy = "leave the item out, or use less memory: fewer workers, smaller items"
            raise self._ended(WorkerError, task, cause, died.stack, remedy) from None
        except Hung as hung:
            cause = f"the item took longer than its deadline of {shared.deadline:g} s"
            remedy = "raise the deadline, or leave the item out"
            raise self._ended(WorkerHung, task, cause, hung.stack, remedy) from None

    def _ended(
        self, kind: type[WorkerError], task: Task, cause: str, stack: str, remedy: str
    ) -> Exception:
        """The error of an item that ended its worker; the pool's own if it was one too many."""
        self._shared.count(task.name)
        if self._shared.fatal is not None:
            return self._shared.fatal
        where = innermost(stack)
        cause += f", at {where}" if where else ""
        error = kind(cause, stage="workers", value=task.name, remedy=remedy)
        if stack:
            error.add_note(f"the worker's stack:\n{stack}")
        return error

    def _call(self, task: Task, region: int | None) -> Reply:
        """Run the item in this slot's process; a process that fails is given up."""
        shared = self._shared
        try:
            process = self._current()
            reply = process.ready()
            if reply.status == "ready":
                reply = process.call(task.blob, region, shared.deadline)
        except (NotTaken, Died, Hung) as ended:
            if isinstance(ended, Died | Hung):
                shared.answered = True
            closing = self._closing
            self._end()
            if closing:
                raise CancelledError from None
            raise
        if reply.status == "start":
            self._end()
        else:
            shared.answered = True
        return reply

    def _current(self) -> WorkerProcess:
        with self._lock:
            if self._closing:
                raise CancelledError
            if self._process is not None and self._process.alive:
                return self._process
        self._end()
        with self._lock:
            if self._closing:
                raise CancelledError
            try:
                self._process = WorkerProcess(self._shared.setup)
            except (RuntimeError, OSError) as error:
                cause = f"a worker process cannot be started: {str(error).strip()}"
                self._shared.fatal = failure(cause, None, GUARD)
                raise self._shared.fatal from error
            return self._process

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end()

    def _tell(self, reply: Reply) -> None:
        """Say once that a result was too large for its region."""
        shared = self._shared
        if reply.missed and not shared.told:
            shared.told = True
            log.warning(
                "%.1f MB of a result did not fit into shared memory and came through a pipe, "
                "which is slower; smaller batches avoid it",
                reply.missed / 1e6,
            )


def failure(cause: str, name: object, remedy: str | None = None) -> WorkerError:
    """An error of this room that names the item."""
    return WorkerError(cause, stage="workers", value=name, remedy=remedy)
