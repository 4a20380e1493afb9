from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhyme.errors import ConfigError
from rhyme.synthetic import SPLITS, WorldConfig, plan
from rhyme.synthetic.members import _divide


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 23),
        ("size", 257),
        ("size", 65),
        ("size", 255),
        ("fps", 0.5),
        ("fps", float("nan")),
        ("frames", 3),
        ("gop", 0),
        ("palette_keep", 1.01),
        ("scene_keep", -0.1),
        ("seed", -1),
        ("videos", -1),
        ("videos", 2_000_000),
        ("videos", 0),
        ("untrimmed", -1),
        ("sound_rate", 12345),
        ("videos_per_group", 0),
        ("workers", -1),
        ("truth", "some"),
        ("fractions", (0.5, 0.2, 0.2)),
        ("fractions", (1.2, -0.1, -0.1)),
        ("fractions", (0.5, 0.5)),
        ("creatures", (0, 2)),
        ("creatures", (3, 2)),
        ("creatures", (3, 10)),
        ("creatures", (3,)),
        ("creatures", (1.5, 2)),
        ("counts", (5, 5)),
        ("counts", (5, 5, -1)),
        ("counts", (5, 5, 5)),
    ],
)
def test_wrong_values_are_refused_with_value_and_remedy(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        WorldConfig(**{"videos": 10, name: value})
    assert caught.value.stage == "world"
    assert caught.value.value is not None
    assert caught.value.remedy


def test_untrimmed_videos_show_one_creature() -> None:
    assert WorldConfig(videos=1, untrimmed=1, creatures=[1, 1]).total == 2, "as JSON has it"
    with pytest.raises(ConfigError, match="untrimmed videos show one") as caught:
        WorldConfig(videos=1, untrimmed=1, creatures=(1, 3))
    assert caught.value.value == (1, 3)


def test_odd_sizes_are_allowed_where_colour_is_kept_in_full() -> None:
    assert WorldConfig(videos=1, size=63).size == 63
    with pytest.raises(ConfigError, match="even") as caught:
        WorldConfig(videos=1, size=65)
    assert caught.value.remedy == "take 64 or 66"


def test_the_number_of_videos_is_needed() -> None:
    with pytest.raises(ConfigError, match="number of videos is missing"):
        WorldConfig()
    assert WorldConfig(counts=(3, 2, 1)).clips == 6
    assert WorldConfig(videos=6, counts=(3, 2, 1)).total == 6
    assert WorldConfig(videos=0, untrimmed=4).total == 4


def test_groups_must_come_out_even() -> None:
    with pytest.raises(ConfigError, match="multiple of videos_per_group") as caught:
        WorldConfig(videos=10, videos_per_group=4)
    assert caught.value.remedy == "take 12"
    with pytest.raises(ConfigError, match="counts must be a multiple"):
        WorldConfig(counts=(8, 2, 4), videos_per_group=4)


def test_frame_rates_become_ratios() -> None:
    assert WorldConfig(videos=1, fps=29.97).rate == Fraction(2997, 100)
    assert WorldConfig(videos=1, fps=30000 / 1001).rate == Fraction(30000, 1001)


def count(config: WorldConfig) -> dict[str, int]:
    splits = [entry.split for entry in plan(config)]
    return {split: splits.count(split) for split in SPLITS}


def test_default_split_is_60_20_20() -> None:
    assert count(WorldConfig(videos=100)) == {"train": 60, "val": 20, "test": 20}
    assert count(WorldConfig(videos=5)) == {"train": 3, "val": 1, "test": 1}
    assert count(WorldConfig(counts=(15, 1, 4))) == {"train": 15, "val": 1, "test": 4}
    assert count(WorldConfig(videos=10, untrimmed=10)) == {"train": 12, "val": 4, "test": 4}


@given(
    st.integers(0, 5000),
    st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any),
)
def test_division_sums_up_and_is_nearest(total: int, shares: list[int]) -> None:
    counts = _divide(total, tuple(float(s) for s in shares))
    assert sum(counts) == total
    for n, share in zip(counts, shares, strict=True):
        assert abs(n - share / sum(shares) * total) < 1 + 1e-6
        assert n >= 0
        assert share or not n


def test_val_is_a_seeded_draw_from_the_pool() -> None:
    def val(seed: int) -> list[str]:
        return [e.id for e in plan(WorldConfig(videos=100, seed=seed)) if e.split == "val"]

    assert val(0) == val(0) != val(1)
    assert val(0) != [f"v{i:06d}" for i in range(60, 80)]


def test_test_videos_do_not_depend_on_the_number_of_others() -> None:
    small = WorldConfig(counts=(4, 1, 5), seed=3)
    large = WorldConfig(counts=(400, 90, 5), seed=3)
    a = [e for e in plan(small) if e.split == "test"]
    b = [e for e in plan(large) if e.split == "test"]
    assert a == b
    assert [e.spec(small) for e in a] == [e.spec(large) for e in b]
    others = [e.spec(large) for e in plan(large) if e.split != "test"]
    assert not {s.aspect for s in others} & {e.spec(small).aspect for e in a}


def test_pool_videos_do_not_depend_on_their_number() -> None:
    small, large = WorldConfig(videos=10), WorldConfig(videos=1000)
    first = {e.id: e.spec(small) for e in plan(small)}
    again = {e.id: e.spec(large) for e in plan(large)}
    assert all(again[name] == spec for name, spec in first.items())


def test_splits_go_by_group() -> None:
    config = WorldConfig(videos=60, videos_per_group=4, untrimmed=20)
    split_of: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for entry in plan(config):
        split_of.setdefault(entry.group_name, set()).add(entry.split)
        sizes[entry.group_name] = sizes.get(entry.group_name, 0) + 1
    assert all(len(splits) == 1 for splits in split_of.values())
    assert set(sizes.values()) == {4}
    assert len(sizes) == 20


def test_ids_are_unique_and_say_nothing_of_the_class() -> None:
    config = WorldConfig(videos=300, untrimmed=50)
    entries = plan(config)
    assert len({e.id for e in entries}) == 350
    in_order = sorted((e for e in entries if e.stream == 0), key=lambda e: e.id)
    assert [e.index for e in in_order] == list(range(240))
    y = np_correlation([e.index for e in in_order], [e.spec(config).appearance for e in in_order])
    assert abs(y) < 0.25


def np_correlation(a: list[int], b: list[int]) -> float:
    import numpy as np

    return float(np.corrcoef(a, b)[0, 1])
