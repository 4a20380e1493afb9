"""Feature tables: the gate's video vector, statistics, selection."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rhyme.errors import DataError
from rhyme.tasks import FeatureTable, standardise


def table(n=5, f=4, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return FeatureTable(
        features=rng.normal(2.0, 3.0, size=(n, f, d)).astype(np.float32),
        times=np.tile(np.arange(f, dtype=np.float64), (n, 1)),
        index=np.arange(n),
        ids=np.arange(n, dtype=np.uint64) + 100,
        group=np.arange(n) // 2,
    )


def test_video_is_the_mean_of_normalised_standardised_frames():
    bank, held_out = table(9), table(5, seed=1)
    flat = bank.features.reshape(-1, 3).astype(np.float64)
    expected = []
    for item in held_out.features:
        frames = (item - flat.mean(0)) / flat.std(0)
        frames = frames / np.linalg.norm(frames, axis=1, keepdims=True)
        mean = frames.mean(0)
        expected.append(mean / np.linalg.norm(mean))
    assert held_out.video(bank.statistics()) == pytest.approx(np.array(expected), abs=1e-5)
    frames = held_out.frames(bank.statistics())
    assert frames.shape == (20, 3)
    assert np.linalg.norm(frames, axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert held_out.repeated(held_out.group).tolist() == [0] * 8 + [1] * 8 + [2] * 4


def test_dead_features_stay_quiet():
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    features[:, 1] = 0.125
    stats = standardise(features)
    out = stats.apply(features)
    assert out[:, 1] == pytest.approx(np.zeros(50), abs=1e-6)
    assert out[:, 0].std() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(DataError, match="no features"):
        standardise(features[:0])


def test_select_and_checks():
    t = table()
    picked = t.select([3, 1])
    assert picked.ids.tolist() == [103, 101]
    assert (picked.features == t.features[[3, 1]]).all()
    assert t.select(t.group == 1).index.tolist() == [2, 3]
    with pytest.raises(DataError, match="not finite"):
        FeatureTable(
            features=np.full((1, 1, 2), np.nan, np.float32),
            times=np.zeros((1, 1)),
            index=np.zeros(1, np.int64),
            ids=np.zeros(1, np.uint64),
            group=np.zeros(1, np.int64),
        )
    with pytest.raises(DataError, match="length"):
        FeatureTable(
            features=t.features, times=t.times, index=t.index[:2], ids=t.ids, group=t.group
        )


def test_moments_leave_out_frames_that_an_item_repeats():
    t = table(n=3, f=4)
    assert t.moments.tolist() == list(range(12))
    times = np.array([[0, 1, 2, 3], [5, 5, 5, 5], [0, 0, 1, 1]], dtype=np.float64)
    short = dataclasses.replace(t, times=times)
    assert short.moments.tolist() == [0, 1, 2, 3, 4, 8, 10]
    assert short.frames()[short.moments].shape == (7, 3)
