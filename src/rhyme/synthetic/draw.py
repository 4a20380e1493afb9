"""All that is drawn for one video, as plain numbers that do not depend on its size in pixels.

Every video has generators of its own, keyed by (seed, stream, index): any video can be drawn
and rendered alone, and neither the number of videos nor of worker processes changes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from rhyme.synthetic.names import (
    APPEARANCES,
    BACKGROUNDS,
    MOTION_PAIRS,
    PATTERNS,
    PRIMITIVES,
    SOUND_BASE_HZ,
    SOUNDS,
    colour_name,
    hsv,
)

KEYFRAMES = 4
CLASSES = len(APPEARANCES)
RGB = tuple[float, float, float]

# Streams of videos: train and val share a pool, test has its own generators.
POOL, TEST, LONG_POOL, LONG_TEST = range(4)

# Parts of a video that own a generator each, so that none shifts the draws of another.
IDENTITY, VIDEO, JITTER, PIXELS, HISS, ASSIGNMENT, COMPANY = range(7)

LONG_FRAMES = (128, 256)
LONG_PHASES = (4, 6)

# Probabilities that a nuisance follows the appearance class y.
_PATTERN_FOLLOWS = 0.95
_SCENE_FOLLOWS = 0.15
_FAMILY_FOLLOWS = 0.10
_SOUND_FOLLOWS = 0.9


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Two colours of a creature, RGB in [0, 1], and the hue family they were drawn from."""

    family: int
    c1: RGB
    c2: RGB


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Two crossed waves between two colours.

    Attributes:
        kind: scene type 0 to 9.
        frequency: cycles a unit of frame coordinates.
        direction: direction of the first wave in radians.
        phase: phase of the first wave in radians.
        sharpness: 1 (soft) or 3.
        dark: colour where the weight is 1.
        light: colour where the weight is 0.
    """

    kind: int
    frequency: float
    direction: float
    phase: float
    sharpness: float
    dark: RGB
    light: RGB


@dataclass(frozen=True, kw_only=True)
class Light:
    """Gain a channel, overall gain and side shading of one keyframe."""

    channels: RGB
    gain: float
    side: float


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Sound class, fundamental in Hz, noise level below the tone in dB, and gain."""

    kind: int
    f0: float
    snr_db: float
    gain: float


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """Everything about one video except its size in pixels.

    Attributes:
        key: (seed, stream, index) of its generators.
        frames: number of frames.
        fps: frames a second.
        appearance: class 0 to 9, which is the silhouette.
        motion: motion class 0 to 7, or -1 for an untrimmed video.
        primitives: the movements in order; two for a clip, 4 to 6 for an untrimmed video.
        boundaries: their borders in frames, one more than movements.
        pattern: pattern id 0 to 9.
        aspect: stretch of the local axes.
        rotation: base angle in radians.
        frequency: factor of the pattern's frequencies.
        phase: phase of the pattern in radians.
        contour: contour jitter in [-1, 1].
        radius: base scale in frame coordinates.
        offset: base position in frame coordinates.
        palette: the video's palette.
        palettes: palette of each keyframe.
        scene: the video's scene.
        scenes: scene of each keyframe.
        lights: lighting of each keyframe.
        pan: shift of the background plane a frame.
        background: background id 0 to 19 of an untrimmed video, else -1.
        voice: sound class and its draws.
        company: further creatures in this video, each with looks and movements of its own; its
            background, light and sound are not used.
    """

    key: tuple[int, int, int]
    frames: int
    fps: Fraction
    appearance: int
    motion: int
    primitives: tuple[int, ...]
    boundaries: tuple[float, ...]
    pattern: int
    aspect: float
    rotation: float
    frequency: float
    phase: float
    contour: float
    radius: float
    offset: tuple[float, float]
    palette: Palette
    palettes: tuple[Palette, ...]
    scene: Scene
    scenes: tuple[Scene, ...]
    lights: tuple[Light, ...]
    pan: tuple[float, float]
    background: int
    voice: Voice
    company: tuple[VideoSpec, ...] = ()

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.frames / self.fps)


def generator(seed: int, stream: int, part: int, *index: int) -> np.random.Generator:
    """The generator of one part of one video (or group, or frame)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, part, *index)))


def draw_video(
    seed: int,
    stream: int,
    index: int,
    *,
    group: int | None = None,
    frames: int = 16,
    fps: Fraction = Fraction(8),
    palette_keep: float = 0.5,
    scene_keep: float = 0.2,
) -> VideoSpec:
    """Draw one video of the world.

    Args:
        seed: seed of the world.
        stream: ``POOL``, ``TEST``, ``LONG_POOL`` or ``LONG_TEST``; the last two are untrimmed.
        index: number of the video in its stream.
        group: number of its group in the stream, which fixes class and instance identity;
            the video's own number by default.
        frames: frames of a clip; an untrimmed video draws its own number.
        fps: frames a second.
        palette_keep: PK.
        scene_keep: VB.

    Returns:
        The video's facts; the same for the same arguments, always.
    """
    own = generator(seed, stream, IDENTITY, index if group is None else group)
    rng = generator(seed, stream, VIDEO, index)
    untrimmed = stream in (LONG_POOL, LONG_TEST)

    # Drawn for the group: one creature.
    y = int(own.integers(CLASSES))
    pattern = _follow(own, y, _PATTERN_FOLLOWS, len(PATTERNS))
    aspect = math.exp(0.1 * own.standard_normal())
    rotation = 0.25 * own.standard_normal()
    frequency = math.exp(0.12 * own.standard_normal())
    phase = math.tau * own.random()
    contour = own.uniform(-1, 1)
    radius = 0.66 + 0.12 * own.random()
    offset = (own.uniform(-0.1, 0.1), own.uniform(-0.1, 0.1))
    palette = _palette(own, y)

    # Drawn for the video.
    if untrimmed:
        motion = -1
        frames = int(rng.integers(LONG_FRAMES[0], LONG_FRAMES[1] + 1))
        primitives, boundaries = _phases(rng, frames)
        background = int(rng.integers(BACKGROUNDS))
    else:
        motion = int(rng.integers(len(MOTION_PAIRS)))
        primitives = MOTION_PAIRS[motion]
        boundaries = (0.0, (frames - 1) / 2, float(frames - 1))
        background = -1
    scene = _scene(rng, y, background)
    palettes: list[Palette] = []
    scenes: list[Scene] = []
    lights: list[Light] = []
    for _ in range(KEYFRAMES):
        # New ones are drawn whether they are used or not, so that worlds of different PK and VB
        # show the same videos otherwise and can be compared in pairs.
        fresh_palette, fresh_scene = _palette(rng, y), _scene(rng, y, background)
        palettes.append(palette if rng.random() < palette_keep else fresh_palette)
        scenes.append(scene if rng.random() < scene_keep else fresh_scene)
        lights.append(_light(rng))
    return VideoSpec(
        key=(seed, stream, index),
        frames=frames,
        fps=fps,
        appearance=y,
        motion=motion,
        primitives=primitives,
        boundaries=boundaries,
        pattern=pattern,
        aspect=aspect,
        rotation=rotation,
        frequency=frequency,
        phase=phase,
        contour=contour,
        radius=radius,
        offset=offset,
        palette=palette,
        palettes=tuple(palettes),
        scene=scene,
        scenes=tuple(scenes),
        lights=tuple(lights),
        pan=(0.05 * rng.standard_normal(), 0.05 * rng.standard_normal()),
        background=background,
        voice=_voice(rng, y),
    )


def colour(spec: VideoSpec) -> str:
    """The colour word: that of the first keyframe's first colour, before the light falls on it."""
    return colour_name(spec.palettes[0].c1)


def caption(spec: VideoSpec) -> str:
    """One sentence about a video: colour, pattern, silhouette and movements in order."""
    moves = " then ".join(PRIMITIVES[p] for p in spec.primitives)
    return f"a {colour(spec)} {PATTERNS[spec.pattern]} {APPEARANCES[spec.appearance]} {moves}"


def _follow(rng: np.random.Generator, y: int, probability: float, classes: int) -> int:
    """The class itself with some probability, else uniform over all."""
    return y if rng.random() < probability else int(rng.integers(classes))


def _palette(rng: np.random.Generator, y: int) -> Palette:
    family = _follow(rng, y, _FAMILY_FOLLOWS, CLASSES)
    hue = family / 10 + 0.04 * rng.standard_normal()
    c1 = hsv(hue, 0.5 + 0.5 * rng.random(), 0.65 + 0.35 * rng.random())
    c2 = hsv(hue + 0.35 + 0.3 * rng.random(), 0.4 + 0.6 * rng.random(), 0.15 + 0.3 * rng.random())
    return Palette(family=family, c1=c1, c2=c2)


def _scene(rng: np.random.Generator, y: int, background: int) -> Scene:
    """A scene; an untrimmed video's background id fixes its type and half of its directions."""
    kind = _follow(rng, y, _SCENE_FOLLOWS, CLASSES)
    turn = rng.random()
    if background >= 0:
        kind = background % CLASSES
        turn = (turn + background // CLASSES) / (BACKGROUNDS // CLASSES)
    return Scene(
        kind=kind,
        frequency=(0.5 + 0.35 * (kind % 5)) * math.exp(0.2 * rng.standard_normal()),
        direction=math.pi * turn,
        phase=math.tau * rng.random(),
        sharpness=1.0 if kind < 5 else 3.0,
        dark=hsv(rng.random(), 0.2 + 0.5 * rng.random(), 0.2 + 0.5 * rng.random()),
        light=hsv(rng.random(), 0.2 + 0.5 * rng.random(), 0.3 + 0.6 * rng.random()),
    )


def _light(rng: np.random.Generator) -> Light:
    r, g, b = (float(x) for x in rng.uniform(0.85, 1.15, 3))
    return Light(channels=(r, g, b), gain=rng.uniform(0.75, 1.25), side=rng.uniform(-0.6, 0.6))


def _voice(rng: np.random.Generator, y: int) -> Voice:
    kind = _follow(rng, y, _SOUND_FOLLOWS, len(SOUNDS))
    return Voice(
        kind=kind,
        f0=SOUND_BASE_HZ * 2 ** (kind / 5) * rng.uniform(0.97, 1.03),
        snr_db=rng.uniform(10, 20),
        gain=rng.uniform(0.7, 1.3),
    )


def _phases(rng: np.random.Generator, frames: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Movements of an untrimmed video and the frames at which they begin.

    No movement follows itself, and none takes the creature further than one travel from where
    it has been on that axis (primitives 2a and 2a + 1 are opposite), so that it stays in view.
    """
    count = int(rng.integers(LONG_PHASES[0], LONG_PHASES[1] + 1))
    primitives: list[int] = []
    last = dict.fromkeys(range(len(PRIMITIVES) // 2), -1)
    for _ in range(count):
        free = [p for p in range(len(PRIMITIVES)) if last[p // 2] != p]
        p = int(rng.choice(free))
        last[p // 2] = p
        primitives.append(p)
    lengths = rng.uniform(0.5, 1.5, count)
    borders = np.rint(np.cumsum(lengths) / lengths.sum() * (frames - 1))
    return tuple(primitives), (0.0, *(float(b) for b in borders))
