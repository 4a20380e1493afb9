from __future__ import annotations

import numpy as np
import pytest
import torch

from rhyme.views import (
    Clip,
    ClipPixels,
    ContrastTransform,
    EvalTransform,
    Keys,
    ShiftCropTransform,
    ViewPlan,
    ViewSpec,
    apply_points,
    compose,
    crop_resize_map,
    flip_map,
    identity,
    invert,
)


def coordinate_picture(height: int, width: int, scale: float) -> torch.Tensor:
    """A picture whose red is the column and whose green is the row, times ``scale``."""
    picture = torch.zeros(3, height, width)
    picture[0] = torch.arange(width)[None, :] * scale
    picture[1] = torch.arange(height)[:, None] * scale
    return picture.round().to(torch.uint8)


@pytest.mark.parametrize(
    "transform",
    [
        ContrastTransform.vfs_nc(size=40, mean=(0.0,) * 3, std=(1.0,) * 3),
        ContrastTransform.vfs_nc(size=40, interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3),
        EvalTransform(size=24, resize=36, mean=(0.0,) * 3, std=(1.0,) * 3),
        ShiftCropTransform(
            contrast=0.0,
            brightness=0.0,
            channel_gain=0.0,
            gray=0.0,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
        ),
    ],
    ids=["bilinear", "bicubic", "eval", "shift"],
)
def test_a_view_shows_what_its_map_says(make_facts, transform):
    height, width, scale = 60, 84, 3.0
    facts = make_facts(b=6, height=height, width=width)
    plan = ViewPlan(clips={"a": Clip()}, views={"x": ViewSpec(clip="a", transform=transform)})
    frames = coordinate_picture(height, width, scale).expand(6, 1, 3, height, width)
    draws = plan.draw(facts, Keys.of(0, 0, facts.id))
    view = plan.apply({"a": ClipPixels(frames=frames)}, draws)["x"]
    side = view.data.shape[-1]
    rows, columns = np.mgrid[0:side, 0:side]
    points = torch.from_numpy(np.stack([columns, rows], -1).reshape(-1, 2)).float()
    place = apply_points(view.map[:, 0], points[None]).reshape(6, side, side, 2)
    # Near the frame's border antialiasing has no neighbours: look at the inner part only.
    inner = (
        (place[..., 0] > 3)
        & (place[..., 0] < width - 4)
        & (place[..., 1] > 3)
        & (place[..., 1] < height - 4)
    )
    assert inner.float().mean() > 0.5
    inner[:, [0, 1, -2, -1]] = False  # so has the border of the crop
    inner[:, :, [0, 1, -2, -1]] = False
    shown = view.data[:, 0] * 255 / scale
    assert (shown[:, 0] - place[..., 0])[inner].abs().max() < 0.4
    assert (shown[:, 1] - place[..., 1])[inner].abs().max() < 0.4


def test_maps_of_reduced_frames_still_lead_to_display_pixels(make_facts):
    facts = make_facts(b=2, height=30, width=30)
    plan = ViewPlan(
        clips={"a": Clip()},
        views={"x": ViewSpec(clip="a", transform=ShiftCropTransform(flip=0.0))},
    )
    draws = plan.draw(facts, Keys.of(0, 0, facts.id))
    frames = torch.zeros(2, 1, 3, 30, 30, dtype=torch.uint8)
    reduced = crop_resize_map(np.zeros(2), np.full(2, 60.0), 240.0, 240.0, 30, 30)
    view = plan.apply({"a": ClipPixels(frames=frames, maps=reduced)}, draws)["x"]
    top, left = draws.views["x"].parameters["offset"][0, 0]
    centre = apply_points(view.map[0, 0], torch.tensor([[0.0, 0.0]]))
    assert centre[0].tolist() == pytest.approx([60 + 8 * (left + 0.5) - 0.5, 8 * (top + 0.5) - 0.5])


def test_corners_of_a_crop_map_to_the_corners_of_its_box():
    map_ = crop_resize_map(10, 20, 50, 80, 25, 16)
    corners = np.array([[-0.5, -0.5], [15.5, 24.5]])
    assert np.allclose(apply_points(map_, corners), [[19.5, 9.5], [99.5, 59.5]])


def test_flip_mirrors_and_flipping_twice_is_nothing():
    flip = flip_map([True, False], 24)
    points = np.array([[0.0, 3.0], [23.0, 5.0]])
    assert np.allclose(apply_points(flip, points)[0], [[23.0, 3.0], [0.0, 5.0]])
    assert np.allclose(apply_points(flip, points)[1], points)
    assert np.allclose(compose(flip, flip), identity(2))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_compose_and_invert_agree_with_points(kind):
    rng = np.random.default_rng(0)
    first, second = kind(rng.normal(size=(5, 2, 3))), kind(rng.normal(size=(5, 2, 3)))
    points = kind(rng.normal(size=(5, 7, 2)))
    both, carried = compose(second, first), apply_points(first, points)
    assert type(both) is type(first)
    assert np.allclose(
        apply_points(both, points), apply_points(second, apply_points(first, points))
    )
    assert np.allclose(apply_points(invert(first), carried), points)
