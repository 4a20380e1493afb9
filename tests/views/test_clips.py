from __future__ import annotations

import numpy as np
import pytest

from rhyme.errors import ConfigError
from rhyme.views import Clip, Keys
from rhyme.views.facts import equally_spaced, frame_counts
from rhyme.views.placing import draw_clip, feasible


def keys_of(facts, epoch=0) -> Keys:
    return Keys.of(3, epoch, facts.id)


def test_times_are_the_middle_of_each_frame(make_facts):
    facts = make_facts(b=4, frames=10, fps=5.0, start=2.0)
    drawn = draw_clip(Clip(frames=3, stride=2), facts, keys_of(facts))
    assert np.array_equal(np.diff(drawn.index, axis=1), np.full((4, 2), 2))
    assert np.allclose(drawn.times, 2.0 + (drawn.index + 0.5) / 5.0)
    assert drawn.valid.all()


def test_random_places_cover_all_feasible_starts_evenly(make_facts):
    facts = make_facts(b=6000, frames=10)
    first = draw_clip(Clip(frames=4, stride=2), facts, keys_of(facts)).index[:, 0]
    counts = np.bincount(first, minlength=4)
    assert len(counts) == 4
    assert np.all(np.abs(counts - 1500) < 150)


@pytest.mark.parametrize(("fps", "expected"), [(30.0, 15), (24.0, 12), (8.0, 4), (2.0, 1)])
def test_spacing_in_seconds_follows_the_frame_rate(make_facts, fps, expected):
    facts = make_facts(b=5, frames=200, fps=fps)
    index = draw_clip(Clip(frames=3, spacing=0.5), facts, keys_of(facts)).index
    assert np.array_equal(np.diff(index, axis=1), np.full((5, 2), expected))


def test_spacing_that_is_no_whole_number_of_frames_does_not_drift(make_facts):
    facts = make_facts(b=1, frames=400, fps=29.97)
    index = draw_clip(Clip(frames=100, spacing=0.1), facts, keys_of(facts)).index[0]
    expected = np.floor(np.arange(100) * 0.1 * 29.97 + 0.5)
    assert np.array_equal(index - index[0], expected)


def test_uniform_takes_one_frame_of_each_segment_in_order(make_facts):
    facts = make_facts(b=2000, frames=16)
    index = draw_clip(Clip(frames=4, place="uniform"), facts, keys_of(facts)).index
    assert np.array_equal(index // 4, np.tile(np.arange(4), (2000, 1)))
    assert set(index[:, 2]) == {8, 9, 10, 11}


def test_grid_has_the_first_and_the_last_frame(make_facts):
    facts = make_facts(b=3, frames=[16, 5, 100])
    index = draw_clip(Clip(frames=4, place="grid"), facts, keys_of(facts)).index
    assert index.tolist() == [[0, 5, 10, 15], [0, 1, 3, 4], [0, 33, 66, 99]]
    assert equally_spaced(np.array([16]), 1).tolist() == [[7]]


def test_centre_is_the_same_for_every_key(make_facts):
    facts = make_facts(b=2, frames=11)
    rule = Clip(frames=3, stride=2, place="centre")
    for epoch in range(3):
        drawn = draw_clip(rule, facts, keys_of(facts, epoch))
        assert drawn.index.tolist() == [[3, 5, 7]] * 2


def test_sample_draws_different_frames_and_every_order(make_facts):
    facts = make_facts(b=6000, frames=3)
    index = draw_clip(Clip(frames=3, place="sample"), facts, keys_of(facts)).index
    assert np.array_equal(np.sort(index, axis=1), np.tile(np.arange(3), (6000, 1)))
    orders, counts = np.unique(index, axis=0, return_counts=True)
    assert len(orders) == 6
    assert np.all(np.abs(counts - 1000) < 130)


@pytest.mark.parametrize("rule", [Clip(exclude="a"), Clip(frames=3, place="sample", exclude="a")])
def test_an_excluded_frame_is_never_drawn_and_the_others_evenly(make_facts, rule):
    facts = make_facts(b=4000, frames=5)
    excluded = draw_clip(Clip(), facts, keys_of(facts).within("a")).index[:, 0]
    drawn = draw_clip(rule, facts, keys_of(facts).within("b"), excluded)
    assert not (drawn.index == excluded[:, None]).any()
    assert not drawn.coincides.any()
    distance = np.bincount((drawn.index[:, 0] - excluded) % 5, minlength=5)
    assert distance[0] == 0
    assert np.all(np.abs(distance[1:] - 1000) < 130)


def test_an_item_of_one_frame_falls_back_to_it_and_says_so(make_facts):
    facts = make_facts(b=3, frames=[1, 2, 1])
    excluded = np.zeros(3, dtype=np.int64)
    drawn = draw_clip(Clip(exclude="a"), facts, keys_of(facts), excluded)
    assert drawn.index[:, 0].tolist() == [0, 1, 0]
    assert drawn.coincides.tolist() == [True, False, True]


@pytest.mark.parametrize("place", ["random", "uniform", "grid", "sample"])
@pytest.mark.parametrize(
    ("short", "expected", "valid"),
    [
        ("repeat", [0, 1, 2, 2, 2], [True] * 5),
        ("loop", [0, 1, 2, 0, 1], [True] * 5),
        ("pad", [0, 1, 2, 2, 2], [True, True, True, False, False]),
    ],
)
def test_short_items_are_filled_by_the_named_policy(make_facts, place, short, expected, valid):
    facts = make_facts(b=1, frames=3)
    drawn = draw_clip(Clip(frames=5, place=place, short=short), facts, keys_of(facts))
    shown = drawn.index[0]
    if place == "sample":  # any order of the real frames, then the filling
        assert sorted(shown[:3]) == [0, 1, 2]
        assert shown[3:].tolist() == expected[3:]
    else:
        assert shown.tolist() == expected
    assert drawn.valid[0].tolist() == valid


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (Clip(frames=4, stride=3, short="drop"), 10),
        (Clip(frames=4, spacing=0.25, short="drop"), 7),
        (Clip(frames=4, place="uniform", short="drop"), 4),
    ],
)
def test_drop_leaves_out_exactly_the_short_items(make_facts, rule, needed):
    facts = make_facts(b=3, frames=[needed - 1, needed, needed + 1], fps=8.0)
    assert feasible(rule, facts).tolist() == [False, True, True]
    drawn = draw_clip(rule, facts.rows(slice(1, 3)), keys_of(facts.rows(slice(1, 3))))
    assert drawn.index.max() < needed + 1
    assert (np.diff(drawn.index, axis=1) > 0).all()


@pytest.mark.parametrize("clip", [{"place": "uniform"}, {"stride": 3}])
def test_items_below_the_least_are_left_out_and_others_begin_again(make_facts, clip):
    rule = Clip(frames=4, short="loop", least=2, **clip)
    assert feasible(rule, make_facts(b=3, frames=[1, 2, 50])).tolist() == [False, True, True]


def dual_frames(centre: int, count: int, frames: int = 16, stride: int = 4) -> list[int]:
    """The rule as it is written: the middle frame, and what lies outside clamped to the ends."""
    wanted = [centre + (k - frames // 2) * stride for k in range(frames)]
    return [min(max(frame, 0), count - 1) for frame in wanted]


def test_edges_draw_the_middle_frame_from_all_and_clamp_to_the_ends(make_facts):
    counts = [1, 7, 16, 64, 200]
    facts = make_facts(b=5 * 4000, frames=np.repeat(counts, 4000))
    drawn = draw_clip(Clip(frames=16, stride=4, place="edges"), facts, keys_of(facts))
    for count, index in zip(counts, drawn.index.reshape(5, 4000, 16), strict=True):
        middle = index[:, 8]
        seen = np.bincount(middle, minlength=count)
        assert len(seen) == count
        assert np.all(np.abs(seen - 4000 / count) < 6 * np.sqrt(4000 / count) + 1)
        for row in range(0, 4000, 97):
            assert index[row].tolist() == dual_frames(middle[row], count)
    assert drawn.valid.all()


@pytest.mark.parametrize("short", ["repeat", "loop", "pad", "drop"])
def test_edges_follow_the_policy_on_both_sides(make_facts, short):
    facts = make_facts(b=300, frames=6)
    rule = Clip(frames=5, stride=2, place="edges", short=short)
    drawn = draw_clip(rule, facts, keys_of(facts))
    starts = set()
    for index, valid in zip(drawn.index, drawn.valid, strict=True):
        first = index[2] - 4
        wanted = np.array([first + 2 * k for k in range(5)])
        inside = (wanted >= 0) & (wanted < 6)
        assert np.array_equal(index[inside], wanted[inside])
        outside = wanted % 6 if short == "loop" else np.clip(wanted, 0, 5)
        assert np.array_equal(index, np.where(inside, wanted, outside))
        assert np.array_equal(valid, inside if short == "pad" else np.ones(5, dtype=bool))
        starts.add(first)
    assert starts == set(range(-4, 2))
    assert feasible(rule, make_facts(b=2, frames=[8, 9])).tolist() == [short != "drop", True]


def test_strides_are_drawn_among_those_that_fit_and_at_least_the_first(make_facts):
    counts = [5, 16, 30, 31, 60, 61, 121, 500]
    facts = make_facts(b=8 * 2000, frames=np.repeat(counts, 2000))
    drawn = draw_clip(Clip(frames=16, strides=(1, 2, 4, 8)), facts, keys_of(facts))
    stride = drawn.targets["stride"].reshape(8, 2000)
    index = drawn.index.reshape(8, 2000, 16)
    for row, count in enumerate(counts):
        fitting = [s for s in (1, 2, 4, 8) if 15 * s + 1 <= count] or [1]
        values, seen = np.unique(stride[row], return_counts=True)
        assert values.tolist() == fitting
        assert np.all(np.abs(seen - 2000 / len(fitting)) < 150)
        if count >= 16:
            assert np.array_equal(
                np.diff(index[row], axis=1), np.repeat(stride[row], 15).reshape(-1, 15)
            )
    assert index[0].max() == 4  # too short for any: the last frame is held
    assert feasible(
        Clip(frames=16, strides=(2, 4), short="drop"), make_facts(2, [30, 31])
    ).tolist() == [
        False,
        True,
    ]


def test_a_clip_that_runs_backwards_has_its_frames_times_and_gaps_in_that_order(make_facts):
    facts = make_facts(b=6, frames=[3, 9, 9, 3, 9, 9])
    rule = Clip(frames=4, stride=2, short="pad")
    forth = draw_clip(rule, facts, keys_of(facts))
    backwards = np.array([True, True, False, False, True, False])
    drawn = draw_clip(rule, facts, keys_of(facts), backwards=backwards)
    for name in ("index", "times", "valid"):
        whole = getattr(forth, name)
        expected = np.where(backwards[:, None], whole[:, ::-1], whole)
        assert np.array_equal(getattr(drawn, name), expected)
    assert drawn.valid[0].tolist() == [False, False, True, True]


def test_pictures_and_uncounted_items(make_facts):
    facts = make_facts(b=2, frames=[0, 0], fps=[0.0, 10.0])
    facts.stop[:] = [0.0, 2.5]
    assert frame_counts(facts).tolist() == [1, 25]
    drawn = draw_clip(Clip(frames=2), facts, keys_of(facts))
    assert drawn.times[0].tolist() == [0.0, 0.0]
    assert np.isfinite(drawn.times).all()


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 0},
        {"spacing": 0.5, "stride": 2},
        {"spacing": 0.0},
        {"spacing": float("nan")},
        {"stride": 2, "place": "grid"},
        {"frames": 2, "exclude": "a"},
        {"same_as": "a", "frames": 2},
        {"same_as": "a", "reverse": 0.5},
        {"reverse": 1.5},
        {"stride": 2, "strides": (1, 2)},
        {"strides": ()},
        {"strides": (0, 2)},
        {"strides": (2, 1)},
        {"strides": (1, 2), "place": "uniform"},
        {"part": (0, 2)},
        {"of": "a"},
        {"part": (2, 2), "of": "a"},
        {"part": (0, 2), "of": "a", "frames": 4},
        {"part": (0, 2), "of": "a", "reverse": 0.5},
    ],
)
def test_impossible_rules_are_refused(options):
    with pytest.raises(ConfigError):
        Clip(**options)
