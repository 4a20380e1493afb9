"""Progress on standard error, for work that takes longer than a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO, cast

from rhyme.notices import log, tell

EVERY = 15.0
"""Seconds between the lines of a log."""


@contextmanager
def progress_bar(title: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """A bar with rate and time left, given as a callable ``(done, total)``.

    On a terminal it is drawn; elsewhere work that takes long gets a line now and then.

    Args:
        title: what is being done.
        unit: what is counted.
    """
    if not log().isatty():
        yield _Lines(title, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(file=cast(TextIO, log())),
        transient=True,
    ) as bars:
        task = bars.add_task(title, total=None, rate="")

        def update(done: int, total: int) -> None:
            if done < bars.tasks[task].completed:
                bars.reset(task)  # another part of the work counts anew
            speed = bars.tasks[task].speed
            rate = "" if speed is None else f"{speed:.3g}/s"
            bars.update(task, completed=done, total=total, rate=rate)

        yield update


class _Lines:
    """Plain lines for a log, at most one in ``EVERY`` seconds."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._begun = self._told = time.monotonic()
        self._first: int | None = None
        self._last = 0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done - 1  # what was known before has no part in the rate
        elif done < self._last:  # another part of the work counts anew
            self._begun = self._told = now
            self._first = done
        self._last = done
        if now - self._told < EVERY or done == total:
            return
        self._told = now
        rate = max(done - self._first, 1) / (now - self._begun)
        left = (total - done) / rate
        tell(f"{self._title}: {done} of {total} {self._unit}, {rate:.3g}/s, {left:.0f} s left")
