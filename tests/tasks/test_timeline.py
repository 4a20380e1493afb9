"""Features along a whole video: windows, items of one file, strides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rhyme.catalog import scan
from rhyme.encoders import Features, InferencePlan
from rhyme.errors import ConfigError
from rhyme.synthetic import WorldConfig, write_world
from rhyme.tasks import Window, timelines, video_features
from rhyme.tasks.timeline import _windows

PLAN = InferencePlan(size=8, resize=8, mean=(0, 0, 0), std=(1, 1, 1), frames=4, spacing=0.25)


class Colours(nn.Module):
    """A clip encoder whose feature is the mean colour of every frame of its clip, in order."""

    reads_clips = True

    def forward(self, clips: torch.Tensor) -> Features:
        assert clips.ndim == 5
        x = clips.mean(dim=(3, 4)).flatten(1)
        return Features(pooled=x, parts={"first": x[:, :3]})


class OneFrame(nn.Module):
    def forward(self, frames: torch.Tensor) -> Features:
        return Features(pooled=frames.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long") / "world"
    write_world(WorldConfig(videos=2, untrimmed=2, size=24, sound=False, truth="labels"), folder)
    return folder


def frame_colours(catalog, video) -> np.ndarray:
    """The mean colour of every frame, one at a time."""
    window = Window(frames=1, stride=1)
    rows = video_features(OneFrame(), PLAN, catalog, video, window)["pooled"]
    assert len(rows) == len(video)
    return rows


def test_a_window_is_centred_and_stays_inside(world) -> None:
    catalog = scan(world, segment=None)
    video = max(timelines(catalog, np.arange(len(catalog))), key=len)
    single = frame_colours(catalog, video)
    # a quarter of a second at 8 frames a second are two frames
    found = video_features(Colours(), PLAN, catalog, video, batch_size=7)
    at = np.clip(np.arange(len(video))[:, None] + [-4, -2, 0, 2], 0, len(video) - 1)
    assert np.allclose(found["pooled"], single[at].reshape(len(video), -1), atol=1e-6)
    assert np.array_equal(found["first"], found["pooled"][:, :3])
    wide = video_features(Colours(), PLAN, catalog, video, Window(frames=3, stride=5, every=4))
    at = np.clip(np.arange(0, len(video), 4)[:, None] + [-5, 0, 5], 0, len(video) - 1)
    assert np.allclose(wide["pooled"], single[at].reshape(len(at), -1), atol=1e-6)


def test_a_frame_encoder_averages_its_window(world) -> None:
    catalog = scan(world, segment=None)
    video = timelines(catalog, np.arange(len(catalog)))[0]
    single = frame_colours(catalog, video)
    found = video_features(OneFrame(), PLAN, catalog, video, Window(frames=3, stride=1))["pooled"]
    at = np.clip(np.arange(len(video))[:, None] + [-1, 0, 1], 0, len(video) - 1)
    assert np.allclose(found, single[at].mean(axis=1), atol=1e-6)


def test_items_of_one_file_are_one_video(world) -> None:
    whole, cut = scan(world, segment=None), scan(world, segment=5.0)
    assert len(cut) > len(whole)
    rows = np.random.default_rng(0).permutation(len(cut))
    before = {v.path: v for v in timelines(whole, np.arange(len(whole)))}
    after = {v.path: v for v in timelines(cut, rows)}
    assert before.keys() == after.keys()
    for path, video in before.items():
        assert np.array_equal(after[path].numbers, video.numbers)
    path = max(before, key=lambda p: len(before[p]))
    assert len(after[path].rows) > 2
    one = video_features(Colours(), PLAN, whole, before[path])["pooled"]
    other = video_features(Colours(), PLAN, cut, after[path])["pooled"]
    assert np.allclose(one, other, atol=1e-6), "windows reach over the borders of items"


@pytest.mark.parametrize("every", [1, 3, 90])
@pytest.mark.parametrize("offsets", [[0], [-6, 0, 6], [4, 9], [-80, -60]])
def test_windows_hold_few_frames_and_give_all(every, offsets) -> None:
    total, sizes = 101, [10, 1, 40, 50]
    held: list[int] = []

    def chunks():
        first = 0
        for size in sizes:
            yield torch.arange(first, first + size).float()[:, None]
            first += size
            held.append(first)

    found = torch.cat(list(_windows(chunks(), total, np.array(offsets), every, 4)))[..., 0]
    want = np.clip(np.arange(0, total, every)[:, None] + offsets, 0, total - 1)
    assert np.array_equal(found.numpy(), want)


def test_windows_that_cannot_be() -> None:
    for name in ("frames", "stride", "every"):
        with pytest.raises(ConfigError, match=name):
            Window(**{name: 0})
