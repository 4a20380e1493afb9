"""Being asked to stop: finish the step, save, and leave with the code that asks for a requeue."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from rhyme.errors import RhymeError

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


class Preempted(RhymeError):
    """Training was asked to stop; what was reached is saved, and it can go on (exit code 75)."""

    exit_code: ClassVar[int] = 75


class StopRequest:
    """Within it, signals ask for a stop instead of ending the process.

    It takes over from any :class:`StartGuard` around it, whose work is done then.
    A second Ctrl-C interrupts at once. Outside the main thread signals cannot be caught, and
    nothing changes.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def _take(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.name is not None and name == "SIGINT":
            raise KeyboardInterrupt
        self.name = name

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    handler = signal.signal(number, self._take)
                    while isinstance(guard := getattr(handler, "__self__", None), StartGuard):
                        guard.over = True
                        self.name = self.name or guard.name
                        handler = guard.before[number]
                    self._before[number] = handler
        return self

    def __exit__(self, *raised: object) -> None:
        _restore(self._before)


_AGAIN = 0.05  # seconds until a signal that was swallowed is sent anew


class _Asked(KeyboardInterrupt):
    """Raised where a signal finds the work; no handler of ordinary errors may swallow it."""


class StartGuard:
    """Until a :class:`StopRequest` takes over, a signal ends the work where it is.

    There is no state to save before the first step, and what is on the disk is whole at any moment;
    so nothing is gained by waiting for the end of a scan. Where code in C calls Python, as FFmpeg
    does to read a file, nothing that is raised comes through: there the signal is sent once more,
    until it finds another place. Outside the main thread signals cannot be caught, and nothing
    changes.

    Args:
        cause: what to say after "stopped by SIGTERM ".
        file: what it is about.
        remedy: tells how to go on, asked when it is needed.

    Raises:
        Preempted: in place of what the signal raised.
    """

    def __init__(self, cause: str, *, file: str | Path | None, remedy: Callable[[], str]) -> None:
        self._cause, self._file, self._remedy = cause, file, remedy
        self.name: str | None = None
        self.over = False
        self.before: dict[int, Any] = {}
        self._hook = sys.unraisablehook

    def take(self, number: int, frame: FrameType | None) -> None:
        """The handler; of several signals the first is told."""
        self.name = self.name or signal.Signals(number).name
        raise _Asked

    def _swallowed(self, lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, _Asked):
            self._hook(lost)
        elif self.name is not None:
            once_more = threading.Timer(_AGAIN, self._send, (getattr(signal, self.name),))
            once_more.daemon = True
            once_more.start()

    def _send(self, number: int) -> None:
        if not self.over:
            os.kill(os.getpid(), number)

    def __enter__(self) -> StartGuard:
        if threading.current_thread() is threading.main_thread():
            self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
            for name in SIGNALS:
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self.before[number] = signal.signal(number, self.take)
        return self

    def __exit__(self, *raised: object) -> None:
        if self.before:
            sys.unraisablehook = self._hook
        if self.over:
            return
        self.over = True
        _restore(self.before)
        if self.name is not None:
            raise Preempted(
                f"stopped by {self.name} {self._cause}",
                file=self._file,
                stage="train",
                remedy=self._remedy(),
            ) from None


def _restore(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)
