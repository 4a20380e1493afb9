"""Small stand-ins for what the docs talk of: a folder of videos, runs, lists, data sets.

Each is made once a test session, the first time that a page asks for it, and copied into the
folder in which the page's commands run.
"""

from __future__ import annotations

import csv
import functools
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

from rhyme import api
from support import tiny_runs
from support.reduced import reduced

COLUMNS = ("path", "label", "action", "person", "scene_group", "camera", "fold", "set")
SETS = ("train", "train", "train", "val", "test")


@functools.cache
def place() -> Path:
    """A folder for the session; the one of the tiny runs clears it up."""
    return Path(tempfile.mkdtemp(prefix="docs-", dir=tiny_runs.world().parent))


@functools.cache
def films() -> list[Path]:
    """Thirty clips of two seconds and, first, a film of more than twelve."""
    made = place() / "films"
    api.world(made, counts=(30, 0, 0), untrimmed=1, size=30, truth="labels")
    return sorted(made.rglob("*.mp4"), key=lambda path: -path.stat().st_size)


def my_videos(folder: Path) -> None:
    """``a.mp4``, which is long, thirty clips, and a table with two classes and five folds."""
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, film in enumerate(films()):
            name = "a.mp4" if i == 0 else f"clip{i:02}.mp4"
            shutil.copyfile(film, folder / name)
            label, source = ("jump", "walk")[i % 2], f"tape {i}"
            writer.writerow([name, label, label, source, source, source, i % 5, SETS[i % 5]])


def clips(folder: Path) -> None:
    """The same films; their table lies beside the folder too, as in ``--labels table.csv``."""
    my_videos(folder)
    shutil.copyfile(folder / "labels.csv", folder.parent / "table.csv")


def other_videos(folder: Path) -> None:
    """Films in a sub-folder a class."""
    for i, film in enumerate(films()[1:]):
        target = folder / ("run", "sit")[i % 2] / f"{i:02}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(film, target)


def ucf101(folder: Path) -> None:
    """Two classes of UCF-101 in its own layout, with its lists beside it."""
    lists = folder.parent / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for i, film in enumerate(films()[1:25]):
        label, source = ("Archery", "Biking")[i % 2], i // 2 + 1
        name = f"{label}/v_{label}_g{source:02}_c01"
        target = folder / f"{name}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(film, target)
        part = "train" if source <= 8 else "test"
        parts[part].append(f"{name}.avi {i % 2 + 1}" if part == "train" else f"{name}.avi")
    for number in (1, 2, 3):
        for part, rows in parts.items():
            (lists / f"{part}list0{number}.txt").write_text("\n".join(rows) + "\n")


def cifar10(folder: Path) -> None:
    """Pictures of two classes in zip files, as CIFAR-10 comes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 4)):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for label in ("cat", "dog"):
                for i in range(count):
                    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    with archive.open(f"{part}/{label}/{i:04}.png", "w") as file:
                        Image.fromarray(pixels).save(file, "PNG")


def davis(folder: Path) -> None:
    """Two short films as frames, with the masks of one object each: the layout of DAVIS."""
    rows, columns = np.mgrid[0:48, 0:64]
    for film in ("one", "two"):
        pictures, masks = (folder / part / "480p" / film for part in ("JPEGImages", "Annotations"))
        for made in (pictures, masks):
            made.mkdir(parents=True)
        for t in range(4):
            mask = ((rows - 24) ** 2 + (columns - 20 - 4 * t) ** 2 < 100).astype(np.uint8)
            Image.fromarray(40 + 150 * mask).convert("RGB").save(pictures / f"{t:05}.jpg")
            drawn = Image.fromarray(mask, "P")
            drawn.putpalette([0, 0, 0, 200, 0, 0])
            drawn.save(masks / f"{t:05}.png")


def train(system: str, data: str = "my_videos", *more: str) -> Callable[[Path], None]:
    """A run of a system, made by the command that the docs show for it, reduced."""

    def make(folder: Path) -> None:
        words = ["train", system, "--data", str(thing(data)), "--out", str(folder), *more]
        done = tiny_runs.rhyme(*reduced(words))
        assert done.code == 0, done.err

    return make


def published(name: str) -> Callable[[Path], None]:
    """Random weights of a network of torchvision, as its own files hold them."""

    def make(file: Path) -> None:
        torch.save(torchvision.models.get_model(name).state_dict(), file)

    return make


def judged(system: str, seed: int) -> Callable[[Path], None]:
    """A run that was evaluated."""

    def make(folder: Path) -> None:
        train(system, "my_videos", "--seed", str(seed))(folder)
        done = tiny_runs.rhyme("evaluate", folder, "--protocol", "knn", "--frames", 1)
        assert done.code == 0, done.err

    return make


def store(folder: Path) -> None:
    """Vectors of ``my_videos``."""
    done = tiny_runs.rhyme(
        "embed", thing("runs/mine"), "--data", thing("my_videos"), "--store", folder
    )
    assert done.code == 0, done.err


def shards(data: str) -> Callable[[Path], None]:
    """Prepared shards of a collection."""

    def make(folder: Path) -> None:
        words = ["prepare", str(thing(data)), "--out", str(folder), "--size", "30"]
        done = tiny_runs.rhyme(*words, "--workers", 0)
        assert done.code == 0, done.err

    return make


def long_world(folder: Path) -> None:
    """Untrimmed videos with a label for every frame."""
    api.world(folder, videos=0, untrimmed=6, size=24)


def scenes(folder: Path) -> None:
    """Videos of three creatures each, whose masks tell them apart."""
    api.world(folder, counts=(12, 6, 6), size=32, frames=4, creatures=(3, 3), sound=False)


MAKERS: dict[str, Callable[[Path], None]] = {
    "my_videos": my_videos,
    "clips": clips,
    "other_videos": other_videos,
    "UCF-101": ucf101,
    "ucf.shards": shards("UCF-101"),
    "cifar10": cifar10,
    "DAVIS": davis,
    "long_world": long_world,
    "scenes": scenes,
    "runs/mine": train("cycle_contrast"),
    "runs/a": train("moco"),
    "convnext_tiny.pth": published("convnext_tiny"),
    "resnet18.pth": published("resnet18"),
    "resnet50.pth": published("resnet50"),
    "r3d_18.pth": published("r3d_18"),
    "runs/k400": train("moco", "other_videos"),
    "runs/dual": train("dual"),
    "runs/lsfd-world": train("lsfd_world_demo", "long_world", "--label-column", "background"),
    "runs/moco-0": judged("moco", 0),
    "runs/moco-1": judged("moco", 1),
    "runs/cycle-0": judged("cycle_contrast", 0),
    "runs/cycle-1": judged("cycle_contrast", 1),
    "my.store": store,
}
"""Name in the docs to what makes it."""

BESIDE = {"clips": "table.csv", "UCF-101": "ucfTrainTestlist"}
"""What is made beside a thing, and goes with it."""


@functools.cache
def thing(name: str) -> Path:
    """One of the stand-ins; not to be changed."""
    folder = place() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    MAKERS[name](folder)
    return folder


def furnish(room: Path, *names: str) -> None:
    """Copy stand-ins into a folder."""
    for name in names:
        for source in (thing(name), *(thing(name).parent / b for b in [BESIDE.get(name)] if b)):
            target = room / source.relative_to(place())
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, target)
