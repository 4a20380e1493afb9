import dataclasses

import pytest
import torch

from benchmarks.ratio import Case, WrongResult, compare, peak_mib, seconds, told


def never_wrong(ours, peer):
    return None


class Sides:
    """Two sides that say how long they took, and write down in which order they were called."""

    def __init__(self, ours, peer):
        self.calls = []
        self.times = {"ours": iter(ours), "peer": iter(peer)}

    def case(self, **changes) -> Case:
        def side(name):
            def call():
                self.calls.append(name)
                return next(self.times[name]), name

            return call

        case = Case(
            name="fake/case",
            ours=side("ours"),
            peer=side("peer"),
            peer_name="the other",
            same=never_wrong,
            at_least=1.5,
            why="as stated",
            cause="known",
            measure=told,
        )
        return dataclasses.replace(case, **changes)


def test_ratio_is_of_the_medians_and_the_spread_of_single_turns():
    # The first time of each side is the warm-up and must not count.
    sides = Sides([100.0, 1.0, 2.0, 3.0, 2.0, 2.0], [900.0, 6.0, 6.0, 4.0, 5.0, 9.0])
    row = compare(sides.case())
    assert row.medians == {"ours": 2.0, "peer": 6.0}
    assert row.ratio == 3.0
    assert row.spread == (pytest.approx(4 / 3, abs=1e-4), 6.0)
    assert row.met
    assert row.note == ""
    assert row.expectation == {"at_least": 1.5, "why": "as stated"}


def test_sides_take_turns():
    sides = Sides([1.0] * 6, [1.0] * 6)
    compare(sides.case())
    assert sides.calls == ["ours", "peer"] * 6


def test_a_miss_is_a_row_with_its_cause():
    row = compare(Sides([1.0] * 6, [1.4] * 6).case())
    assert not row.met
    assert row.note == "known"


def test_sides_that_disagree_are_not_timed():
    def same(ours, peer):
        raise WrongResult(f"{ours} is not {peer}")

    sides = Sides([1.0] * 6, [1.0] * 6)
    with pytest.raises(WrongResult, match="ours is not peer"):
        compare(sides.case(same=same))
    assert sides.calls == ["ours", "peer"]


def test_another_combination_of_the_two_values():
    sides = Sides([1.0] * 6, [99.0] * 6)
    row = compare(sides.case(combine=lambda ours, peer: peer / (peer + ours), at_least=0.98))
    assert row.ratio == 0.99
    assert row.met


def test_threads_are_set_for_the_case_and_put_back():
    before = torch.get_num_threads()
    seen = []
    other = 1 if before > 1 else 2

    def side():
        seen.append(torch.get_num_threads())
        return 1.0, None

    row = compare(Sides([], []).case(ours=side, peer=side, threads=other))
    assert set(seen) == {other}
    assert row.threads == other
    assert torch.get_num_threads() == before


def test_seconds_reads_the_clock_around_the_call():
    ticks = iter([5.0, 7.5])
    assert seconds(lambda: "done", clock=lambda: next(ticks)) == (2.5, "done")


def test_peak_counts_what_is_held_at_once():
    def one_after_another():
        for _ in range(3):
            torch.zeros(2**18)  # 1 MiB, dropped at once

    def together():
        return [torch.zeros(2**18) for _ in range(3)]

    assert peak_mib(one_after_another)[0] == pytest.approx(1.0, abs=0.1)
    assert peak_mib(together)[0] == pytest.approx(3.0, abs=0.1)
