from __future__ import annotations

import math

import pytest
import torch

from rhyme.training import CollapseAlarm, effective_rank, embedding_std
from rhyme.training.monitors import watch


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


def test_monitors_survive_rows_that_are_not_finite():
    found = watch({"q": torch.full((4, 3), float("nan"))})
    assert math.isnan(found["rank/q"])


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


def test_alarm_counts_on_from_its_state():
    alarm, later = CollapseAlarm(0.1, 2), CollapseAlarm(0.1, 2)
    alarm.see({"std/q": 0.0})
    later.load_state_dict(alarm.state_dict())
    assert later.see({"std/q": 0.0}) == ["q"]
