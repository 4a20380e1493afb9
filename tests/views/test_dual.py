"""The transform of the clip family: a crop of a resized frame, colours kept or changed together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rhyme.errors import ConfigError
from rhyme.views import Clip, ClipPixels, ContrastTransform, Keys, ViewPlan, ViewSpec, apply_points
from rhyme.views.crops import resized

CPU = torch.device("cpu")
PLAIN = {"jitter": 0.0, "blur": 0.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def drawn(transform, facts, consistent="clip", frames=4):
    plan = ViewPlan(
        clips={"a": Clip(frames=frames)},
        views={"x": ViewSpec(clip="a", transform=transform, consistent=consistent)},
    )
    return plan, plan.draw(facts, Keys.of(7, 0, facts.id))


def test_the_preset_is_the_published_one():
    transform = ContrastTransform.dual()
    assert (transform.size, transform.resize) == (112, (128, 171))
    assert (transform.flip, transform.gray, transform.solarize, transform.skip) == (0, 0, 0, 0)
    assert transform.jitter == pytest.approx(0.64)
    assert transform.blur_sigma == (0.1, 2.0)
    assert ContrastTransform.dual(weak=True).skip == 0.2
    assert ContrastTransform.dual(size=24).resize == (27, 37)
    with pytest.raises(ConfigError, match="smaller than the crop"):
        ContrastTransform.dual(size=64, resize=(60, 90))
    with pytest.raises(ConfigError, match="skip"):
        ContrastTransform.dual(skip=1.2)


def test_shares_of_jitter_blur_and_both_skipped_together(make_facts):
    facts = make_facts(b=20000)
    weak = drawn(ContrastTransform.dual(weak=True), facts)[1].views["x"].parameters
    strong = drawn(ContrastTransform.dual(), facts)[1].views["x"].parameters
    for name, share in (("jitter", 0.64), ("sigma", 0.5)):
        assert abs((strong[name] > 0).mean() - share) < 0.012
        assert abs((weak[name] > 0).mean() - 0.8 * share) < 0.012
        assert not ((weak[name] > 0) & ~(strong[name] > 0)).any()  # the same coins otherwise
    neither = ~weak["jitter"] & (weak["sigma"] == 0)
    assert abs(neither.mean() - (0.2 + 0.8 * 0.36 * 0.5)) < 0.012
    assert 0.2 <= strong["brightness"].min() < 0.22
    assert 1.78 < strong["brightness"].max() <= 1.8
    assert np.abs(strong["hue"]).max() == pytest.approx(0.2, abs=0.001)


@pytest.mark.parametrize("device", [None, CPU])
@pytest.mark.parametrize("consistent", ["clip", "frame"])
def test_a_crop_is_cut_from_the_resized_frame_wherever_it_lies(make_facts, device, consistent):
    transform = ContrastTransform.dual(size=16, flip=0.5, **PLAIN)
    facts = make_facts(b=5, width=60, height=45)
    plan, draws = drawn(transform, facts, consistent)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (5, 4, 3, 45, 60), dtype=torch.uint8, generator=generator)
    view = plan.apply({"a": ClipPixels(frames=frames)}, draws, device)["x"]
    parameters = draws.views["x"].parameters
    corners = set()
    for i in range(5):
        for k in range(4):
            j = 0 if consistent == "clip" else k
            top, left = parameters["box"][i, j].tolist()
            corners.add((top, left))
            whole = resized(frames[i, k : k + 1], 18, 24, "bilinear")[0]
            cut = whole[:, top : top + 16, left : left + 16]
            cut = cut.flip(-1) if parameters["flip"][i, j] else cut
            apart = (view.data[i, k] * 255 - cut.float()).abs()
            assert apart.max() <= (1e-3 if device is None else 1.001)
    assert len(corners) > (3 if consistent == "clip" else 10)
    assert {top for top, _ in corners} <= {0, 1, 2}
    assert {left for _, left in corners} <= set(range(9))


def test_maps_lead_to_pixels_of_the_original_also_from_smaller_copies(make_facts):
    """Pixels that tell their place, seen through the view and through its map."""
    transform = ContrastTransform.dual(size=16, flip=0.5, **PLAIN)
    facts = make_facts(b=6, width=240, height=135)
    plan, draws = drawn(transform, facts)
    across = torch.arange(240).expand(135, 240)
    down = torch.arange(135)[:, None].expand(135, 240)
    picture = torch.stack([across, down, down]).byte()
    small = resized(picture[None], 45, 80, "bilinear")[0]
    maps = []
    for frame in (picture, small):
        pixels = ClipPixels(frames=frame.expand(6, 4, *frame.shape))
        view = plan.apply({"a": pixels}, draws)["x"]
        maps.append(view.map)
        middle = torch.tensor([[7.5, 7.5], [3.0, 12.0]])
        for i in range(6):
            points = apply_points(view.map[i, 0], middle)
            levels = view.data[i, 0] * 255
            seen = torch.stack([levels[:2, 7:9, 7:9].mean((1, 2)), levels[:2, 12, 3]])
            assert (seen - points).abs().max() < 2.0
    assert torch.equal(*maps)


def test_a_view_without_pixels_of_its_size_is_drawn_for_whatever_comes(make_facts):
    """Frames of different sizes share a batch: each is scaled whole."""
    transform = ContrastTransform.dual(size=16)
    facts = make_facts(b=3)
    plan, draws = drawn(transform, facts)
    frames = [
        torch.full((4, 3, h, w), 90, dtype=torch.uint8) for h, w in ((30, 40), (18, 24), (90, 50))
    ]
    for device in (None, CPU):
        view = plan.apply({"a": ClipPixels(frames=frames)}, draws, device)["x"]
        assert view.data.shape == (3, 4, 3, 16, 16)
        assert view.data.std(dim=(1, 3, 4)).max() < 1e-5
