"""The generated world: short videos of moving creatures, with everything about them known.

Ten appearance classes, eight motion classes that differ only in the order of two movements, ten
sound classes, a caption, and masks, boxes, key points and phases of every frame; all real H.264
files with AAC sound, made from a seed. It serves the demo, tests and studies at no download.

Example:
    >>> write_world(WorldConfig(videos=100, seed=0), "world")
    >>> read_truth("world", "v000000").boxes
"""

from __future__ import annotations

from rhyme.synthetic.config import WorldConfig, WorldOptions
from rhyme.synthetic.draw import (
    LONG_POOL,
    LONG_TEST,
    POOL,
    TEST,
    Light,
    Palette,
    Scene,
    VideoSpec,
    Voice,
    caption,
    draw_video,
)
from rhyme.synthetic.members import Entry, plan
from rhyme.synthetic.motion import Poses, keyframe_weights, onsets, phases, poses
from rhyme.synthetic.names import (
    APPEARANCES,
    BACKGROUNDS,
    COLOURS,
    MOTION_PAIRS,
    MOTIONS,
    PATTERNS,
    PRIMITIVES,
    SOUNDS,
    SPLITS,
)
from rhyme.synthetic.pictures import Rendered, render
from rhyme.synthetic.sound import synthesise_sound
from rhyme.synthetic.truth import LabelRow, Truth, read_labels, read_truth
from rhyme.synthetic.world import (
    Progress,
    WorldArrays,
    WorldSummary,
    render_arrays,
    write_world,
)

__all__ = [
    "APPEARANCES",
    "BACKGROUNDS",
    "COLOURS",
    "LONG_POOL",
    "LONG_TEST",
    "MOTIONS",
    "MOTION_PAIRS",
    "PATTERNS",
    "POOL",
    "PRIMITIVES",
    "SOUNDS",
    "SPLITS",
    "TEST",
    "Entry",
    "LabelRow",
    "Light",
    "Palette",
    "Poses",
    "Progress",
    "Rendered",
    "Scene",
    "Truth",
    "VideoSpec",
    "Voice",
    "WorldArrays",
    "WorldConfig",
    "WorldOptions",
    "WorldSummary",
    "caption",
    "draw_video",
    "keyframe_weights",
    "onsets",
    "phases",
    "plan",
    "poses",
    "read_labels",
    "read_truth",
    "render",
    "render_arrays",
    "synthesise_sound",
    "write_world",
]
