from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rhyme.catalog import scan
from rhyme.errors import ConfigError
from rhyme.loading import FrameCache, inference_batches
from rhyme.views import clip_sampling


@dataclass(frozen=True, kw_only=True)
class Plan:
    size: int = 24
    resize: int = 24
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    frames: int = 1
    spacing: float = 0.0
    stride: int = 0


def joined(batches):
    return [torch.cat(column) for column in zip(*batches, strict=True)]


def test_equally_spaced_moments_in_catalog_order(catalog, read_labels):
    batches = list(inference_batches(catalog, Plan(), frames_per_item=4, batch_size=7))
    assert [len(b.pixels) for b in batches] == [7] * 6 + [6]
    pixels, rows, times = joined(batches)
    assert pixels.shape == (48, 1, 3, 24, 24)
    frames, items = read_labels(pixels[:, 0])
    assert rows.tolist() == items.tolist() == np.repeat(np.arange(12), 4).tolist()
    assert frames.tolist() == [0, 5, 10, 15] * 12
    assert times.tolist() == [0, 5 / 8, 10 / 8, 15 / 8] * 12


def test_a_moment_every_so_many_seconds(catalog, read_labels):
    pixels, rows, _ = joined(inference_batches(catalog, Plan(), every=0.5))
    frames, _ = read_labels(pixels[:, 0])
    assert frames.tolist() == [2, 6, 10, 14] * 12
    assert rows.tolist() == np.repeat(np.arange(12), 4).tolist()
    pixels, rows, times = joined(inference_batches(catalog, Plan(), every=60.0))
    assert rows.tolist() == list(range(12))
    assert times.tolist() == [1.0] * 12


def test_explicit_moments_keep_their_order(catalog, read_labels):
    moments = [(5, 1.3), (0, 0.0), (5, 0.2)]
    pixels, rows, _ = joined(inference_batches(catalog, Plan(), moments=moments))
    frames, items = read_labels(pixels[:, 0])
    assert rows.tolist() == items.tolist() == [5, 0, 5]
    assert frames.tolist() == [10, 0, 1]
    with pytest.raises(ConfigError, match="row"):
        inference_batches(catalog, Plan(), moments=[(12, 0.0)])


def test_clips_are_centred_and_stay_inside_the_item(catalog, read_labels):
    plan = Plan(frames=4, spacing=0.25)
    pixels, _, times = joined(inference_batches(catalog, plan, frames_per_item=3))
    frames, _ = read_labels(pixels)
    assert frames[:3].tolist() == [[0, 0, 0, 2], [4, 6, 8, 10], [11, 13, 15, 15]]
    assert times[:3].tolist() == [0.0, 1.0, 15 / 8]
    native, _, _ = joined(inference_batches(catalog, Plan(frames=4, stride=2), frames_per_item=3))
    assert torch.equal(native, pixels)
    neighbours, _, _ = joined(inference_batches(catalog, Plan(frames=4), frames_per_item=3))
    frames, _ = read_labels(neighbours)
    assert frames[:3].tolist() == [[0, 0, 0, 1], [6, 7, 8, 9], [13, 14, 15, 15]]


def test_clips_of_a_published_rule(catalog, read_labels):
    clips = clip_sampling("tiled+last", frames=3, stride=4).of(catalog.facts())
    pixels, rows, _ = joined(inference_batches(catalog, Plan(), clips=clips, batch_size=5))
    frames, items = read_labels(pixels)
    assert rows.tolist() == clips.rows.tolist()
    assert frames.tolist() == clips.index.tolist()
    assert frames[:2].tolist() == [[0, 4, 8], [7, 11, 15]]
    assert (items == rows.numpy()[:, None]).all()


@pytest.mark.slow
def test_workers_give_the_same_pixels(catalog):
    here = joined(inference_batches(catalog, Plan(), batch_size=10))
    there = joined(inference_batches(catalog, Plan(), batch_size=10, workers=2))
    for one, two in zip(here, there, strict=True):
        assert torch.equal(one, two)


def test_a_cache_gives_the_same_pixels(catalog):
    here = joined(inference_batches(catalog, Plan(), batch_size=10))
    cache = FrameCache.build(catalog, 4)
    cached = joined(inference_batches(catalog, Plan(), batch_size=10, cache=cache))
    for one, two in zip(here, cached, strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ConfigError, match="cache"):
        inference_batches(catalog, Plan(frames=2), cache=cache)
    clips = clip_sampling("linspace10", frames=1, stride=1).of(catalog.facts())
    with pytest.raises(ConfigError, match="cache"):
        inference_batches(catalog, Plan(), clips=clips, cache=cache)
    with pytest.raises(ConfigError, match="not two"):
        inference_batches(catalog, Plan(), clips=clips, every=1.0)


def test_damaged_items_are_left_out_and_named(own_folder):
    catalog = scan(own_folder)
    (own_folder / "v02.mp4").unlink()
    failed: dict[int, str] = {}
    batches = inference_batches(catalog, Plan(), frames_per_item=2, batch_size=3, failed=failed)
    _, rows, _ = joined(batches)
    assert rows.tolist() == np.repeat([0, 1, 3, 4, 5, 6, 7, 8], 2).tolist()
    assert list(failed) == [2]
    assert "gone" in failed[2]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"every": 0.0}, {"frames_per_item": 0}])
def test_impossible_options_are_refused(catalog, options):
    with pytest.raises(ConfigError):
        inference_batches(catalog, Plan(), **options)
