"""Commands that show something and change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from rhyme import api
from rhyme.cli.answer import Answer, table
from rhyme.cli.options import Common, Data, HowToRead
from rhyme.training.progress import duration


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
    """List the runs in a folder, also while they train; of one run, its events too.

    States: running, finished, stopped, died and not begun (go on with --resume), started (on
    another machine), unreadable.

    Example: rhyme runs runs

    Example: rhyme runs runs/mine
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR|RUN")] = Path("runs")
    """Folder that holds run folders, or one of them."""

    def __call__(self) -> Answer:
        rows = api.runs(self.folder)
        shown: list[Any] = [
            table(
                ["run", "recipe", "state", "step", "of", "loss", "", "items/s", "data wait",
                 "time", "left", "knn", "look at"],
                [_run_cells(row) for row in rows],
            )
            if rows
            else f"no runs in {self.folder}"
        ]  # fmt: skip
        if rows and rows[0].path == self.folder:
            events = api.run_events(self.folder)
            shown.append(table(["when", "event", "facts"], [_event_cells(e) for e in events[-30:]]))
        return Answer(document=rows, show=shown)


def _run_cells(row: api.RunLine) -> list[Any]:
    wait = None if row.wait_share is None else f"{row.wait_share:.0%}"
    took = None if row.seconds is None else duration(row.seconds)
    left = None if row.left is None else duration(row.left)
    trouble = ", ".join(f"{count} {kind}" for kind, count in row.trouble.items())
    return [row.path, row.recipe, row.state, row.step, row.steps, row.loss, row.curve,
            row.items_per_s, wait, took, left, row.knn, trouble]  # fmt: skip


def _event_cells(event: dict[str, Any]) -> list[str]:
    facts = {k: v for k, v in event.items() if k not in ("time", "event")}
    text = ", ".join(f"{name} {value}" for name, value in facts.items())
    return [str(event.get("time", "")), str(event.get("event", "")), text[:160]]


@dataclass(kw_only=True)
class Estimate(Common):
    """Say what a run would take, from a short measurement on this machine: time, memory, disk.

    Bounds stand beside the time; they come from the spread of what was measured and from how far it
    was carried on. Any option of the recipe can be changed by its dotted name, as for training.

    Example: rhyme estimate cycle_contrast --items 20000

    Example: rhyme estimate cycle_contrast_r2v2_8gpu --data my_videos --gpus 8 --train.epochs 100
    """

    recipe: Annotated[Positional[str], arg(metavar="SYSTEM|RECIPE|FILE.yaml")]
    """System (its small recipe), recipe, or a recipe file."""

    items: int | None = None
    """Items to train on; those of --data by default."""

    data: Data | None = None
    """A folder or catalog to measure the reading on; a stand-in otherwise."""

    gpus: int = 1
    """Devices like this one that share each batch."""

    device: str | None = None
    """auto, cpu, cuda or cuda:N: what to measure on."""

    seconds: float = 20.0
    """Time to spend on measuring steps."""

    seed: int | None = None
    """Seed of weights and draws."""

    reading: HowToRead = field(default_factory=api.DataOptions)

    takes_overrides: ClassVar[bool] = True

    def __call__(self, overrides: Mapping[str, Any]) -> Answer:
        found = api.estimate(
            self.recipe,
            items=self.items,
            data=self.data,
            gpus=self.gpus,
            device=self.device,
            seconds=self.seconds,
            seed=self.seed,
            overrides=overrides,
            options=self.reading,
        )
        return Answer(document=found, show=[_estimate_table(found), *found.notes])


def _estimate_table(e: api.Estimate) -> Any:
    def bounds(low: float, high: float) -> str:
        return f"{duration(low)} to {duration(high)}"

    total = sum(e.disk.values())
    parts = ", ".join(f"{name} {mebibytes(size)}" for name, size in e.disk.items())
    share = f"{e.loading.value / e.step.value:.0%} of a step on one core" if e.step.value else ""
    return table(
        [e.recipe, "", ""],
        [
            ["run", f"{e.steps} steps of {e.batch} items", f"{e.items} items, {e.device}"],
            ["time", f"{duration(e.seconds.value)} (± {e.error:.0%})",
             bounds(e.seconds.low, e.seconds.high)],
            ["a step", f"{e.step.value:.3g} s", f"{e.step.low:.3g} to {e.step.high:.3g} s"],
            ["reading", f"{e.loading.value:.3g} s", share],
            ["pace set by", e.bound, ""],
            ["before it", duration(e.setup), "decoding into the cache"],
            ["memory", mebibytes(e.memory), "a device at its peak"],
            ["", mebibytes(e.host_memory), "frame cache"],
            ["disk", mebibytes(total), parts],
        ],
    )  # fmt: skip


def mebibytes(size: float | None) -> str:
    """Bytes for a reader."""
    if size is None:
        return "not known here"
    return f"{size / 2**20:.0f} MiB" if size < 2**33 else f"{size / 2**30:.1f} GiB"
