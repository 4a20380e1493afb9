from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from rhyme.synthetic import (
    APPEARANCES,
    BACKGROUNDS,
    COLOURS,
    LONG_POOL,
    MOTION_PAIRS,
    MOTIONS,
    PATTERNS,
    POOL,
    PRIMITIVES,
    SOUNDS,
    TEST,
    Scene,
    VideoSpec,
    caption,
    draw_video,
)
from rhyme.synthetic.names import colour_name, hsv


def near(hits: list[bool], probability: float) -> bool:
    """Whether a frequency is within five standard errors of a probability."""
    spread = math.sqrt(probability * (1 - probability) / len(hits))
    return abs(np.mean(hits) - probability) <= 5 * spread + 1e-12


def test_classes_are_uniform_and_independent(many_specs: list[VideoSpec]) -> None:
    for y in range(10):
        assert near([s.appearance == y for s in many_specs], 0.1)
    for m in range(8):
        assert near([s.motion == m for s in many_specs], 1 / 8)
    joint = np.zeros((10, 8))
    for s in many_specs:
        joint[s.appearance, s.motion] += 1
    expected = len(many_specs) / 80
    # Chi-square with 63 degrees of freedom: mean 63, sd 11.2.
    assert ((joint - expected) ** 2 / expected).sum() < 63 + 5 * 11.3


def test_nuisances_follow_the_class_as_often_as_the_recipe_says(
    many_specs: list[VideoSpec],
) -> None:
    def same(p: float) -> float:
        return p + (1 - p) / 10

    assert near([s.pattern == s.appearance for s in many_specs], same(0.95))
    assert near([s.scene.kind == s.appearance for s in many_specs], same(0.15))
    assert near([s.palette.family == s.appearance for s in many_specs], same(0.10))
    assert near([s.voice.kind == s.appearance for s in many_specs], same(0.9))
    new = [(s, q) for s in many_specs for q in range(4)]
    family = [s.palettes[q].family == s.appearance for s, q in new if s.palettes[q] != s.palette]
    kind = [s.scenes[q].kind == s.appearance for s, q in new if s.scenes[q] != s.scene]
    assert near(family, same(0.10))
    assert near(kind, same(0.15))


@pytest.mark.parametrize(("pk", "vb"), [(0.5, 0.2), (1.0, 0.3), (0.0, 1.0)])
def test_keyframes_keep_palette_and_scene_at_pk_and_vb(pk: float, vb: float) -> None:
    specs = [draw_video(3, POOL, i, palette_keep=pk, scene_keep=vb) for i in range(600)]
    for q in range(4):
        assert near([s.palettes[q] == s.palette for s in specs], pk)
        assert near([s.scenes[q] == s.scene for s in specs], vb)


def test_ranges_of_the_instance_draws(many_specs: list[VideoSpec]) -> None:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(s, name) for s in many_specs])

    def uniform(x: np.ndarray, low: float, high: float) -> None:
        assert low <= x.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < x.max() <= high
        assert abs(x.mean() - (low + high) / 2) < 0.05 * (high - low)

    def normal(x: np.ndarray, sd: float) -> None:
        assert abs(x.mean()) < 5 * sd / math.sqrt(x.size)
        assert abs(x.std() / sd - 1) < 5 / math.sqrt(2 * x.size)

    normal(np.log(column("aspect")), 0.1)
    normal(column("rotation"), 0.25)
    normal(np.log(column("frequency")), 0.12)
    normal(column("pan").ravel(), 0.05)
    uniform(column("phase"), 0, 2 * math.pi)
    uniform(column("contour"), -1, 1)
    uniform(column("radius"), 0.66, 0.78)
    uniform(column("offset").ravel(), -0.1, 0.1)
    lights = [light for s in many_specs for light in s.lights]
    uniform(np.array([light.channels for light in lights]).ravel(), 0.85, 1.15)
    uniform(np.array([light.gain for light in lights]), 0.75, 1.25)
    uniform(np.array([light.side for light in lights]), -0.6, 0.6)
    scenes = [scene for s in many_specs for scene in s.scenes]
    base = np.array([0.5 + 0.35 * (scene.kind % 5) for scene in scenes])
    frequency = np.array([scene.frequency for scene in scenes]) / base
    spread = np.log(frequency).std()
    assert abs(spread / 0.2 - 1) < 0.05
    uniform(np.array([scene.direction for scene in scenes]), 0, math.pi)
    uniform(np.array([scene.phase for scene in scenes]), 0, 2 * math.pi)
    assert {(scene.kind < 5, scene.sharpness) for scene in scenes} == {(True, 1), (False, 3)}


def test_colours_stay_in_their_ranges(many_specs: list[VideoSpec]) -> None:
    import colorsys

    palettes = [p for s in many_specs for p in s.palettes]
    c1 = np.array([colorsys.rgb_to_hsv(*p.c1) for p in palettes])
    c2 = np.array([colorsys.rgb_to_hsv(*p.c2) for p in palettes])
    family = np.array([p.family for p in palettes])
    drift = (c1[:, 0] - family / 10 + 0.5) % 1 - 0.5
    assert abs(drift.std() / 0.04 - 1) < 0.1
    between = (c2[:, 0] - c1[:, 0]) % 1
    assert 0.35 - 1e-9 <= between.min() < 0.36
    assert 0.64 < between.max() <= 0.65 + 1e-9
    for low, high, column in ((0.5, 1, c1[:, 1]), (0.65, 1, c1[:, 2]), (0.4, 1, c2[:, 1])):
        assert low - 1e-9 <= column.min() < low + 0.02
        assert high - 0.02 < column.max() <= high + 1e-9
    assert c2[:, 2].min() >= 0.15 - 1e-9
    assert c2[:, 2].max() <= 0.45 + 1e-9
    scenes = [scene for s in many_specs for scene in s.scenes]
    for name, value in (("dark", (0.2, 0.7)), ("light", (0.3, 0.9))):
        colours = np.array([colorsys.rgb_to_hsv(*getattr(scene, name)) for scene in scenes])
        assert 0.2 - 1e-9 <= colours[:, 1].min() < colours[:, 1].max() <= 0.7 + 1e-9
        assert value[0] - 1e-9 <= colours[:, 2].min() < value[0] + 0.01
        assert value[1] - 0.01 < colours[:, 2].max() <= value[1] + 1e-9


def test_motion_classes_differ_only_in_order() -> None:
    for half in (0, 1):
        assert sorted(pair[half] for pair in MOTION_PAIRS) == list(range(8))
    for even in range(0, 8, 2):
        assert MOTION_PAIRS[even] == MOTION_PAIRS[even + 1][::-1]
    short = {
        "rightward": "R",
        "leftward": "L",
        "upward": "U",
        "downward": "D",
        "clockwise": "cw",
        "counterclockwise": "ccw",
        "growing": "grow",
        "shrinking": "shrink",
    }
    written = ["·".join(short[PRIMITIVES[p]] for p in pair) for pair in MOTION_PAIRS]
    expected = "R·U U·R L·D D·L cw·grow grow·cw ccw·shrink shrink·ccw"
    assert written == expected.split()


def test_reversal_maps_each_motion_class_to_another() -> None:
    # Played backwards, the order and every movement turn round: opposite ones are neighbours.
    backwards = [tuple(p ^ 1 for p in reversed(pair)) for pair in MOTION_PAIRS]
    places = [MOTION_PAIRS.index((a, b)) for a, b in backwards]
    assert sorted(places) == list(range(8))
    assert all(place != m for m, place in enumerate(places))


def test_a_video_is_a_function_of_its_key_alone() -> None:
    assert draw_video(1, POOL, 7) == draw_video(1, POOL, 7)
    others = [draw_video(2, POOL, 7), draw_video(1, TEST, 7), draw_video(1, POOL, 8)]
    assert len({draw_video(1, POOL, 7).aspect, *(s.aspect for s in others)}) == 4
    # Neither length, rate nor difficulty changes who is seen.
    other = draw_video(1, POOL, 7, frames=40, fps=Fraction(25), palette_keep=1, scene_keep=1)
    same = draw_video(1, POOL, 7)
    assert (other.appearance, other.motion, other.voice) == (
        same.appearance,
        same.motion,
        same.voice,
    )


def test_a_group_shares_the_creature_and_nothing_else() -> None:
    a, b = (draw_video(1, POOL, i, group=3) for i in (12, 13))
    for name in ("appearance", "pattern", "aspect", "phase", "contour", "radius", "palette"):
        assert getattr(a, name) == getattr(b, name)
    assert a.pan != b.pan
    assert a.scene != b.scene


def test_untrimmed_videos() -> None:
    specs = [draw_video(4, LONG_POOL, i) for i in range(400)]
    assert {len(s.primitives) for s in specs} == {4, 5, 6}
    assert min(s.frames for s in specs) < 135 <= 250 < max(s.frames for s in specs)
    assert all(128 <= s.frames <= 256 for s in specs)
    assert {s.background for s in specs} == set(range(BACKGROUNDS))
    for s in specs:
        assert s.motion == -1
        assert all(a != b for a, b in zip(s.primitives, s.primitives[1:], strict=False))
        scenes: list[Scene] = [s.scene, *s.scenes]
        assert {scene.kind for scene in scenes} == {s.background % 10}
        side = {scene.direction >= math.pi / 2 for scene in scenes}
        assert side == {s.background >= 10}
        lengths = np.diff(s.boundaries)
        assert (lengths >= 5).all()
        assert s.boundaries[0] == 0
        assert s.boundaries[-1] == s.frames - 1
    shares = np.bincount([p for s in specs for p in s.primitives], minlength=8)
    assert abs(shares / shares.sum() - 1 / 8).max() < 0.03


def test_captions_use_one_word_each(many_specs: list[VideoSpec]) -> None:
    for s in many_specs[:300]:
        words = caption(s).split()
        assert words[0] == "a"
        assert words[1] in COLOURS
        assert words[2] == PATTERNS[s.pattern]
        assert words[3] == APPEARANCES[s.appearance]
        assert [words[4], words[6]] == [PRIMITIVES[p] for p in MOTION_PAIRS[s.motion]]
        assert words[5] == "then"
        assert len(words) == 7
        assert words[1] == colour_name(s.palettes[0].c1)
    assert len(set(MOTIONS)) == 8
    assert len(set(SOUNDS)) == len(set(APPEARANCES)) == len(set(PATTERNS)) == 10


def test_colour_names() -> None:
    hues = {0: "red", 30: "orange", 58: "yellow", 120: "green", 180: "cyan", 230: "blue"}
    hues |= {280: "purple", 320: "pink", 355: "red", 360 + 30: "orange", -5: "red"}
    for degrees, name in hues.items():
        assert colour_name(hsv(degrees / 360, 0.8, 0.9)) == name
