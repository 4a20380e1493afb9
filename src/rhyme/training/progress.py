"""The line of progress on standard error: live on a terminal, plain elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO, cast

from rhyme.notices import Log, log


def duration(seconds: float) -> str:
    """Seconds for a reader: ``45 s``, ``12 min``, ``3 h 05 min``."""
    whole = max(round(seconds), 0)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Progress of a run.

    Args:
        steps: steps of the run.
        done: steps done before.
        shown: False for silence.
        stream: where to; standard error by default.
        every: least seconds between two plain lines.
    """

    def __init__(
        self,
        steps: int,
        *,
        done: int = 0,
        shown: bool = True,
        stream: TextIO | None = None,
        every: float = 5.0,
    ) -> None:
        self.steps = steps
        self.shown = shown
        self.stream = log() if stream is None else Log(stream)
        self.every = every
        self._last = float("-inf")
        self._bar: Any = None
        if shown and self.stream.isatty():
            self._bar = _bar(self.stream)
            self._task = self._bar.add_task("train", total=steps, completed=done, facts="")
            self._bar.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.shown:
            self.stream.write(text + "\n")
            self.stream.flush()

    def advance(self, step: int) -> None:
        """Move the bar to a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row of metrics: loss, items a second, share of data wait, time left."""
        loss, rate = cast(float, row["loss"]), cast(float, row["items_per_s"])
        share, left = cast(float, row["wait_share"]), duration(cast(float, row["eta"]))
        facts = f"loss {loss:.4g}  {rate:.4g} items/s  data wait {share:.0%}  {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=row["step"], facts=facts)
            return
        now = time.monotonic()
        if self.shown and (now - self._last >= self.every or row["step"] == self.steps):
            self._last = now
            self.say(f"step {row['step']}/{self.steps}  epoch {row['epoch']}  {facts}")

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar(stream: Log) -> Any:
    """A bar of rich's on a stream."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        console=Console(file=cast(TextIO, stream)),
    )
