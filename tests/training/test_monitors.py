from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rhyme.memory import MomentumEncoder
from rhyme.training import CollapseAlarm, effective_rank, embedding_std
from rhyme.training.monitors import key_distances, median_sine, watch


def test_std_of_an_even_spread_is_one_over_root_d():
    rows = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    assert float(embedding_std(rows)) * 8 == pytest.approx(1.0, abs=0.02)


def test_std_of_a_collapse_is_zero_whatever_the_length():
    rows = torch.ones(32, 16) * torch.arange(1, 33)[:, None]
    assert float(embedding_std(rows)) == pytest.approx(0.0, abs=1e-6)


def test_std_by_hand():
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert float(embedding_std(rows)) == pytest.approx(0.5)


def test_effective_rank():
    assert float(effective_rank(torch.eye(8))) == pytest.approx(8.0, rel=1e-5)
    assert float(effective_rank(torch.ones(9, 4))) == pytest.approx(1.0, abs=1e-2)
    # Singular values 2, 1, 1 after normalisation of the rows.
    rows = torch.tensor([[1.0, 0, 0]] * 4 + [[0, 1.0, 0], [0, 0, 1.0]])
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert float(effective_rank(rows)) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_median_sine():
    rows = torch.randn(256, 4096, generator=torch.Generator().manual_seed(0))
    assert float(median_sine(rows)) == pytest.approx(1.0, abs=1e-3)
    angles = torch.tensor([0.0, math.pi / 6, math.pi / 2])  # pairs are 30, 60 and 90 degrees apart
    fan = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [-3.0], [2.0]])
    assert float(median_sine(fan)) == pytest.approx(math.sin(math.pi / 3), abs=1e-6)


def test_median_sine_is_root_two_of_a_small_spread_and_blind_to_a_few_rows():
    generator = torch.Generator().manual_seed(0)
    rows = torch.ones(512, 64) + 0.1 * torch.randn(512, 64, generator=generator)
    spread = float(embedding_std(rows)) * 8
    assert float(median_sine(rows)) == pytest.approx(2**0.5 * spread, rel=0.05)
    rows[::5] = torch.randn(103, 64, generator=generator)
    assert float(embedding_std(rows)) * 8 > 5 * spread
    assert float(median_sine(rows)) < 2 * spread


def test_median_sine_reads_evenly_spaced_rows_of_a_large_batch():
    rows = torch.eye(3).repeat_interleave(400, dim=0)
    found = float(median_sine(rows))
    assert found == pytest.approx(float(median_sine(rows[::3])))
    assert found == pytest.approx(1.0)


def test_monitors_survive_rows_that_are_not_finite():
    found = watch({"q": torch.full((4, 3), float("nan"))})
    assert math.isnan(found["rank/q"])
    assert math.isnan(found["sine/q"])
    assert CollapseAlarm(0.1, 1).see(found) == []


def test_alarm_rings_once_after_its_rows_and_again_after_recovery():
    alarm = CollapseAlarm(0.1, 3)
    values = [0.05, 0.05, 0.05, 0.05, 0.9, 0.01, 0.01, 0.01]
    rang = [bool(alarm.see({"std/q": v, "rank/q": 5.0})) for v in values]
    assert rang == [False, False, True, False, False, False, False, True]


def test_alarm_rings_for_a_line_both_ends_of_which_are_taken():
    rows = torch.where(torch.arange(16)[:, None] % 2 == 0, 1.0, -1.0) * torch.ones(16, 8)
    monitors = watch({"q": rows})
    assert monitors["std/q"] == pytest.approx(1.0)
    assert CollapseAlarm(0.1, 1).see(monitors) == ["q"]
    assert watch({"one": torch.ones(1, 8)}) == {}, "one row has no spread"


@pytest.mark.parametrize("seed", range(5))
def test_alarm_rings_for_a_point_of_which_a_norm_keeps_the_spread(seed):
    """All rows but a few are one, and each dimension is brought back to variance 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = 0.005 * torch.randn(128, 64, generator=generator)
    rows[:12] += torch.ones(64) + 0.8 * torch.randn(12, 64, generator=generator)
    monitors = watch({"q": (rows - rows.mean(dim=0)) / rows.std(dim=0)})
    assert monitors["std/q"] > 0.3
    assert monitors["rank/q"] > 3
    assert CollapseAlarm(0.1, 1).see(monitors) == ["q"]
    assert CollapseAlarm(0, 1).see(monitors) == [], "a limit of 0 is none"


@pytest.mark.parametrize("spread", [0.12, 0.3, 1.0, 10.0])
def test_alarm_is_silent_where_all_rows_make_the_spread(spread):
    """However narrow they lie, as in the first steps of a contrast from random weights."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.ones(128, 64) + spread * torch.randn(128, 64, generator=generator)
    assert CollapseAlarm(0.1, 1).see(watch({"q": rows})) == []


def test_alarm_is_silent_for_a_line_that_rows_leave_in_few_directions():
    """Four directions in equal shares: few, and none of them a point."""
    rows = torch.eye(4, 64).repeat(32, 1)
    assert CollapseAlarm(0.1, 1).see(watch({"q": rows})) == []


def test_alarm_counts_on_from_its_state():
    alarm, later = CollapseAlarm(0.1, 2), CollapseAlarm(0.1, 2)
    hidden = {"std/q": 0.5, "rank/q": 9.0, "sine/q": 0.1}
    alarm.see(hidden)
    later.load_state_dict(alarm.state_dict())
    assert later.see(hidden) == ["q"]


def test_the_log_tells_how_far_the_keys_encoder_is_behind():
    system = nn.Module()
    assert key_distances(system) == {}
    system.pair = MomentumEncoder(nn.Linear(3, 2), 0.9)
    assert key_distances(system) == {"key_distance": 0.0}
    with torch.no_grad():
        for p in system.pair.module.parameters():
            p.mul_(0.75)
    assert key_distances(system)["key_distance"] == pytest.approx(0.25)
    system.other = MomentumEncoder(nn.Linear(3, 2), 0.9)
    assert key_distances(system) == {
        "key_distance/pair": pytest.approx(0.25),
        "key_distance/other": 0.0,
    }
