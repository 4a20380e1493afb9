"""Random parameters of a batch: keyed draws of all items at once against a generator an item.

Compared: everything that is drawn for CycleContrast's three views of 256 items: frames of two
clips, and for each view crop, flip, jitter, grayscale and blur. Our side is ``ViewPlan.draw``. The
peer is the usual way to make draws independent of workers: a NumPy generator seeded from (seed,
epoch, item, view), and from it the same numbers, each kind of number in one call.

Checked: our draws of an item alone are those of the item in the batch; both sides' crop areas have
the same mean.

Expected: 5 times, since seeding a generator costs more than the numbers of one item.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ratio import Case, WrongResult
from rhyme.views import Clip, ContrastTransform, Draws, Keys, ViewPlan, ViewSpec

WIDTH, HEIGHT, FRAMES = 320, 240, 250
TRANSFORM = ContrastTransform.moco_v2(size=224)
VIEWS = {"query": "a", "key": "a", "candidate": "b"}
PLAN = ViewPlan(
    clips={"a": Clip(), "b": Clip(place="sample")},
    views={name: ViewSpec(clip=clip, transform=TRANSFORM) for name, clip in VIEWS.items()},
)


@dataclass(frozen=True)
class Items:
    """Facts of items of ten seconds."""

    id: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.id)
        columns = {
            "start": np.zeros(count),
            "stop": np.full(count, 10.0),
            "fps": np.full(count, 25.0),
            "frames": np.full(count, FRAMES),
            "width": np.full(count, WIDTH),
            "height": np.full(count, HEIGHT),
            "group": np.arange(count),
        }
        for name, column in columns.items():
            object.__setattr__(self, name, column)


def ours(ids: np.ndarray) -> Draws:
    return PLAN.draw(Items(ids), Keys.of(0, 0, ids))


def crop(random: np.random.Generator) -> tuple[int, int, int, int]:
    """Ten proposals of a crop, the first that fits."""
    area = random.uniform(0.2, 1.0, 10) * WIDTH * HEIGHT
    ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), 10))
    wide, tall = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    y, x = random.random(2)
    for w, h in zip(wide, tall, strict=True):
        if w <= WIDTH and h <= HEIGHT:
            return int(y * (HEIGHT - h + 1)), int(x * (WIDTH - w + 1)), int(h), int(w)
    return 0, 0, HEIGHT, WIDTH


def by_generators(ids: np.ndarray) -> list[dict[str, dict[str, object]]]:
    """A dict of parameters for each view of each item."""
    drawn = []
    for item in ids.tolist():
        clips = np.random.default_rng((0, 0, item, 99)).integers(0, FRAMES, 2)
        views: dict[str, dict[str, object]] = {}
        for number, (name, clip) in enumerate(VIEWS.items()):
            random = np.random.default_rng((0, 0, item, number))
            box = crop(random)
            flip, jitter, gray, blur, solarize = random.random(5) < (0.5, 0.8, 0.2, 0.5, 0.0)
            views[name] = {
                "frame": clips[0 if clip == "a" else 1],
                "box": box,
                "flip": flip,
                "jitter": jitter,
                "factors": random.uniform(0.6, 1.4, 3),
                "hue": random.uniform(-0.1, 0.1),
                "order": random.permutation(4),
                "gray": gray,
                "sigma": random.uniform(0.1, 2.0) if blur else 0.0,
                "solarize": solarize,
            }
        drawn.append(views)
    return drawn


def agree(draws: Draws, others: list[dict[str, dict[str, object]]]) -> None:
    ids = np.arange(len(others))
    for k in (0, len(ids) // 2, len(ids) - 1):
        alone = ours(ids[k : k + 1])
        for name, view in draws.views.items():
            for part, values in view.parameters.items():
                if not np.array_equal(values[k], alone.views[name].parameters[part][0]):
                    raise WrongResult(f"{name}/{part} of item {k} depends on its company")
    boxes = np.concatenate([view.parameters["box"][:, 0] for view in draws.views.values()])
    peers = np.array([view["box"] for views in others for view in views.values()])
    areas = [float((b[:, 2] * b[:, 3]).mean()) / (WIDTH * HEIGHT) for b in (boxes, peers)]
    # The mean of n areas of a standard deviation below 0.25, five of its standard errors apart.
    if abs(areas[0] - areas[1]) > 5 * 0.25 * (2 / len(boxes)) ** 0.5:
        raise WrongResult(f"mean crop areas {areas[0]:.3f} and {areas[1]:.3f}")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    for count in (256,) if quick else (256, 32):
        ids = np.arange(count)
        yield Case(
            name=f"draws/{count}",
            ours=lambda ids=ids: ours(ids),
            peer=lambda ids=ids: by_generators(ids),
            peer_name="a NumPy generator an item",
            same=agree,
            at_least=5.0 if count == 256 else 2.0,
            why="a few NumPy calls for the batch instead of four generators an item",
            rounds=15,
        )
