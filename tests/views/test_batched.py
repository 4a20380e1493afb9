"""The batched back end against the one that works item by item, from the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rhyme.views import (
    Clip,
    ClipPixels,
    ContrastTransform,
    EvalTransform,
    Keys,
    ShiftCropTransform,
    ViewPlan,
    ViewSpec,
)
from rhyme.views.blur import blur, blur_batch
from rhyme.views.crops import resized
from rhyme.views.resample import Axis, resample

CPU = torch.device("cpu")


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Coarse colours under noise: smooth areas, edges and saturated levels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:-3], 3, 6, 8, generator=generator).flatten(0, -4)
    smooth = torch.nn.functional.interpolate(coarse, shape[-2:], mode="bilinear")
    noise = torch.rand(smooth.shape, generator=generator) * 0.15
    return ((smooth * 1.1 + noise - 0.1).clamp(0, 1) * 255).byte().reshape(shape)


TRANSFORMS = {
    "moco_v1": ContrastTransform.moco_v1(size=24),
    "moco_v2": ContrastTransform.moco_v2(size=24),
    "simclr": ContrastTransform.simclr(size=40),
    "simclr_v1": ContrastTransform.simclr(size=32, impl="v1", strength=0.5),
    "byol": ContrastTransform(size=70, interpolation="bicubic", solarize=0.5),
    "vfs_nc": ContrastTransform.vfs_nc(size=48),
    "dual": ContrastTransform.dual(size=28),
    "dual_flipped": ContrastTransform.dual(size=24, weak=True, flip=0.5),
    "shift": ShiftCropTransform(),
    "shift_as_kept": ShiftCropTransform(size=32, resize=40),
    "eval": EvalTransform(size=32, resize=40, interpolation="bicubic"),
    "eval_small": EvalTransform(size=20, resize=None),
}


def both(transform, frames, facts, consistent="frame", short="repeat"):
    """A view made item by item and made at once."""
    plan = ViewPlan(
        clips={"a": Clip(frames=frames[0].shape[0], short=short)},
        views={"x": ViewSpec(clip="a", transform=transform, consistent=consistent)},
    )
    draws = plan.draw(facts, Keys.of(0, 0, facts.id))
    maps = np.tile(np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]), (len(frames), 1, 1))
    pixels = {"a": ClipPixels(frames=frames, maps=maps)}
    return plan.apply(pixels, draws)["x"], plan.apply(pixels, draws, CPU)["x"]


def check(transform, one, other):
    """At most a level apart: 0.02 in the mean, 1 in 99.9 % of all pixels; the rest is equal."""
    assert torch.equal(one.map, other.map)
    assert torch.equal(one.times, other.times)
    assert torch.equal(one.valid, other.valid)
    assert one.data.shape == other.data.shape
    std = torch.tensor(transform.std).reshape(3, 1, 1) * 255
    apart = ((one.data - other.data).abs() * std).flatten()
    assert apart.mean() <= 0.02
    assert apart.quantile(0.999) <= 1.0 + 1e-3
    assert apart.max() <= 8.0  # a level of a crop, times contrast, brightness and a turned hue


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(("t", "consistent"), [(1, "frame"), (3, "frame"), (3, "clip")])
def test_views_made_at_once_are_those_made_item_by_item(make_facts, name, t, consistent):
    transform = TRANSFORMS[name]
    b, height, width = 32 // t, 40, 64 if name != "shift_as_kept" else 40
    facts = make_facts(b, width=width, height=height)
    frames = pictures(b, t, 3, height, width)
    check(transform, *both(transform, frames, facts, consistent))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_frames_of_different_sizes_share_a_batch(make_facts, name):
    sizes = [(60, 48), (33, 90), (40, 40), (64, 100)] * 4
    frames = [pictures(2, 3, h, w, seed=k) for k, (h, w) in enumerate(sizes)]
    # Facts that say another size: boxes are carried over alike.
    facts = make_facts(len(sizes), width=96, height=64)
    check(TRANSFORMS[name], *both(TRANSFORMS[name], frames, facts))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_views_of_one_transform_are_those_made_alone(make_facts, name):
    """Two of one clip, one of another, and one drawn once a clip; frames beyond the end are 0."""
    transform, facts = TRANSFORMS[name], make_facts(6, frames=2, width=40, height=40)
    clip = Clip(frames=3, short="pad")
    specs = {
        "x": ViewSpec(clip="a", transform=transform),
        "y": ViewSpec(clip="a", transform=transform),
        "z": ViewSpec(clip="b", transform=transform),
        "once": ViewSpec(clip="b", transform=transform, consistent="clip"),
        "other": ViewSpec(clip="b", transform=EvalTransform(size=16)),
    }
    plan = ViewPlan(clips={"a": clip, "b": clip}, views=specs)
    draws = plan.draw(facts, Keys.of(0, 0, facts.id))
    pixels = {
        "a": ClipPixels(frames=pictures(6, 3, 3, 40, 40)),
        "b": ClipPixels(frames=list(pictures(6, 3, 3, 40, 40, seed=1)), times=np.ones((6, 3))),
    }
    made = plan.apply(pixels, draws, CPU)
    assert list(made) == list(specs)
    for view, spec in specs.items():
        alone = ViewPlan(clips={"a": clip, "b": clip}, views={view: spec})
        wanted = alone.apply(pixels, draws, CPU)[view]
        for part in ("data", "times", "map", "valid"):
            assert torch.equal(getattr(made[view], part), getattr(wanted, part)), part
        assert not made[view].data[:, 2].any()


def test_a_second_view_costs_no_second_launch(make_facts):
    def operations(views: int) -> int:
        spec = ViewSpec(clip="a", transform=TRANSFORMS["simclr_v1"])
        plan = ViewPlan(clips={"a": Clip()}, views={f"view {k}": spec for k in range(views)})
        facts = make_facts(64, width=32, height=32)
        draws = plan.draw(facts, Keys.of(0, 0, facts.id))
        pixels = {"a": ClipPixels(frames=pictures(64, 1, 3, 32, 32))}
        with Calls() as seen:
            plan.apply(pixels, draws, CPU)
        return seen.count

    assert operations(3) < 1.1 * operations(1)


def test_large_pictures_are_made_in_pieces(make_facts, monkeypatch):
    from rhyme.views import batched

    transform, frames = TRANSFORMS["simclr"], pictures(9, 1, 3, 50, 60)
    facts = make_facts(9, width=60, height=50)
    whole = both(transform, frames, facts)[1]
    monkeypatch.setattr(batched, "_LIMIT", 2 * 3 * 40 * 50)
    assert torch.equal(both(transform, frames, facts)[1].data, whole.data)


def test_frames_beyond_a_short_item_are_zero(make_facts):
    facts = make_facts(4, frames=2, width=40, height=40)
    pair = both(TRANSFORMS["moco_v2"], pictures(4, 3, 3, 40, 40), facts, short="pad")
    check(TRANSFORMS["moco_v2"], *pair)
    assert not pair[1].valid[:, 2].any()
    assert (pair[1].data[:, 2] == 0).all()
    assert (pair[1].data[:, 1] != 0).any()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [12, 40, 90])
def test_resampling_is_that_of_torch(interpolation, side):
    rng, m = np.random.default_rng(side), 30
    frames = torch.from_numpy(rng.integers(0, 256, (m, 3, 80, 100), dtype=np.uint8))
    tall, wide = rng.integers(3, 81, m), rng.integers(3, 101, m)
    top = np.floor(rng.random(m) * (81 - tall)).astype(np.int64)
    left = np.floor(rng.random(m) * (101 - wide)).astype(np.int64)
    flip, kept = rng.random(m) < 0.5, side - 5
    full, first = np.full(m, side), rng.integers(0, 6, m)
    rows = Axis(start=top, extent=tall, full=full, first=first, flip=np.zeros(m, dtype=bool))
    columns = Axis(start=left, extent=wide, full=full, first=first, flip=flip)
    ours = resample(frames, rows, columns, kept, interpolation)
    apart = []
    for k in range(m):
        box = frames[k : k + 1, :, top[k] : top[k] + tall[k], left[k] : left[k] + wide[k]]
        cut = slice(int(first[k]), int(first[k]) + kept)
        theirs = resized(box, side, side, interpolation)[0][:, cut, cut].float()
        gap = (ours[k] - (theirs.flip(-1) if flip[k] else theirs)).abs()
        apart.append(gap)
        if max(tall[k], wide[k]) <= 1.8 * side:  # weights are counted as torch counts them
            assert gap.max() == 0, k
    assert torch.stack(apart).mean() < 0.02
    assert torch.stack(apart).max() <= 2


@pytest.mark.parametrize("side", [5, 24, 64, 65])
def test_all_ways_to_blur_give_the_same_bits(side):
    levels = pictures(7, 3, side, side).float() + 0.3
    sigma = np.array([0.1, 0.3, 0.9, 1.4, 2.0, 2.6, 4.0])
    radius = np.ceil(4 * sigma).astype(np.int64)
    at_once = blur_batch(levels, sigma, radius)
    assert torch.equal(at_once, blur(levels, sigma, radius))
    alone = [blur_batch(levels[k : k + 1], sigma[k : k + 1], radius[k : k + 1]) for k in range(7)]
    assert torch.equal(at_once, torch.cat(alone))


class Calls(TorchDispatchMode):
    """Counts operations, and refuses those whose result the host would have to wait for."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(name in str(func) for name in self.waits), func
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_nothing_waits_for_the_device_and_nothing_loops_over_items(make_facts, name):
    counts = []
    for b in (48, 96):
        plan = ViewPlan(
            clips={"a": Clip(frames=2)},
            views={"x": ViewSpec(clip="a", transform=TRANSFORMS[name])},
        )
        facts = make_facts(b, width=64, height=48)
        draws = plan.draw(facts, Keys.of(0, 0, facts.id))
        pixels = {"a": ClipPixels(frames=pictures(b, 2, 3, 48, 64))}
        # A tensor without memory: whatever looked at a value would fail.
        view = plan.apply(pixels, draws, torch.device("meta"))["x"]
        assert view.data.device.type == "meta"
        with Calls() as calls:
            plan.apply(pixels, draws, CPU)
        counts.append(calls.count)
    assert counts[0] < 900
    assert abs(counts[1] - counts[0]) <= 24  # a wider filter at most
