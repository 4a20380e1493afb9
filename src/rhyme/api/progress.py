"""Progress bars on standard error, for work that takes longer than a moment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """A bar with time left, given as a callable ``(done, total)``.

    On a terminal it is drawn; elsewhere nothing is printed, so that logs stay readable.

    Args:
        title: what is being done.
        unit: what is counted.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
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
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
