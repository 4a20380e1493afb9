from __future__ import annotations

import math

import pytest

from rhyme.training import ScheduleConfig, TrainConfig, learning_rate, steps_of


def rate(step, base=0.06, steps=200, per_epoch=10.0, **options):
    return learning_rate(ScheduleConfig(**options), base, step, steps, per_epoch)


@pytest.mark.parametrize("step", [0, 1, 57, 100, 199])
def test_cosine_per_step(step):
    assert rate(step) == pytest.approx(0.03 * (1 + math.cos(math.pi * step / 200)), abs=1e-15)


@pytest.mark.parametrize("step", [0, 9, 10, 57, 199])
def test_cosine_per_epoch_is_flat_within_an_epoch(step):
    epoch = step // 10
    expected = 0.03 * (1 + math.cos(math.pi * epoch / 20))
    assert rate(step, per="epoch") == pytest.approx(expected, abs=1e-15)


def test_warmup_is_linear_and_joins_the_cosine():
    assert [rate(s, warmup_steps=4, base=0.8) for s in range(5)] == pytest.approx(
        [0.0, 0.2, 0.4, 0.6, 0.8]
    )
    expected = 0.4 * (1 + math.cos(math.pi * (102 - 4) / 196))
    assert rate(102, warmup_steps=4, base=0.8) == pytest.approx(expected)
    assert rate(1, warmup_steps=4, warmup_lr=0.4, base=0.8) == pytest.approx(0.5)


def test_warmup_in_epochs():
    assert rate(5, warmup_epochs=2.0) == pytest.approx(0.06 * 5 / 20)
    assert rate(15, warmup_epochs=2.0, per="epoch") == pytest.approx(0.06 * 10 / 20)
    assert rate(20, warmup_epochs=2.0) == pytest.approx(0.06)


def test_warmup_over_a_share_of_the_run():
    """CSTP: linear from 1e-5 over the first half, a cosine back to 1e-5 over the second."""
    shape = {"warmup_share": 0.5, "warmup_lr": 1e-5, "final_lr": 1e-5, "base": 0.09}
    assert rate(0, **shape) == pytest.approx(1e-5)
    assert rate(50, **shape) == pytest.approx((0.09 + 1e-5) / 2)
    assert rate(100, **shape) == pytest.approx(0.09)
    assert rate(150, **shape) == pytest.approx((0.09 + 1e-5) / 2)
    assert rate(200, **shape) == pytest.approx(1e-5)
    assert rate(50, steps=100, **shape) == pytest.approx(0.09), "of whatever length"


def test_final_rate():
    assert rate(200, final_lr=0.01) == pytest.approx(0.01)
    assert rate(100, final_lr=0.01) == pytest.approx(0.035)


def test_milestones_in_steps_and_epochs():
    by_step = {"name": "step", "milestones": (120, 160)}
    assert [rate(s, **by_step) for s in (0, 119, 120, 159, 160)] == pytest.approx(
        [0.06, 0.06, 0.006, 0.006, 0.0006]
    )
    by_epoch = {"name": "step", "milestones": (12, 16), "per": "epoch", "gamma": 0.5}
    assert [rate(s, **by_epoch) for s in (119, 120, 160)] == pytest.approx([0.06, 0.03, 0.015])


def test_constant():
    assert {rate(s, name="constant") for s in range(200)} == {0.06}


def test_epochs_of_a_broken_number_of_steps():
    # 10 batches an epoch, 3 a step: the epochs start with steps 0, 4, 7, 10.
    per_epoch = 10 / 3
    rates = [rate(s, steps=10, per="epoch", per_epoch=per_epoch) for s in range(10)]
    assert [rates.index(r) for r in dict.fromkeys(rates)] == [0, 4, 7]
    # 0.6 * 10 is not 6 in binary; the tenth epoch must still start with step 6.
    assert rate(6, steps=60, per="epoch", per_epoch=0.6) == pytest.approx(
        0.03 * (1 + math.cos(math.pi * 6 / 60))
    )


def test_a_run_ends_with_its_steps_or_its_epochs_whichever_are_fewer() -> None:
    def steps(**lengths: float | None) -> int:
        return steps_of(TrainConfig(**lengths), steps_per_epoch=2.5)

    assert steps(steps=7, epochs=None) == 7
    assert steps(steps=None, epochs=2) == 5
    assert steps(steps=None, epochs=3) == 8
    assert steps(steps=7, epochs=3) == 7
    assert steps(steps=9, epochs=0.1) == 1
