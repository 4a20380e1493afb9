from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from rhyme.errors import CheckpointError, ConfigError, DataError
from rhyme.loading import BatchOrder

IDS = np.arange(50, dtype=np.uint64) * np.uint64(77777)


def order(**options) -> BatchOrder:
    return BatchOrder(**({"ids": IDS, "seed": 1, "batch_size": 8} | options))


def epoch_rows(o: BatchOrder, epoch: int) -> np.ndarray:
    return np.concatenate([o.rows(epoch, k)[0] for k in range(o.batches_per_epoch)])


def test_an_epoch_is_a_permutation_that_changes_with_seed_and_epoch():
    whole = order(drop_last=False)
    assert whole.batches_per_epoch == 7
    assert sorted(epoch_rows(whole, 0)) == list(range(50))
    assert not np.array_equal(epoch_rows(whole, 0), epoch_rows(whole, 1))
    other = order(drop_last=False, seed=2)
    assert not np.array_equal(epoch_rows(whole, 0), epoch_rows(other, 0))
    assert order().batches_per_epoch == 6
    assert np.array_equal(epoch_rows(order(), 3), epoch_rows(whole, 3)[:48])


def test_the_order_follows_the_items_not_their_place_in_the_table():
    shuffled = np.random.default_rng(0).permutation(50)
    first, second = order(), order(ids=IDS[shuffled])
    assert np.array_equal(IDS[epoch_rows(first, 2)], IDS[shuffled][epoch_rows(second, 2)])


def test_positions_go_on_from_what_was_handed_out():
    o = order()
    walk = list(itertools.islice(o.positions(), 8))
    assert walk == [(0, k) for k in range(6)] + [(1, 0), (1, 1)]
    assert (o.epoch, o.batch) == (0, 0)
    o.handed_out(0, 5)
    assert next(o.positions()) == (1, 0)


def test_weights_draw_in_proportion_and_count_repeats():
    weights = torch.ones(50)
    weights[7], weights[9] = 25.0, 0.0
    o = order(drop_last=False)
    o.set_weights(weights)
    drawn = np.concatenate([epoch_rows(o, epoch) for epoch in range(200)])
    share = np.bincount(drawn, minlength=50) / len(drawn)
    assert share[9] == 0
    assert abs(share[7] - 25 / 73) < 0.02
    assert abs(share[8] - 1 / 73) < 0.005
    rows = epoch_rows(o, 0)
    repeats = np.concatenate([o.rows(0, k)[1] for k in range(7)])
    for row in np.unique(rows):
        assert repeats[rows == row].tolist() == list(range((rows == row).sum()))


def test_weights_given_within_an_epoch_hold_from_the_next_one():
    o, plain = order(), order()
    weights = np.zeros(50)
    weights[3] = 1.0
    o.handed_out(0, 1)
    o.set_weights(weights)
    assert np.array_equal(o.rows(0, 2)[0], plain.rows(0, 2)[0])
    assert set(o.rows(1, 0)[0]) == {3}
    resumed = order()
    resumed.load_state_dict(o.state_dict())
    assert np.array_equal(resumed.rows(0, 2)[0], plain.rows(0, 2)[0])
    assert set(resumed.rows(1, 0)[0]) == {3}
    o.handed_out(0, 5)
    o.set_weights(np.ones(50))  # an epoch that has not begun takes the weights at once
    assert len(set(o.rows(1, 0)[0])) > 3


@pytest.mark.parametrize(
    "weights", [np.zeros(50), np.ones(49), np.full(50, np.nan), np.full(50, -1.0)]
)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(DataError):
        order().set_weights(weights)


def test_an_epoch_shorter_than_a_batch_says_what_would_fit():
    with pytest.raises(DataError) as error:
        order(batch_size=51)
    assert "at most 50" in str(error.value)
    with pytest.raises(ConfigError):
        order(batch_size=0)
    assert order(batch_size=51, drop_last=False).batches_per_epoch == 1


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"batch_size": 9}, {"fingerprint": "x"}, {"ids": IDS[:40]}]
)
def test_the_state_of_another_order_is_refused(change):
    with pytest.raises(CheckpointError, match=r"another one"):
        order(**change).load_state_dict(order().state_dict())
