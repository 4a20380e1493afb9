"""Runs at a glance, from what their folders say; works while they train."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rhyme.errors import RhymeError, RunError
from rhyme.recipes import load_recipe
from rhyme.run import RunFolder, read_jsonl
from rhyme.training import alive

State = Literal["running", "finished", "stopped", "died", "started", "not begun", "unreadable"]
"""``died``: neither finished nor stopped, and its process is gone. ``started``: it runs, or ran, on
another machine."""

_TURNS: dict[str, State] = {
    "started": "started",
    "resumed": "started",
    "preempted": "stopped",
    "finished": "finished",
}
_TROUBLE = ("quarantined", "partial", "missing", "damaged", "left_out", "not_finite", "collapse",
            "no_gradient", "rolled_back", "restarted", "probe_failed", "checkpoint_damaged",
            "save_failed", "export_failed", "logger_failed")  # fmt: skip
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 16


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run at a glance.

    Attributes:
        path: its folder.
        system: system id.
        recipe: name of its recipe.
        state: see :data:`State`.
        step: last logged step.
        steps: steps of the whole run; None before it has begun.
        loss: last logged loss.
        curve: the loss over the run, oldest first, as a line of bars.
        items_per_s: last logged throughput.
        wait_share: last logged share of the time spent waiting for data.
        seconds: time in training so far.
        left: seconds to the end, of a run that is running.
        trouble: events that ask for a look, by kind, with their number.
        knn: newest k-NN figure of the trained encoder, if it was measured.
    """

    path: Path
    system: str
    recipe: str = ""
    state: State
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    curve: str = ""
    items_per_s: float | None = None
    wait_share: float | None = None
    seconds: float | None = None
    left: float | None = None
    trouble: Mapping[str, int]
    knn: float | None = None


def runs(folder: str | Path = "runs") -> list[RunLine]:
    """All runs in a folder, in the order in which they were begun; of a run's own folder, that run.

    Raises:
        RunError: no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise RunError("no such folder", file=folder, remedy="train something first: rhyme train")
    every = (RunFolder(path.parent) for path in place.rglob("config.yaml"))
    found = sorted((run for run in every if run.events.is_file()), key=_begun)
    return [run_line(run.path) for run in found]


def _begun(run: RunFolder) -> tuple[float, float]:
    """When a run's first event was, which is told to the second, and when its options were written.

    Options may be written anew when a run goes on: they decide only where the events do not.
    """
    written = run.config.stat().st_mtime
    for event in read_jsonl(run.events):
        with contextlib.suppress(ValueError, OverflowError):
            return datetime.fromisoformat(str(event.get("time"))).timestamp(), written
    return written, written


def run_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first.

    Raises:
        RunError: no such run.
    """
    return read_jsonl(RunFolder.open(path).events)


def run_line(path: str | Path) -> RunLine:
    """One run at a glance."""
    run = RunFolder(path)
    events = read_jsonl(run.events)
    kinds = [str(event.get("event")) for event in events]
    trouble = {kind: kinds.count(kind) for kind in _TROUBLE if kind in kinds}
    try:
        recipe = load_recipe(run.config)
    except RhymeError:
        return RunLine(path=run.path, system="?", state="unreadable", trouble=trouble)
    turns = [event for event in events if event.get("event") in _TURNS]
    state, process = _state(turns[-1]) if turns else ("not begun", {})
    if state == "started" and process:
        lives = alive(process)
        state = "started" if lives is None else "running" if lives else "died"
    metrics = [row for row in read_jsonl(run.metrics) if "loss" in row]
    last = metrics[-1] if metrics else {}
    lengths = [event["steps"] for event in turns if "steps" in event]
    knn = [
        float(row["value"])
        for row in read_jsonl(run.results)
        if (row.get("protocol"), row.get("metric"), row.get("encoder"))
        == ("knn", "top1", "trained")
    ]
    return RunLine(
        path=run.path,
        system=recipe.system,
        recipe=recipe.name,
        state=state,
        step=int(last.get("step", 0)),
        steps=int(lengths[-1]) if lengths else recipe.train.steps,
        loss=last.get("loss"),
        curve=curve([float(row["loss"]) for row in metrics]),
        items_per_s=last.get("items_per_s"),
        wait_share=last.get("wait_share"),
        seconds=last.get("seconds"),
        left=last.get("eta") if state == "running" else None,
        trouble=trouble,
        knn=knn[-1] if knn else None,
    )


def _state(turn: Mapping[str, Any]) -> tuple[State, Mapping[str, Any]]:
    """What the last turn of a run makes of it, and the process that it names."""
    return _TURNS[turn["event"]], turn.get("process", {})


def curve(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values as a line of bars, each the mean of its share; what is not finite is left blank.

    Args:
        values: in order.
        width: most bars.
    """
    count = min(width, len(values))
    means: list[float] = []
    for bar in range(count):
        part = values[bar * len(values) // count : (bar + 1) * len(values) // count]
        means.append(sum(part) / len(part))
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return " " * count
    low, reach = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((mean - low) / reach * top) if reach else 0] if math.isfinite(mean) else " "
        for mean in means
    )
