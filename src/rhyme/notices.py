"""Lines for whoever reads the log, and what becomes of them when nobody does.

A log is read by a pipe that may close, or lies on a disk that may fill up. Neither is a reason to
end work: a line that cannot be written is dropped, and the next one is tried again.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

_NOBODY = (OSError, ValueError)
"""What writing raises where nobody reads: a broken pipe, a full disk, a stream that is closed."""


class Log:
    """A stream of text on which writing never fails.

    Args:
        stream: where to; None for nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text where that cannot be done."""
        if self._stream is not None:
            with suppress(*_NOBODY):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, where that can be done."""
        if self._stream is not None:
            with suppress(*_NOBODY):
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with suppress(*_NOBODY):
            return self._stream is not None and self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def log() -> Log:
    """Standard error, as it is now."""
    return Log(sys.stderr)


def tell(text: str) -> None:
    """A line on standard error, if anybody reads it."""
    log().write(text + "\n")
    log().flush()


def open_closed_streams() -> None:
    """Give standard streams that were closed at the start of the process a place to write to.

    Their numbers are taken too: the next file that is opened would get one of them, and with it
    whatever a library writes to "standard error".
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def let_go() -> None:
    """Drop what standard streams could not write, so that the end of Python does not fail on it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except _NOBODY:
            with suppress(*_NOBODY):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                stream.flush()
