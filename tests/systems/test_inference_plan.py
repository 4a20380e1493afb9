"""How an encoder is fed after training follows from how it was fed in training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rhyme.loading.inference import eval_transform
from rhyme.systems.momentum_pair import inference_plan
from rhyme.views import Clip, ContrastTransform, Keys, TurnTransform


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
    plan = inference_plan(transform)
    assert plan.resize == expected
    assert plan.aspect == (None if resize is None else resize[1] / resize[0])


@pytest.mark.parametrize(("width", "height"), [(320, 240), (1280, 720), (720, 1280), (180, 144)])
@pytest.mark.parametrize("transform", [ContrastTransform.dual(112), ContrastTransform.moco_v2(112)])
def test_an_encoder_is_fed_the_shapes_that_it_was_trained_on(transform, width, height) -> None:
    """What is a square in the picture is as wide by high in training as it is afterwards."""
    frames = torch.zeros(1, 2, 3, height // 4, width // 4, dtype=torch.uint8)
    sizes = np.array([[height, width]])
    plan = inference_plan(transform)
    _, after = eval_transform(plan).apply(frames, {}, sizes)

    def squeeze(maps) -> np.ndarray:
        return maps[..., 0, 0] / maps[..., 1, 1]  # scene columns by scene rows of a pixel

    if transform.resize is None:  # boxes of drawn aspect, around that of the picture
        assert squeeze(after) == pytest.approx(1, abs=0.02)
        return
    draw = transform.draw(Keys(0, 0, np.arange(1, dtype=np.uint64)), 2, *sizes[:, ::-1].T)
    _, trained = transform.apply(frames, draw, sizes)
    assert np.abs(squeeze(after)) == pytest.approx(np.abs(squeeze(trained)), rel=0.01)
    assert squeeze(after)[0, 0] == pytest.approx(width / height / (171 / 128), rel=0.01)
