"""Being asked to stop: finish the step, save, and leave with the code that asks for a requeue."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, ClassVar

from rhyme.errors import RhymeError

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


class Preempted(RhymeError):
    """Training was asked to stop; its state is saved and it can be resumed (exit code 75)."""

    exit_code: ClassVar[int] = 75


class StopRequest:
    """Within it, signals ask for a stop instead of ending the process.

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
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
