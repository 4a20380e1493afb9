"""Commands that show something and change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rhyme import api
from rhyme.cli.answer import Answer, table
from rhyme.cli.options import Common


@dataclass(kw_only=True)
class Systems(Common):
    """List all systems and how far each is built.

    Example: rhyme systems --json
    """

    def __call__(self) -> Answer:
        rows = api.systems()
        shown = table(
            ["id", "system", "family", "state", "paper"],
            [[r.id, r.title, r.family, r.state, r.paper] for r in rows],
        )
        return Answer(document=rows, show=[shown])


@dataclass(kw_only=True)
class Recipes(Common):
    """List the recipes, or print one of them as YAML.

    Example: rhyme recipes cycle_contrast_world_demo > mine.yaml
    """

    name: Annotated[Positional[str | None], arg(metavar="RECIPE")] = None
    """Recipe or system to print."""

    def __call__(self) -> Answer:
        if self.name is not None:
            values = api.recipe_values(self.name)
            return Answer(document=values, show=[api.as_yaml(values).rstrip()])
        rows = [api.recipe(name) for name in api.recipe_names()]
        shown = table(
            ["recipe", "for", "what it is"],
            [[r.name, "GPUs" if r.needs_gpu else "CPU", r.about] for r in rows],
        )
        return Answer(
            document=[{"name": r.name, "system": r.system, "about": r.about} for r in rows],
            show=[shown],
        )


@dataclass(kw_only=True)
class Doctor(Common):
    """Look at Python, libraries, devices, decoders, disk and shared memory.

    Example: rhyme doctor
    """

    out: Path = Path()
    """Where runs will be written."""

    def __call__(self) -> Answer:
        found = api.doctor(self.out)
        marks = {"ok": "ok", "absent": "-", "problem": "PROBLEM"}
        shown = table(
            ["", "what", "found", "remedy"],
            [[marks[f.level], f.name, f.value, f.remedy] for f in found],
        )
        problems = sum(f.level == "problem" for f in found)
        closing = f"{problems} problems" if problems else "all that is needed is here"
        return Answer(document=found, show=[shown, closing], exit_code=1 if problems else 0)


@dataclass(kw_only=True)
class Runs(Common):
    """List the runs in a folder: system, steps, loss, and the first figure of each.

    Example: rhyme runs runs
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR")] = Path("runs")
    """Folder that holds run folders."""

    def __call__(self) -> Answer:
        rows = api.runs(self.folder)
        shown = table(
            ["run", "system", "step", "of", "loss", "state", "knn"],
            [[r.path, r.system, r.step, r.steps, r.loss, r.state, r.knn] for r in rows],
        )
        return Answer(document=rows, show=[shown if rows else f"no runs in {self.folder}"])
