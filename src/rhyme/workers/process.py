"""One worker process as the parent sees it: start, hand over an item, notice its end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing import connection, reduction
from pathlib import Path
from typing import Any

from rhyme.workers.child import DUMP, Status, main
from rhyme.workers.memory import Arena, Span, anonymous_file
from rhyme.workers.packing import Constant

START = 300.0
"""Seconds in which a process must have loaded its function."""
_FITS = 1 << 15  # bytes that a pipe takes at once, whoever reads it
_STACK = 1 << 16


class NotTaken(Exception):
    """The process ended before it took an item."""


class Died(Exception):
    """The process ended while it had an item."""

    def __init__(self, code: int, stack: str) -> None:
        super().__init__(code)
        self.code, self.stack = code, stack


class Hung(Exception):
    """The item passed its deadline; the process was killed."""

    def __init__(self, stack: str) -> None:
        super().__init__()
        self.stack = stack


@dataclass(frozen=True)
class Reply:
    """What a worker answered: a status, a pickled stream, and where its arrays lie."""

    status: Status
    spans: list[Span]
    missed: int
    stream: bytes


@dataclass(frozen=True)
class Setup:
    """What every process of a pool is started with."""

    work: Constant
    constants: int | None
    arena: Arena | None


class WorkerProcess:
    """A spawned process that serves one item at a time.

    Args:
        setup: the function, and the memory to share.

    Raises:
        OSError: the system gives no further process.
        RuntimeError: the main module is being imported by a worker: it lacks a guard.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._started = False
        self._stack = anonymous_file("rhyme-stack")
        here, there = multiprocessing.Pipe()
        self._channel = here
        results = None if setup.arena is None else setup.arena.descriptor
        size = 0 if setup.arena is None else setup.arena.size
        files = [_Passed(fd) for fd in (setup.constants, results, self._stack)]
        self.process = multiprocessing.get_context("spawn").Process(
            target=main,
            args=(there, setup.work, files[0], files[1], size, files[2]),
            name="rhyme_worker",
            daemon=True,
        )
        try:
            self.process.start()
        except BaseException:
            self._close()
            raise
        finally:
            there.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive()

    def ready(self) -> Reply:
        """Wait until the function is loaded; the answer is ``ready``, or ``start`` with an error.

        Raises:
            NotTaken: it ended, or does not come up.
        """
        if self._started:
            return Reply("ready", [], 0, b"")
        try:
            reply = self._receive(START)
        except (Died, Hung) as ended:
            raise NotTaken from ended
        self._started = reply.status == "ready"
        return reply

    def call(self, blob: bytes, region: int | None, deadline: float | None) -> Reply:
        """Hand over an item and wait for the answer.

        Args:
            blob: the pickled item.
            region: where large arrays of the result go.
            deadline: seconds.

        Raises:
            NotTaken: the process is gone.
            Died: it ended with the item.
            Hung: it took longer, and is killed.
        """
        try:
            with self._killed_after(deadline if len(blob) > _FITS else None):
                self._channel.send_bytes(str(-1 if region is None else region).encode())
                self._channel.send_bytes(blob)
            connection.wait([self._channel, self.process.sentinel], deadline)
            if not self._channel.poll(0):
                raise EOFError  # it ended, or it is stopped
            self._channel.recv_bytes()
        except (EOFError, OSError):
            raise NotTaken from None
        return self._receive(deadline)

    def kill(self) -> None:
        """End the process, whatever it does; may be called from another thread."""
        self.process.kill()

    def end(self) -> bool:
        """Kill the process and wait; False if even that takes too long."""
        self.kill()
        self.process.join(10)
        gone = not self.process.is_alive()
        self._close()
        return gone

    def _receive(self, deadline: float | None) -> Reply:
        until = None if deadline is None else time.monotonic() + deadline
        if not connection.wait([self._channel, self.process.sentinel], deadline):
            stack = self._ask_for_stack()
            self.kill()
            raise Hung(stack)
        left = None if until is None else max(until - time.monotonic(), 0.1)
        try:
            if not self._channel.poll(0):
                raise EOFError
            status, spans, missed, size = self._channel.recv()
            with self._killed_after(left if size > _FITS else None):
                stream = self._channel.recv_bytes()
        except (EOFError, OSError):
            if until is not None and time.monotonic() >= until:
                raise Hung("") from None
            raise Died(self._exit_code(), self._read_stack()) from None
        return Reply(status, spans, missed, stream)

    @contextlib.contextmanager
    def _killed_after(self, seconds: float | None) -> Generator[None]:
        """Kill the process if a transfer that may block does not end in time."""
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _exit_code(self) -> int:
        self.process.join(5)
        for _ in range(100):  # another thread may be collecting it this moment
            if self.process.exitcode is not None:
                return self.process.exitcode
            time.sleep(0.01)
        return 0

    def _ask_for_stack(self) -> str:
        """What a hung process is doing; empty where it does not answer, as when it is stopped."""
        if self._stack is None or DUMP is None or self.process.pid is None:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, DUMP)
        found, until = "", time.monotonic() + 1.0
        while time.monotonic() < until:
            time.sleep(0.05)
            before, found = found, self._read_stack()
            if found and found == before:
                break
        return found

    def _read_stack(self) -> str:
        if self._stack is None:
            return ""
        return os.pread(self._stack, _STACK, 0).decode("utf-8", "replace").strip()

    def _close(self) -> None:
        self._channel.close()
        if self._stack is not None:
            os.close(self._stack)
            self._stack = None


class _Passed:
    """A descriptor that travels into a process as it is spawned; ``detach`` gives it there."""

    def __init__(self, descriptor: int | None) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> Any:
        if self.descriptor is None:
            return _nothing, ()
        return _same, (reduction.DupFd(self.descriptor),)


def _nothing() -> None:
    return None


def _same(passed: Any) -> Any:
    return passed


def innermost(stack: str) -> str:
    """The line of a stack that the main thread was at, e.g. ``a.py:12 in read``; else empty."""
    last = re.split(r"^(?:Current thread|Thread) .*$", stack, flags=re.MULTILINE)[-1]
    found = re.search(r'File "([^"]+)", line (\d+) in (\S+)', last)
    if found is None:
        return ""
    return f"{Path(found[1]).name}:{found[2]} in {found[3]}"
