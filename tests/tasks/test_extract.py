"""Features of a catalog: one pass for many encoders, unreadable items left out."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

from rhyme.catalog import scan
from rhyme.encoders import Features, InferencePlan
from rhyme.errors import DataError, EvaluationError, UnknownName
from rhyme.synthetic import WorldConfig, write_world
from rhyme.tasks import encode, extract_features, extract_many
from rhyme.views import clip_sampling

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

PLAN = InferencePlan(size=24, resize=24, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Means(nn.Module):
    """Mean of each channel, scaled; the first channel also as a part."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.calls = 0

    def forward(self, pixels):
        self.calls += 1
        pooled = pixels.mean(dim=(-1, -2)) * self.scale
        return Features(pooled=pooled, parts={"red": pooled[:, :1]})


class Clips(nn.Module):
    reads_clips = True

    def forward(self, pixels):
        return Features(pooled=pixels[:, 0].mean(dim=(-1, -2)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    write_world(
        WorldConfig(counts=(4, 1, 1), size=24, frames=8, sound=False, truth="labels"),
        folder / "data",
    )
    return folder


@pytest.fixture
def catalog(data, tmp_path):
    return scan(data / "data", out=tmp_path / "c.catalog")


def test_features_times_and_facts_of_every_item(catalog):
    table = extract_features(Means(), PLAN, catalog, frames_per_item=3, batch_size=5)
    assert table.features.shape == (6, 3, 3)
    assert table.index.tolist() == list(range(6))
    assert (table.ids == catalog.facts().id).all()
    assert (table.group == catalog.group_codes).all()
    assert (np.diff(table.times, axis=1) > 0).all()
    reader = catalog.reader(2)
    frames, _ = reader.read(table.times[2])
    reader.close()
    means = (frames.float().mean(dim=(-1, -2)) / 255 - 0.5) / 0.5
    assert table.features[2] == pytest.approx(means.numpy(), abs=1e-4)


def test_one_pass_serves_several_encoders(catalog):
    seen = []
    tables = extract_many(
        {"one": Means(), "twice": Means(2.0)},
        PLAN,
        catalog,
        frames_per_item=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert tables["twice"].features == pytest.approx(2 * tables["one"].features, abs=1e-6)
    assert seen[-1] == (12, 12)


@pytest.mark.parametrize("rule", ["linspace3", "half-overlap", "tiled+last"])
def test_whole_videos_are_the_mean_of_their_clips(catalog, rule):
    """Whatever the number of clips, and however they fall into batches."""
    sampling = clip_sampling(rule, frames=3, stride=1)
    clips = sampling.of(catalog.facts())
    seen = []
    table = extract_features(
        Clips(), PLAN, catalog, sampling=sampling, batch_size=7,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert table.features.shape == (6, 1, 3)
    assert seen[-1] == (len(clips), len(clips))
    reader = catalog.reader(4)
    mine = clips.index[clips.rows == 4]
    frames, _ = reader.read((mine[:, 0] + 0.5) / catalog.item(4).fps)
    reader.close()
    first = (frames.float().mean(dim=(-1, -2)) / 255 - 0.5) / 0.5
    assert len(mine) > 1
    assert table.features[4, 0] == pytest.approx(first.mean(dim=0).numpy(), abs=1e-4)
    of_frames = extract_features(Means(), PLAN, catalog, sampling=sampling)
    reader = catalog.reader(4)
    frames, _ = reader.read((mine.reshape(-1) + 0.5) / catalog.item(4).fps)
    reader.close()
    every = (frames.float().mean(dim=(-1, -2)) / 255 - 0.5) / 0.5
    assert of_frames.features[4, 0] == pytest.approx(every.mean(dim=0).numpy(), abs=1e-4)


def test_items_that_cannot_be_read_are_left_out(data, tmp_path):
    import shutil

    shutil.copytree(data / "data", tmp_path / "data")
    catalog = scan(tmp_path / "data", out=tmp_path / "c.catalog")
    (catalog.root / catalog.item(3).path).unlink()
    table = extract_features(Means(), PLAN, catalog, frames_per_item=2)
    assert table.left_out == (3,)
    assert table.index.tolist() == [0, 1, 2, 4, 5]
    ten = extract_features(Means(), PLAN, catalog, sampling=clip_sampling("linspace10", frames=1,
                           stride=1))  # fmt: skip
    assert ten.left_out == (3,)
    assert ten.index.tolist() == [0, 1, 2, 4, 5]
    for i in range(6):
        (catalog.root / catalog.item(i).path).unlink(missing_ok=True)
    with pytest.raises(DataError, match="no item"):
        extract_features(Means(), PLAN, catalog)


def test_parts_clips_and_frames():
    pixels = torch.rand(4, 3, 3, 6, 6)
    whole = encode(Means(), pixels)
    assert whole.shape == (4, 3)
    assert whole == pytest.approx(pixels.mean(dim=(1, 3, 4)), abs=1e-6)
    assert encode(Means(), pixels, "red") == pytest.approx(whole[:, :1], abs=1e-6)
    assert encode(Clips(), pixels) == pytest.approx(pixels[:, 0].mean(dim=(-1, -2)), abs=1e-6)
    with pytest.raises(UnknownName, match="no part 'blue'"):
        encode(Means(), pixels, "blue")
    with pytest.raises(EvaluationError, match="no Features"):
        encode(nn.Flatten(), pixels)
