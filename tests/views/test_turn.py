"""Turned crops: where their pixels come from, in which order, on both back ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rhyme.errors import ConfigError
from rhyme.views import (
    Clip,
    ClipPixels,
    ContrastTransform,
    Keys,
    Overlap,
    OverlapPlan,
    TurnTransform,
    ViewSpec,
    apply_points,
)
from rhyme.views.turn import rearrange, tilt_map, turn_map

CPU = torch.device("cpu")
PLAIN = {"jitter": 0.0, "gray": 0.0, "blur": 0.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def look(size=16, skip=0.0, mirror="first", **options) -> TurnTransform:
    base = ContrastTransform.cstp(size=size, skip=skip, **options)
    return TurnTransform(base=base, mirror=mirror)


def plan(transform: TurnTransform, frames: int = 3, **options) -> OverlapPlan:
    views = {n: ViewSpec(clip=n, transform=transform, consistent="clip") for n in "ab"}
    clips = {n: Clip(frames=frames) for n in "ab"}
    return OverlapPlan(clips=clips, views=views, overlap=Overlap(**options))


def pictures(b: int, t: int, height: int, width: int) -> torch.Tensor:
    """Every pixel says where it is, and of which frame it is a part."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frame = torch.arange(b * t).reshape(b, t, 1, 1).expand(b, t, height, width) % 200
    return torch.stack([x.expand_as(frame), y.expand_as(frame), frame], dim=2).byte()


@pytest.mark.parametrize("mirror", ["first", "last"])
@pytest.mark.parametrize("device", [None, CPU])
def test_every_pixel_comes_from_where_the_map_says(make_facts, mirror, device):
    """Crops of the size of the view, so that nothing is resampled: turns, flips and tilts alone."""
    transform, b, t = look(16, mirror=mirror, **PLAIN), 64, 3
    facts = make_facts(b, frames=60, width=40, height=30)
    whole = plan(transform, t)
    draws = whole.draw(facts, Keys.of(0, 0, facts.id))
    for view in draws.views.values():
        view.parameters["box"][..., :2] //= 2
        view.parameters["box"][..., 2:] = 16
    frames = pictures(b, t, 30, 40)
    pixels = {n: ClipPixels(frames=frames) for n in "ab"}
    inside, turned, mirrored = 0, set(), set()
    for name, view in whole.apply(pixels, draws, device).items():
        levels = (view.data * 255).round().numpy()
        grid = np.stack(np.meshgrid(np.arange(16), np.arange(16)), axis=-1).reshape(-1, 2)
        there = apply_points(view.map.numpy().astype(np.float64), grid[None, None])
        box = draws.views[name].parameters["box"]
        low = box[..., None, 1::-1] - 0.5
        seen = ((there > low + 1e-3) & (there < low + 16 - 1e-3)).all(axis=-1)
        clear = (np.abs(there - np.floor(there) - 0.5) > 1e-3).all(axis=-1)
        found = levels[:, :, :2].reshape(b, t, 2, -1).transpose(0, 1, 3, 2)
        assert (found[seen & clear] == np.round(there[seen & clear])).all()
        outside = ~((there > low - 1e-3) & (there < low + 16 + 1e-3)).all(axis=-1)
        black = levels.reshape(b, t, 3, -1).max(axis=2)
        assert (black[outside] == 0).all(), "beyond the crop it is black"
        inside += seen.mean() / 2
        turned |= set(draws.views[name].parameters["turn"].flatten().tolist())
        mirrored |= set(draws.views[name].parameters["flip"].flatten().tolist())
        assert len({tuple(m.flatten().tolist()) for m in view.map[0]}) == 1, "one map a clip"
    assert turned == {0, 1, 2, 3}
    assert mirrored == {False, True}
    assert 0.9 < inside < 1


def test_turns_are_those_of_numpy():
    levels = torch.randint(0, 256, (4, 3, 11, 11), dtype=torch.uint8)
    found = rearrange(levels, turn_map(np.arange(4), 11))
    for quarters in range(4):
        assert torch.equal(found[quarters], levels[quarters].rot90(quarters, (-2, -1)))
    assert rearrange(levels, np.tile(np.eye(2, 3), (4, 1, 1))) is levels
    quarter = tilt_map(np.array([np.pi / 2]), 11)
    assert np.allclose(quarter, turn_map(np.array([1]), 11))


def views_of(transform, facts, frames, flip, turns, device=None):
    """Views of whole square frames, mirrored or not, turned by given quarters."""
    whole = plan(transform, frames.shape[1])
    draws = whole.draw(facts, Keys.of(0, 0, facts.id))
    side = frames.shape[-1]
    for view in draws.views.values():
        view.parameters["box"][:] = (0, 0, side, side)
        view.parameters["flip"][:] = flip
        view.parameters["turn"][:] = turns
    return whole.apply({n: ClipPixels(frames=frames) for n in "ab"}, draws, device)["a"].data


def test_a_mirrored_clip_keeps_its_label_only_if_it_is_mirrored_first(make_facts):
    """Published: turned by 90 and mirrored is mirrored and turned by 270: half the labels lie."""
    frames = torch.randint(0, 256, (4, 2, 3, 16, 16), dtype=torch.uint8)
    facts = make_facts(4, frames=60, width=16, height=16)
    for mirror, same in (("first", 1), ("last", 3)):
        transform = look(16, skip=1.0, mirror=mirror, **PLAIN)
        seen = views_of(transform, facts, frames, True, 1)
        scene = views_of(transform, facts, frames.flip(-1), False, same)
        assert torch.equal(seen, scene)


@pytest.mark.parametrize(("skip", "size"), [(1.0, 24), (0.0, 24), (0.5, 70)])
@pytest.mark.parametrize("mirror", ["first", "last"])
def test_views_made_at_once_are_those_made_item_by_item(make_facts, skip, size, mirror):
    b, t = 16, 3
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(b * t, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (60, 90), mode="bilinear")
    frames = (smooth * 255).byte().reshape(b, t, 3, 60, 90)
    sizes = np.array([[60, 90], [50, 41], [60, 60], [33, 90]] * 4)
    cut = [clip[..., :h, :w] for clip, (h, w) in zip(frames, sizes, strict=True)]
    whole = plan(look(size, skip, mirror), t)
    facts = make_facts(b, frames=90, width=100, height=80)
    draws = whole.draw(facts, Keys.of(0, 0, facts.id))
    pixels = {n: ClipPixels(frames=cut) for n in "ab"}
    one, other = whole.apply(pixels, draws), whole.apply(pixels, draws, CPU)
    for name in "ab":
        assert torch.equal(one[name].map, other[name].map)
        apart = ((one[name].data - other[name].data).abs() * 127.5).flatten()
        assert apart.mean() <= 0.02
        assert apart.quantile(0.999) <= 1.0 + 1e-3
        assert one[name].data.abs().max() <= 1.0, "levels lie in [-1, 1]"


def test_augmentation_comes_now_and_then_and_all_at_once(make_facts):
    facts = make_facts(20_000)
    drawn = look(skip=0.7).draw(Keys.of(0, 0, facts.id), 1, facts.width, facts.height)
    tilted = drawn["tilt"] != 0
    assert tilted.mean() == pytest.approx(0.3, abs=0.01)
    assert np.abs(drawn["tilt"]).max() <= np.deg2rad(10)
    assert drawn["flip"].mean() == pytest.approx(0.5, abs=0.01)
    for name, share in (("jitter", 0.8), ("gray", 0.2), ("sigma", 0.5)):
        marked = drawn[name] > 0
        assert not marked[~tilted].any()
        assert marked[tilted].mean() == pytest.approx(share, abs=0.02)
    assert (drawn["turn"] == 0).all(), "a joint draw decides on turns"


def test_gray_is_one_channel(make_facts):
    base = {**PLAIN, "gray": 1.0, "flip": 0.0}
    frames = torch.randint(0, 256, (40, 1, 3, 16, 16), dtype=torch.uint8)
    facts = make_facts(40, frames=60, width=16, height=16)
    transform = TurnTransform(base=ContrastTransform.cstp(16, skip=0.0, **base), tilt=0.0)
    for device in (None, CPU):
        levels = (views_of(transform, facts, frames, False, 0, device) * 255).round().byte()
        assert (levels[:, :, :1] == levels).all()
        which = (levels[:, :, :1] == frames).flatten(3).all(dim=-1)[:, 0]
        assert (which.sum(dim=1) == 1).all()
        assert which.sum(dim=0).min() > 5, "any of the three"


def test_values_that_cannot_be_are_refused():
    for options in ({"tilt": 60.0}, {"mirror": "never"}):
        with pytest.raises(ConfigError):
            TurnTransform(base=ContrastTransform.cstp(size=8), **options)
    with pytest.raises(ConfigError, match="as they are"):
        TurnTransform(base=ContrastTransform.dual(size=8))
    with pytest.raises(ConfigError, match="gray_mode"):
        ContrastTransform(gray_mode="red")
