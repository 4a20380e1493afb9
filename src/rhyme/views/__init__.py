"""When and how: the joint draws of all views of an item, and the transforms that make them.

A :class:`ViewPlan` names clips (which frames) and views (a clip seen through a transform). Its
draws are a pure function of an item's facts and keys; applying them to decoded frames gives
:class:`View` objects that remember the time and the place of every pixel.
"""

from __future__ import annotations

from rhyme.views.cells import cell_centres, cells_apart, true_matches
from rhyme.views.clips import Clip, FrameDraws
from rhyme.views.contrast import ContrastTransform
from rhyme.views.facts import (
    Facts,
    clip_times,
    equally_spaced,
    frame_counts,
    frame_times,
    moments_every,
)
from rhyme.views.geometry import apply_points, compose, crop_resize_map, flip_map, identity, invert
from rhyme.views.keys import Keys, fork_seed, hash_name, step_generator
from rhyme.views.making import ClipPixels, Draws, ViewDraw
from rhyme.views.overlap import Overlap, OverlapPlan, PairDraws
from rhyme.views.plan import Transform, ViewPlan, ViewSpec
from rhyme.views.sampling import (
    CLIP_RULES,
    ClipSampling,
    ShortVideo,
    WholeClips,
    clip_sampling,
)
from rhyme.views.shift_crop import ShiftCropTransform
from rhyme.views.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform
from rhyme.views.turn import TurnTransform
from rhyme.views.view import Kind, View

__all__ = [
    "CLIP_RULES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Clip",
    "ClipPixels",
    "ClipSampling",
    "ContrastTransform",
    "Draws",
    "EvalTransform",
    "Facts",
    "FrameDraws",
    "Keys",
    "Kind",
    "Overlap",
    "OverlapPlan",
    "PairDraws",
    "ShiftCropTransform",
    "ShortVideo",
    "Transform",
    "TurnTransform",
    "View",
    "ViewDraw",
    "ViewPlan",
    "ViewSpec",
    "WholeClips",
    "apply_points",
    "cell_centres",
    "cells_apart",
    "clip_sampling",
    "clip_times",
    "compose",
    "crop_resize_map",
    "equally_spaced",
    "flip_map",
    "fork_seed",
    "frame_counts",
    "frame_times",
    "hash_name",
    "identity",
    "invert",
    "moments_every",
    "step_generator",
    "true_matches",
]
