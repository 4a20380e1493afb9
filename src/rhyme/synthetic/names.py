"""The fixed word lists of the generated world: classes, movements, colours.

The order of every tuple is part of the format: a class id is an index into it.
"""

from __future__ import annotations

import colorsys
import math

APPEARANCES: tuple[str, ...] = (
    "disc",
    "square",
    "triangle",
    "flower",
    "cross",
    "ring",
    "clover",
    "bowl",
    "bar",
    "crescent",
)
"""Silhouette words, one an appearance class (ids 0 to 9)."""

PATTERNS: tuple[str, ...] = (
    "striped",
    "plain",
    "checkered",
    "ringed",
    "dotted",
    "wedged",
    "halved",
    "slanted",
    "wavy",
    "cored",
)
"""Pattern words (ids 0 to 9)."""

PRIMITIVES: tuple[str, ...] = (
    "rightward",
    "leftward",
    "upward",
    "downward",
    "clockwise",
    "counterclockwise",
    "growing",
    "shrinking",
)
"""Primitive movements (ids 0 to 7), which are also the phase labels of untrimmed videos."""

MOTION_PAIRS: tuple[tuple[int, int], ...] = (
    (0, 2),
    (2, 0),
    (1, 3),
    (3, 1),
    (4, 6),
    (6, 4),
    (5, 7),
    (7, 5),
)
"""The two primitives of each motion class, in order; neighbours differ only in that order."""

MOTIONS: tuple[str, ...] = tuple(
    f"{PRIMITIVES[first]}-{PRIMITIVES[second]}" for first, second in MOTION_PAIRS
)
"""Motion classes (ids 0 to 7), named by their two primitives."""

SOUND_BASE_HZ = 200.0
"""Fundamental of sound class 0; class k lies k fifths of an octave above it."""

SOUNDS: tuple[str, ...] = tuple(f"tone-{SOUND_BASE_HZ * 2 ** (k / 5):.0f}hz" for k in range(10))
"""Sound classes (ids 0 to 9), named by their nominal fundamental."""

COLOURS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
)
"""Colour words of the captions."""

SPLITS: tuple[str, ...] = ("train", "val", "test")
"""Splits, in the order in which counts and fractions are given."""

BACKGROUNDS = 20
"""Number of background ids of untrimmed videos: ten scene types in two ranges of direction."""

_COLOUR_LIMITS = (15.0, 45.0, 70.0, 160.0, 200.0, 260.0, 300.0, 345.0)


def colour_name(rgb: tuple[float, float, float]) -> str:
    """The word of :data:`COLOURS` for a colour, by its hue.

    Args:
        rgb: red, green and blue in [0, 1].
    """
    hue = 360.0 * colorsys.rgb_to_hsv(*rgb)[0]
    for name, limit in zip(COLOURS, _COLOUR_LIMITS, strict=True):
        if hue < limit:
            return name
    return COLOURS[0]


def hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """RGB in [0, 1] of a colour whose hue is given in turns and wraps around."""
    return colorsys.hsv_to_rgb(hue - math.floor(hue), saturation, value)
