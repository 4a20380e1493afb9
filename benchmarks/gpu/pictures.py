"""Training on small pictures on a GPU, where the host's launches set the pace.

Compared, with a ResNet-18 on 512 pictures of 32 pixels in bfloat16 and channels-last:

- ``groups``: a MoCo step whose batch norms take all eight groups at once, against one group after
  the other;
- ``beside``: SimCLR steps from pictures on the host, whose views are made while the step before
  runs, against views made between the steps;
- ``compiled/simclr`` and ``compiled/moco``: steps of the recipes with ``train.compile=on``, which
  their ``auto`` may choose, against eager ones;
- ``recipe/simclr`` and ``recipe/moco``: the recipes as they stand, for 400 steps from files on,
  against ten minutes: what 200 epochs of 50,000 pictures would take at the pace of the last 300
  steps, after the first 100, in which graphs are built. The pictures are noise, 20 steps an epoch;
  decoding them beforehand is not in it.

Checked: losses of both sides are alike; the views are the same; a run has ended.

Expected: 14,600 operations a step with groups by turns, counted on a CPU, and some 4,500 at once,
of which the passes have 3,600: 1.8 times as fast. Views took 39 % of a run's step: 1.4 times, since
both threads share the interpreter. Eager steps took 38 and 54 ms when they were first measured; 200
epochs of 50,000 pictures end within ten minutes at 30: 1.3 and 1.8 times. Of the recipes: 1.
"""

import io
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.step import STEPS, Run, close
from benchmarks.ratio import Case, WrongResult, seconds, told
from rhyme.catalog import ItemFacts
from rhyme.encoders import norm
from rhyme.loading import Batch
from rhyme.loading.placement import Finisher, Raw
from rhyme.recipes import recipe
from rhyme.run import read_jsonl
from rhyme.systems.moco import Moco
from rhyme.systems.simclr import Simclr
from rhyme.views import ClipPixels, Keys, ViewPlan

SIZE = 32
EPOCHS, PICTURES, LIMIT = 200, 50_000, 600.0
"""What a recipe is to be through with, and the seconds for it."""


def of_recipe(kind: type[Moco] | type[Simclr]) -> Moco | Simclr:
    """The system of its recipe for small pictures on one GPU, with the weights of seed 0."""
    torch.manual_seed(0)
    return kind(recipe(f"{kind.__name__.lower()}_cifar10_1gpu").model)  # type: ignore[arg-type]


class ByTurns(Run):
    """The same steps with batch norms that take one group after the other."""

    def __call__(self, steps: int = STEPS) -> float:
        with mock.patch.object(norm, "at_once", norm.by_turns):
            return super().__call__(steps)


class Fed(Run):
    """Steps of which each makes the views of its batch from frames on the host."""

    def feed(self, plan: ViewPlan, beside: bool) -> None:
        """Make views from now on, beside the step before or between the steps."""
        items = len(self.batch)
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(
            256, (items, 1, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator
        )
        one, whole = np.ones(items), np.ones(items, dtype=np.int64)
        ids = np.arange(items, dtype=np.uint64)
        facts = ItemFacts(
            id=ids, start=0 * one, stop=one, fps=one, frames=whole, width=SIZE * whole,
            height=SIZE * whole, group=ids.astype(np.int64),
        )  # fmt: skip
        clips = {name: ClipPixels(frames=frames) for name in plan.clips}
        epochs = [Keys(0, epoch, ids, 0 * whole) for epoch in range(STEPS)]
        self.raws = [Raw(pixels=clips, draws=plan.draw(facts, keys)) for keys in epochs]
        self.finisher = Finisher(plan, torch.device("cuda", 0), beside=beside)
        self.coming: deque[Future[Batch]] = deque()

    def __call__(self, steps: int = STEPS) -> float:
        loss = 0.0
        bare = replace(self.batch, views={})
        for _ in range(steps):
            while len(self.coming) < self.finisher.ahead:
                self.raws = [*self.raws[1:], self.raws[0]]
                self.coming.append(self.finisher.start(bare, self.raws[-1]))
            self.batch = self.coming.popleft().result()
            loss = super().__call__(1)
        return loss


def noise(folder: Path) -> Path:
    """10,240 pictures without anything on them, in a zip file within a folder."""
    if not folder.is_dir():
        folder.mkdir()
        levels = np.random.default_rng(0).integers(256, size=(10_240, SIZE, SIZE, 3))
        with zipfile.ZipFile(folder / "noise.zip", "w") as pictures:
            for number, picture in enumerate(levels.astype(np.uint8)):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "png", compress_level=1)
                pictures.writestr(f"picture-{number}.png", file.getvalue())
    return folder


class Whole:
    """A recipe on pictures in a folder; each call extrapolates from another part of one run."""

    def __init__(self, room: Path, name: str, steps: int) -> None:
        self.room, self.name, self.steps = room, name, steps
        self.found: list[float] = []

    def __call__(self) -> tuple[float, str]:
        if not self.found:
            self.found = self.train()
        self.found = [*self.found[1:], self.found[0]]
        return self.found[-1], self.name

    def train(self) -> list[float]:
        """Seconds of the whole by each logged part of the run but the first quarter."""
        from rhyme import api  # needs more packages than the other cases

        run = self.room / f"run-{self.name}"
        changes = {
            "train.epochs": None,
            "train.steps": self.steps,
            "train.log_every": self.steps // 8,
        }
        pictures = noise(self.room / "pictures")
        all_of_them = api.DataOptions(split="all")
        api.train(
            self.name, pictures, out=run, overrides=changes, options=all_of_them, progress=False
        )
        rows = [row for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
        events = [row for row in read_jsonl(run / "events.jsonl") if row["event"] == "compile"]
        told = {row["step"]: round(row["items_per_s"]) for row in rows}
        print(f"  {self.name}: {events} pictures a second by step {told}", flush=True)
        if rows[-1]["step"] != self.steps:
            raise WrongResult(f"the run ended at step {rows[-1]['step']}")
        begun, *rest = [row for row in rows if row["step"] >= self.steps // 4]
        left = EPOCHS * PICTURES - begun["step"] * 512
        return [begun["seconds"] + left / row["items_per_s"] for row in rest]


def same_run(ours: str, peer: None) -> None:
    """Nothing is left to compare: a run that did not end raises by itself."""


def cases(room: Path, quick: bool) -> Iterator[Case]:
    items = 32 if quick else 512
    yield Case(
        name="gpu/pictures/groups",
        ours=Run(room, "at-once", of_recipe(Moco), items, SIZE),
        peer=ByTurns(room, "by-turns", of_recipe(Moco), items, SIZE),
        peer_name="one group after the other",
        same=close,
        at_least=1.8,
        why="a third of the launches",
        measure=seconds,
        rounds=7,
    )

    def fed(beside: bool) -> Callable[[], float]:
        run = Fed(room, f"beside-{beside}", of_recipe(Simclr), items, SIZE)
        run.feed(run.system.plans()["train"], beside)
        return run

    yield Case(
        name="gpu/pictures/beside",
        ours=fed(True),
        peer=fed(False),
        peer_name="views between the steps",
        same=close,
        at_least=1.4,
        why="the next batch is launched while the step runs",
        measure=seconds,
        rounds=7,
    )

    for name, kind, at_least in (("simclr", Simclr, 1.3), ("moco", Moco, 1.8)):
        compiled, eager = (
            Run(
                room, f"{name}-compile-{mode}", of_recipe(kind), items, SIZE, compile=mode
            )
            for mode in ("on", "off")
        )  # fmt: skip
        yield Case(
            name=f"gpu/pictures/compiled/{name}",
            ours=compiled,
            peer=eager,
            peer_name="eager",
            same=close,
            at_least=at_least,
            why="norms, activations and copies of groups are taken together",
            measure=seconds,
            rounds=7,
        )

    for name in ("simclr", "moco"):
        yield Case(
            name=f"gpu/pictures/recipe/{name}",
            ours=Whole(room, f"{name}_cifar10_1gpu", 8 if quick else 400),
            peer=lambda: (LIMIT, None),
            peer_name="ten minutes",
            same=same_run,
            at_least=1.0,
            why="steps of 30 ms",
            measure=told,
        )
