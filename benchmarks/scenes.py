"""Pictures of three to five creatures of the generated world, with the class of every pixel."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rhyme.synthetic import POOL, TEST, draw_video, render

CREATURES = (3, 5)
SPRITE = (26, 40)
"""Least and largest side, in pixels, of the square that a creature is drawn in."""


def scene(
    seed: int, stream: int, index: int, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One picture ``[size, size, 3]`` and the classes ``[size, size]`` of its pixels.

    Args:
        seed: seed of the world that background and creatures come from.
        stream: ``POOL`` or ``TEST``; one never shows a creature of the other.
        index: number of the picture.
        size: side in pixels.

    Returns:
        Pixels, and ids: 0 for the background, 1 to 10 for a creature of appearance 0 to 9. Later
        creatures cover earlier ones.
    """
    rng = np.random.default_rng((seed, stream, index))
    count = int(rng.integers(CREATURES[0], CREATURES[1] + 1))
    # A creature of no size leaves the background alone.
    empty = replace(draw_video(seed, stream, index * 8), radius=1e-6)
    picture, ids = render(empty, size, at=[0]).frames[0], np.zeros((size, size), np.uint8)
    for number in range(count):
        spec = draw_video(seed, stream, index * 8 + 1 + number)
        side = int(rng.integers(SPRITE[0], SPRITE[1] + 1))
        drawn = render(spec, side, at=[int(rng.integers(spec.frames))])
        top, left = (int(v) for v in rng.integers(0, size - side + 1, 2))
        place = (slice(top, top + side), slice(left, left + side))
        picture[place][drawn.masks[0]] = drawn.frames[0][drawn.masks[0]]
        ids[place][drawn.masks[0]] = spec.appearance + 1
    return picture, ids


def write_scenes(out: Path, *, seed: int, size: int = 72, **counts: int) -> Path:
    """A folder of scenes with masks, in the layout of DAVIS and VOC.

    Args:
        out: new folder; one that is there already is kept.
        seed: of everything.
        size: side of the pictures.
        **counts: pictures of ``train``, ``val`` and ``test``.
    """
    if out.is_dir():
        return out
    partial = out.with_name(out.name + ".partial")
    rows: list[tuple[str, str]] = []
    start = 0
    for split, count in counts.items():
        stream = TEST if split == "test" else POOL
        for folder in ("JPEGImages", "Annotations"):
            (partial / folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(start, start + count):
            name = f"{split}/s{index:05d}.png"
            picture, ids = scene(seed, stream, index, size)
            Image.fromarray(picture).save(partial / "JPEGImages" / name)
            Image.fromarray(ids).save(partial / "Annotations" / name)
            rows.append((f"JPEGImages/{name}", split))
        start += count
    with (partial / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split"), *rows])
    partial.rename(out)
    return out
