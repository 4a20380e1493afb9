from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rhyme.catalog import scan
from rhyme.errors import ConfigError, TruncatedMedia
from rhyme.loading import FrameCache, inference_batches
from rhyme.loading.decode import Readers
from rhyme.loading.inference import _clip_times
from rhyme.views import EvalTransform, clip_sampling


@dataclass(frozen=True, kw_only=True)
class Plan:
    size: int = 24
    resize: int = 24
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    frames: int = 1
    spacing: float = 0.0
    stride: int = 0
    aspect: float | None = None
    interpolation: str = "bilinear"


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


@pytest.mark.parametrize("held", [1, 3, 1000])
def test_clips_are_made_in_groups_of_few_frames_and_are_the_same(catalog, monkeypatch, held):
    """Many moments of one film, unordered and repeated: few frames at a time, each decoded once."""
    plan = Plan(frames=4, spacing=0.2, size=16, resize=20, mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)
    moments = [(5, 1.3), (0, 0.0), (5, 0.2), (5, 0.4), (5, 1.3), (0, 1.9), (5, 0.8), (5, 5.0)]
    monkeypatch.setattr("rhyme.loading.decode.HELD", held * 3 * 32 * 40)
    asked, read = [], Readers.frames

    def noted(readers, row, times):
        asked.append((row, np.array(times)))
        return read(readers, row, times)

    monkeypatch.setattr(Readers, "frames", noted)
    found = joined(inference_batches(catalog, plan, moments=moments, batch_size=8))
    made, asked = asked, []
    monkeypatch.setattr(Readers, "frames", read)

    readers = Readers(catalog)
    transform = EvalTransform(size=16, resize=20, mean=plan.mean, std=plan.std)
    rows, times = np.array([row for row, _ in moments]), np.array([time for _, time in moments])
    wanted = _clip_times(catalog, plan, rows, times)
    for place, row in enumerate(rows):
        frames, shown = readers.frames(int(row), wanted[place])
        expected, _ = transform.apply(frames[None], {}, np.array([[32, 40]]))
        assert torch.equal(found[0][place], expected[0])
        assert found[1][place] == row
        assert found[2][place] == shown[2]
    readers.close()

    assert max(len(times) for _, times in made) <= held
    for row in (0, 5):
        times = np.concatenate([times for one, times in made if one == row])
        assert times.tolist() == np.unique(wanted[rows == row]).tolist()


def test_a_film_that_ends_early_costs_its_own_clips_alone(catalog, monkeypatch):
    """The first groups of its frames are made before the one that fails."""
    whole = joined(inference_batches(catalog.select([0, 2]), Plan(), frames_per_item=3))
    monkeypatch.setattr("rhyme.loading.decode.HELD", 3 * 32 * 40)
    read = Readers.frames

    def fails_late(readers, row, times):
        if row == 1 and max(times) > 1.0:
            raise TruncatedMedia("the pictures end")
        return read(readers, row, times)

    monkeypatch.setattr(Readers, "frames", fails_late)
    failed: dict[int, str] = {}
    some = catalog.select(np.arange(3))
    pixels, rows, times = joined(inference_batches(some, Plan(), frames_per_item=3, failed=failed))
    assert rows.tolist() == [0, 0, 0, 2, 2, 2]
    assert torch.equal(pixels, whole[0])
    assert torch.equal(times, whole[2])
    assert list(failed) == [1]


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
