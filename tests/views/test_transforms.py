from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as oracle

from rhyme.errors import ConfigError
from rhyme.views import (
    ContrastTransform,
    EvalTransform,
    Keys,
    ShiftCropTransform,
)
from rhyme.views import photometric as ops
from rhyme.views.batched import apply_batched
from rhyme.views.blur import blur, blur_batch, gaussian_taps


def photo(b=1, h=48, w=64, seed=0) -> torch.Tensor:
    """Smooth coloured pictures, so that interpolation and blur have something to agree on."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (b, 3, 7, 9), dtype=torch.uint8, generator=generator)
    return oracle.resize(coarse, [h, w], antialias=True)


def unnormalised(**options) -> ContrastTransform:
    off = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "flip": 0.0} | options
    return ContrastTransform(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **off)


def draw_and_apply(transform, frames, epoch=0, frames_drawn=None):
    b, t = frames.shape[:2]
    sizes = np.tile(frames.shape[-2:], (b, 1))
    keys = Keys.of(0, epoch, np.arange(b))
    draw = transform.draw(keys, frames_drawn or t, sizes[:, 1], sizes[:, 0])
    data, maps = transform.apply(frames, draw, sizes)
    return data, maps, draw


def worst(levels: torch.Tensor, expected: torch.Tensor) -> float:
    return float((levels.double() - expected.double()).abs().max())


FACTORS = [0.6, 0.85, 1.0, 1.37]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_parts_agree_with_torchvision(name, factor):
    picture = photo(b=3)
    ours = getattr(ops, name)(picture.float(), torch.full((3,), factor))
    theirs = getattr(oracle, f"adjust_{name}")(picture, factor)
    assert worst(ours, theirs) <= 1.5


@pytest.mark.parametrize("shift", [-0.5, -0.31, -0.1, 0.0, 0.07, 0.4])
def test_hue_agrees_with_torchvision(shift):
    picture = torch.cat([photo(b=2), torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)])
    picture[0, :, :9] = 77  # a grey patch has no hue
    ours = ops.hue(picture.float(), torch.full((4,), shift))
    assert worst(ours, oracle.adjust_hue(picture, shift)) <= 1.5


def test_grayscale_and_solarize_agree_with_torchvision():
    picture = photo(b=2)
    gray = oracle.rgb_to_grayscale(picture, num_output_channels=3)
    assert worst(ops.grayscale(picture.float()), gray) <= 1.0
    assert worst(ops.solarize(picture.float(), 128.0), oracle.solarize(picture, 128)) == 0


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 5.0])
def test_blur_agrees_with_torchvision(sigma):
    picture = photo(b=2, seed=4)
    ours = blur(picture.float(), np.full(2, sigma), np.full(2, 11))
    theirs = oracle.gaussian_blur(picture.float(), [23, 23], [sigma, sigma])
    assert worst(ours, theirs) <= 1.0


def test_blur_keeps_a_flat_picture_and_its_weights_are_whole():
    flat = torch.full((1, 3, 9, 9), 201.0)
    wide = np.array([3.0]), np.array([12])  # kernel wider than the picture
    for function in (blur, blur_batch):
        assert torch.equal(function(flat, *wide), flat)
    taps = gaussian_taps(np.array([1.5, 0.4]), np.array([6, 2]))
    assert (taps[:, 0] + 2 * taps[:, 1:].sum(axis=1) == 2**14).all()
    assert (np.diff(taps, axis=1) <= 0).all()
    assert gaussian_taps(np.array([0.4]), np.array([2])).tolist() == [taps[1, :2].tolist()]


def test_added_brightness_is_a_share_of_the_range():
    picture = photo()
    ours = ops.add_brightness(picture.float(), torch.tensor([0.2]))
    assert worst(ours, (picture.float() + 51.0).clamp(0, 255)) < 1e-3


def test_parameters_go_to_their_own_row():
    picture = photo().expand(2, 3, 48, 64)
    ours = ops.contrast(picture.float(), torch.tensor([0.5, 1.4]))
    assert worst(ours[1:], oracle.adjust_contrast(picture[1:], 1.4)) <= 1.5
    assert worst(ours[:1], oracle.adjust_contrast(picture[:1], 0.5)) <= 1.5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_agree_with_torchvision(interpolation):
    frames = photo(b=6)[:, None]
    data, _, draw = draw_and_apply(unnormalised(interpolation=interpolation), frames)
    for i in range(6):
        top, left, tall, wide = draw["box"][i, 0].tolist()
        theirs = oracle.resized_crop(
            frames[i],
            *(top, left, tall, wide),
            [32, 32],
            interpolation=InterpolationMode(interpolation),
            antialias=True,
        )
        assert worst(data[i] * 255, theirs) <= 1.01


@pytest.mark.parametrize("gray_first", [False, True])
def test_whole_transform_agrees_with_torchvision_row_by_row(gray_first):
    transform = ContrastTransform(size=32, solarize=0.3, blur_kernel=0.35, gray_first=gray_first)
    frames = photo(b=24)[:, None]
    data, _, draw = draw_and_apply(transform, frames)
    names = ("brightness", "contrast", "saturation", "hue")
    seen = set()
    for i in range(24):
        row = {name: value[i, 0] for name, value in draw.items()}
        box = [int(v) for v in row["box"]]
        x = oracle.resized_crop(frames[i], *box, [32, 32], antialias=True)
        x = (oracle.horizontal_flip(x) if row["flip"] else x).float() / 255  # no rounding between
        if row["gray"] and gray_first:
            x = oracle.rgb_to_grayscale(x, 3)
        for part in row["order"] if row["jitter"] else ():
            value = float(row[names[part]])
            x = getattr(oracle, f"adjust_{names[part]}")(x, value)
        if row["gray"] and not gray_first:
            x = oracle.rgb_to_grayscale(x, 3)
        if row["sigma"] > 0:
            x = oracle.gaussian_blur(x, [11, 11], [float(row["sigma"])] * 2)
        if row["solarize"]:
            continue  # a level beside the threshold may fall on either side of it
        seen.add((bool(row["jitter"]), bool(row["gray"]), bool(row["sigma"] > 0)))
        theirs = oracle.normalize(x, transform.mean, transform.std)
        error = (data[i] - theirs).abs() * torch.tensor(transform.std).reshape(3, 1, 1) * 255
        assert error.max() <= 1.0, i
    assert len(seen) >= 5


def test_probabilities_and_ranges_are_what_they_say(make_facts):
    b = 4000
    side = np.full(b, 100, dtype=np.int64)
    draw = ContrastTransform(solarize=0.1).draw(Keys.of(0, 0, np.arange(b)), 1, side, side)
    for name, share in (("flip", 0.5), ("jitter", 0.8), ("gray", 0.2), ("solarize", 0.1)):
        assert abs(draw[name].mean() - share) < 0.025, name
    assert abs((draw["sigma"] > 0).mean() - 0.5) < 0.025
    assert 0.1 <= draw["sigma"][draw["sigma"] > 0].min() < 0.12
    assert 0.6 <= draw["contrast"].min() < 0.61
    assert 1.39 < draw["contrast"].max() <= 1.4
    assert abs(draw["hue"]).max() <= 0.1
    orders = np.unique(draw["order"][:, 0], axis=0)
    assert len(orders) == 24
    area = draw["box"][..., 2] * draw["box"][..., 3] / 1e4
    assert area.min() > 0.19
    picture = torch.zeros(3, 100, 100)
    theirs = [RandomResizedCrop.get_params(picture, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(b)]
    assert abs(area.mean() - np.mean([h * w for _, _, h, w in theirs]) / 1e4) < 0.015
    ratio = draw["box"][..., 3] / draw["box"][..., 2]
    assert ratio.min() > 0.73
    assert ratio.max() < 1.37
    inside = draw["box"][..., :2] + draw["box"][..., 2:]
    assert inside.max() <= 100
    assert draw["box"].min() >= 0


def test_a_frame_that_no_proposal_fits_gives_the_central_box():
    width, height = np.array([400, 6]), np.array([6, 400])
    draw = ContrastTransform(scale=(1.0, 1.0)).draw(Keys.of(0, 0, [1, 2]), 1, width, height)
    assert draw["box"][:, 0].tolist() == [[0, 196, 6, 8], [196, 0, 8, 6]]


@pytest.mark.parametrize(("impl", "low", "high"), [("v1", -0.4, 0.4), ("v2", 0.6, 1.4)])
def test_strength_scales_the_reach_of_the_jitter(impl, low, high):
    sizes, keys = np.full(500, 64), Keys.of(0, 0, range(500))
    draw = ContrastTransform.simclr(strength=0.5, impl=impl).draw(keys, 1, sizes, sizes)
    for name, bounds in (
        ("brightness", (low, high)),
        ("contrast", (0.6, 1.4)),
        ("saturation", (0.6, 1.4)),
        ("hue", (-0.1, 0.1)),
    ):
        found = draw[name].min(), draw[name].max()
        assert bounds[0] <= found[0] < found[1] <= bounds[1]
        assert found == pytest.approx(bounds, abs=0.02), "the whole reach is used"
    with pytest.raises(ConfigError, match="hue"):
        ContrastTransform.simclr(strength=3.0)


def test_presets_differ_where_their_papers_do():
    v1, simclr = ContrastTransform.moco_v1(), ContrastTransform.simclr(strength=0.5, impl="v1")
    assert (v1.jitter, v1.hue, v1.blur, v1.gray_first) == (1.0, 0.4, 0.0, True)
    assert simclr.scale == (0.08, 1.0)
    assert simclr.interpolation == "bicubic"
    assert (simclr.strength, simclr.brightness, simclr.hue) == (0.5, 0.8, 0.2)
    assert simclr.brightness_mode == "add"
    assert ContrastTransform.simclr().brightness_mode == "multiply"
    data, _, _ = draw_and_apply(ContrastTransform.simclr(size=16), photo(b=8)[:, None])
    assert data.min() >= 0
    assert data.max() <= 1
    colours = ContrastTransform.vfs_nc(size=48, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    square = photo(h=48, w=48)[:, None]
    data, _, _ = draw_and_apply(colours, square)
    expected = oracle.normalize(square.float() / 255, colours.mean, colours.std)
    assert worst(data, expected) < 1e-5


@pytest.mark.parametrize(
    "transform",
    [
        unnormalised(),
        EvalTransform(size=24, resize=28, mean=(0.0,) * 3, std=(1.0,) * 3),
        ShiftCropTransform(size=24, resize=24, flip=0.0, gray=0.0),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_a_smaller_copy_of_the_frames_gives_the_same_view_and_map(transform):
    whole = photo(b=1, h=96, w=134)[:, None]
    small = oracle.resize(whole[0], [48, 67], antialias=True)[None]
    data, maps, draw = draw_and_apply(transform, whole)
    again, same = transform.apply(small, draw, np.array([[96, 134]]))
    assert np.array_equal(same, maps)
    assert (again - data).abs().mean() < 0.02
    batched, there = apply_batched(
        transform, small, draw, np.array([[96, 134]]), np.array([[48, 67]])
    )
    assert np.array_equal(there, maps)
    assert worst(batched, again) < 0.1
    square = oracle.resize(whole[0], [24, 24], antialias=True)[None]
    assert np.array_equal(transform.apply(square, draw, np.array([[96, 134]]))[1], maps)


def test_shift_crop_follows_its_definition():
    transform = ShiftCropTransform()
    frames = torch.randint(0, 256, (40, 2, 3, 30, 30), dtype=torch.uint8)
    data, _, draw = draw_and_apply(transform, frames)
    assert set(draw["offset"].reshape(-1)) == set(range(7))
    for i in range(40):
        for k in range(2):
            row = {name: value[i, k] for name, value in draw.items()}
            top, left = row["offset"]
            x = frames[i, k, :, top : top + 24, left : left + 24].double().numpy() / 255
            x = x[..., ::-1] if row["flip"] else x
            mean = (np.array([0.2989, 0.587, 0.114]) @ x.reshape(3, -1)).mean()
            x = (mean + (x - mean) * row["contrast"]) * row["brightness"]
            x = x * row["gain"][:, None, None]
            if row["gray"]:
                x = np.tile(np.tensordot([0.2989, 0.587, 0.114], x, 1), (3, 1, 1))
            assert np.abs(data[i, k].numpy() - (x - 0.45) / 0.25).max() < 1e-4
    assert 0.1 < draw["gray"].mean() < 0.35


def test_shift_crop_scales_frames_of_another_size_first():
    frames = photo(b=2, h=60, w=90)[:, None]
    data, maps, draw = draw_and_apply(ShiftCropTransform(), frames)
    assert data.shape == (2, 1, 3, 24, 24)
    assert np.allclose(np.abs(maps[:, 0, 0, 0]), 2.0)
    top = draw["offset"][0, 0, 0]
    assert maps[0, 0, 1, 2] == pytest.approx(2 * top + 0.5)


def test_eval_transform_scales_and_cuts_like_torchvision():
    frames = photo(b=1, h=50, w=71)[:, None]
    transform = EvalTransform(size=24, resize=32)
    data, _, _ = draw_and_apply(transform, frames)
    x = oracle.resize(frames[0], [32], antialias=True)
    assert x.shape[-2:] == (32, 45)
    top, left = (32 - 24) // 2, (45 - 24) // 2
    x = x[..., top : top + 24, left : left + 24].float() / 255
    expected = oracle.normalize(x, transform.mean, transform.std)
    assert worst(data[0], expected) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"flip": 1.5},
        {"hue": 0.6},
        {"scale": (0.5, 0.2)},
        {"scale": (0.2, 1.5)},
        {"blur_sigma": (0.0, 1.0)},
        {"std": (0.2, 0.0, 0.2)},
        {"brightness": float("nan")},
    ],
)
def test_impossible_options_are_refused(change):
    with pytest.raises(ConfigError):
        replace(ContrastTransform(), **change)
    with pytest.raises(ConfigError):
        EvalTransform(size=32, resize=24)
