"""Lists: systems, recipes, runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhyme.config import dump_yaml
from rhyme.errors import RhymeError, RunError
from rhyme.recipes import RECIPES, Recipe, load_recipe, recipe_to_dict
from rhyme.recipes import recipe as named_recipe
from rhyme.run import RunFolder, read_jsonl
from rhyme.systems import SYSTEMS, SystemEntry


def systems() -> list[SystemEntry]:
    """All systems with their true state."""
    return list(SYSTEMS.values())


def recipe_names() -> list[str]:
    """Names of all recipes."""
    return list(RECIPES)


def recipe(name: str) -> Recipe:
    """A recipe by name, or a system's small recipe by its id."""
    return named_recipe(name)


def recipe_values(name: str) -> dict[str, Any]:
    """A recipe as plain data."""
    return recipe_to_dict(named_recipe(name))


def as_yaml(values: Any) -> str:
    """Plain data as YAML."""
    return dump_yaml(values)


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run at a glance.

    Attributes:
        path: its folder.
        system: system id.
        step: last logged step.
        steps: steps asked for; None where the recipe counts epochs.
        loss: last logged loss.
        state: ``finished``, ``stopped``, ``started``, or ``unreadable``.
        knn: newest k-NN figure of the trained encoder, if it was measured.
    """

    path: Path
    system: str
    step: int
    steps: int | None
    loss: float | None
    state: str
    knn: float | None


def runs(folder: str | Path = "runs") -> list[RunLine]:
    """All runs in a folder, newest last.

    Raises:
        RunError: no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise RunError("no such folder", file=folder, remedy="train something first: rhyme train")
    found = sorted(place.rglob("config.yaml"), key=lambda p: p.stat().st_mtime)
    return [
        _line(RunFolder(path.parent)) for path in found if (path.parent / "events.jsonl").is_file()
    ]


def _line(run: RunFolder) -> RunLine:
    try:
        recipe = load_recipe(run.config)
    except RhymeError:
        return RunLine(
            path=run.path, system="?", step=0, steps=None, loss=None, state="unreadable", knn=None
        )
    metrics = [row for row in read_jsonl(run.metrics) if "loss" in row]
    kinds = [str(row.get("event")) for row in read_jsonl(run.events)]
    state = "finished" if "finished" in kinds else "stopped" if "preempted" in kinds else "started"
    knn = [
        float(row["value"])
        for row in read_jsonl(run.results)
        if (row.get("protocol"), row.get("metric"), row.get("encoder"))
        == ("knn", "top1", "trained")
    ]
    last = metrics[-1] if metrics else {}
    return RunLine(
        path=run.path,
        system=recipe.system,
        step=int(last.get("step", 0)),
        steps=recipe.train.steps,
        loss=last.get("loss"),
        state=state,
        knn=knn[-1] if knn else None,
    )
