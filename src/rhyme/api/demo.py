"""The demo: everything once, on a generated world, within a time budget a stage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rhyme.api.checks import beside
from rhyme.api.data import DataOptions, part, read_data, world
from rhyme.api.judge import evaluate
from rhyme.api.report import report
from rhyme.api.train import train
from rhyme.api.use import embed, search
from rhyme.errors import RunError
from rhyme.evaluation import Evaluation
from rhyme.notices import tell

GATE = 0.25
"""Least gain of the trained encoder over untrained ones in video k-NN; nothing more is claimed."""

BUDGETS = {"world": 50, "train": 140, "evaluate": 70, "embed": 12, "search": 5, "report": 15}
"""Seconds a stage on two cores; under five minutes together."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the demo.

    Attributes:
        name: its name.
        seconds: what it took.
        budget: what it may take on two cores.
    """

    name: str
    seconds: float
    budget: float

    @property
    def within(self) -> bool:
        """Whether the budget was kept."""
        return self.seconds <= self.budget


@dataclass(kw_only=True)
class Demo:
    """What the demo found.

    Attributes:
        stages: times.
        trained: video k-NN accuracy of the trained encoder.
        untrained: mean of the untrained ones.
        gate: gain that the demo asks for.
        report: the page.
    """

    stages: list[Stage] = field(default_factory=list)
    trained: float = 0.0
    untrained: float = 0.0
    gate: float = GATE
    report: Path = Path()

    @property
    def gain(self) -> float:
        """Trained less untrained."""
        return self.trained - self.untrained

    @property
    def passed(self) -> bool:
        """Whether the gain reaches the gate."""
        return self.gain >= self.gate

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """Run a stage and note its time."""
        tell(f"demo: {name}")
        begun = time.perf_counter()
        made = work()
        stage = Stage(name=name, seconds=time.perf_counter() - begun, budget=BUDGETS[name])
        self.stages.append(stage)
        return made


def demo(
    out: str | Path = "runs/demo", *, seed: int = 0, videos: tuple[int, int, int] = (1500, 250, 500)
) -> Demo:
    """Make a world, train CycleContrast, judge, embed, search, and write the report.

    Args:
        out: new folder; it becomes the run folder, with ``store/`` inside. The world goes beside
            it, into ``<out>-world``; one that is there already and was made alike is used.
        seed: of world and run.
        videos: train, val and test videos.

    Raises:
        RunError: the folder exists.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise RunError("the demo's folder exists", file=out, remedy=f"remove it: rm -r {out}")
    place = beside(folder, "-world")
    done = Demo()
    done.timed(
        "world",
        lambda: world(place, counts=videos, seed=seed, size=30, truth="labels", workers=2),
    )
    options = DataOptions(label_column="appearance")
    catalog = read_data(place, options, seed=seed)
    done.timed(
        "train",
        lambda: train("cycle_contrast_world_demo", catalog, out=folder, seed=seed, options=options),
    )
    judged: Evaluation = done.timed("evaluate", lambda: evaluate(folder))
    rows = [r for r in judged.results if r.protocol == "knn" and r.metric == "top1"]
    done.trained = statistics.fmean(r.value for r in rows if r.encoder == "trained")
    done.untrained = statistics.fmean(r.value for r in rows if r.encoder == "untrained")
    held_out = part(catalog, "test")
    store = folder / "store"
    done.timed("embed", lambda: embed(folder, held_out, store))
    first = held_out.root / held_out.item(0).path
    done.timed("search", lambda: search(store, f"{first}@0.5", exclude_same_group=True))
    done.report = done.timed("report", lambda: report(folder, seed=seed))
    return done
