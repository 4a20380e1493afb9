"""How an encoder is fed after training follows from how it was fed in training."""

from __future__ import annotations

import dataclasses

import pytest

from rhyme.systems.momentum_pair import inference_plan
from rhyme.views import Clip, ContrastTransform, TurnTransform


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (None, (1, 0.0, 0)),
        (Clip(frames=16), (16, 0.0, 1)),
        (Clip(frames=16, stride=4), (16, 0.0, 4)),
        (Clip(frames=8, spacing=0.25), (8, 0.25, 0)),
        (Clip(frames=16, strides=(2, 4, 8)), (16, 0.0, 2)),
    ],
)
def test_a_plan_takes_the_clips_frames_and_their_distance(clip, expected) -> None:
    plan = inference_plan(ContrastTransform.dual(112), clip)
    assert (plan.frames, plan.spacing, plan.stride) == expected
    assert (plan.size, plan.resize) == (112, 128)


def test_turned_crops_are_judged_unturned() -> None:
    base = ContrastTransform.cstp(32)
    assert inference_plan(TurnTransform(base=base)) == inference_plan(base)


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [(112, (150, 200), 150), (112, (200, 150), 150), (112, None, 128), (32, (48, 64), 32)],
)
def test_a_plan_scales_as_the_transform_does(size, resize, expected) -> None:
    transform = dataclasses.replace(ContrastTransform(size=size), resize=resize)
    assert inference_plan(transform).resize == expected
