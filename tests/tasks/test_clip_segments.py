"""Variance within items, coherence of clips, and orders that move all: against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rhyme.errors import DataError
from rhyme.objectives import calibrate_segments, segment_accuracy
from rhyme.tasks.clip_segments import clip_coherence, intra_variance, other_orders


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def test_coherence_is_the_mean_over_all_pairs() -> None:
    segments, groups = unit(5, 3, 2, 4), np.array([7, 7, 2, 3, 3])
    similar: dict[bool, list[float]] = {True: [], False: []}
    for i, j in itertools.product(range(5), repeat=2):
        for f, g in itertools.product(range(3), repeat=2):
            pair = np.mean([x @ y for x in segments[i, f] for y in segments[j, g]])
            if i == j and f != g:
                similar[True].append(float(pair))
            elif groups[i] != groups[j]:
                similar[False].append(float(pair))
    found = clip_coherence(segments, groups)
    assert found.positive == pytest.approx(np.mean(similar[True]), abs=1e-12)
    assert found.negative == pytest.approx(np.mean(similar[False]), abs=1e-12)
    assert found.margin == found.positive - found.negative
    with pytest.raises(DataError, match="two groups"):
        clip_coherence(segments, np.zeros(5, dtype=np.int64))
    with pytest.raises(DataError, match="two clips"):
        clip_coherence(segments[:, :1], groups)


def test_variance_within_items() -> None:
    apart = np.repeat(unit(6, 1, 4), 3, axis=1)
    assert intra_variance(apart) == pytest.approx(0, abs=1e-12)
    alike = np.repeat(unit(1, 3, 4), 6, axis=0)
    assert intra_variance(alike) == pytest.approx(1, abs=1e-12)
    mixed = unit(6, 3, 4)
    within = np.mean([np.mean([(x - item.mean(0)) @ (x - item.mean(0)) for x in item])
                      for item in mixed])  # fmt: skip
    flat = mixed.reshape(-1, 4)
    total = np.mean([(x - flat.mean(0)) @ (x - flat.mean(0)) for x in flat])
    assert intra_variance(5 * mixed) == pytest.approx(within / total, abs=1e-12)
    for f in (2, 4):  # clips that have nothing to do with their items
        alike = intra_variance(unit(4000, f, 4))
        assert alike == pytest.approx((f - 1) / f, abs=0.01)
    with pytest.raises(DataError, match="the same"):
        intra_variance(np.ones((3, 2, 4)))


@pytest.mark.parametrize("s", [2, 3, 5])
def test_every_order_moves_every_segment(s: int) -> None:
    ids = np.arange(300, dtype=np.uint64)
    found = other_orders(ids, s, seed=1)
    assert (np.sort(found, axis=1) == np.arange(s)).all()
    assert (found != np.arange(s)).all()
    count = len(np.unique(found, axis=0))
    assert count == math.factorial(s - 1), "all cyclic permutations occur"
    fixed = np.random.default_rng(0).normal(size=(1, s, 8)).repeat(len(ids), axis=0)
    blind = torch.nn.functional.normalize(torch.from_numpy(fixed), dim=-1)
    back = calibrate_segments(blind, torch.from_numpy(found))
    assert segment_accuracy(blind, back).max() == 0, "a head that ignores its input is never right"
    assert (other_orders(ids[100:], s, seed=1) == found[100:]).all()
    if s > 2:
        assert (other_orders(ids, s, seed=2) != found).any()
    with pytest.raises(DataError, match="single"):
        other_orders(ids, 1, seed=0)
