"""Spreads and paired differences against hand-made sums."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest

from rhyme.errors import EvaluationError, UnknownName
from rhyme.evaluation import Result, compare
from rhyme.evaluation.pairing import Measured, averaged, split_of

A = [0.50, 0.62, 0.55]
B = [0.45, 0.60, 0.48]


def rows(system, values, **changes):
    out = []
    for seed, value in enumerate(values):
        fields = {
            "system": system,
            "checkpoint": f"{system}{seed}",
            "data": "clips",
            "data_fingerprint": "f",
            "protocol": "knn",
            "metric": "top1",
            "value": value,
            "seed": seed,
            "pair": f"s/seed{seed}",
            "items": 40,
            "settings": {"k": 10},
            "chance": 0.1,
        }
        out.append(Result(**{**fields, **changes}))
    return out


def line(comparison, arm):
    return next(entry for entry in comparison.lines if entry.arm == arm)


def test_means_spreads_and_paired_differences():
    found = compare([*rows("a", A), *rows("b", B)], baseline="b")
    a, b = line(found, "a"), line(found, "b")
    assert (a.mean, a.sd, a.n) == (
        pytest.approx(statistics.fmean(A)),
        pytest.approx(statistics.stdev(A)),
        3,
    )
    gains = [x - y for x, y in zip(A, B, strict=True)]
    assert a.difference.paired
    assert a.difference.n == 3
    assert a.difference.mean == pytest.approx(statistics.fmean(gains))
    assert a.difference.error == pytest.approx(statistics.stdev(gains) / math.sqrt(3))
    assert b.difference is None
    assert a.chance == pytest.approx(0.1)


def test_pairs_are_made_by_key_whatever_the_order():
    shuffled = [rows("b", B)[i] for i in (2, 0, 1)]
    found = line(compare([*rows("a", A), *shuffled], baseline="b"), "a")
    gains = [x - y for x, y in zip(A, B, strict=True)]
    assert found.difference.error == pytest.approx(statistics.stdev(gains) / math.sqrt(3))
    apart = rows("b", B)
    apart = [Result(**{**r.to_row(), "pair": f"other{r.seed}"}) for r in apart]
    unpaired = line(compare([*rows("a", A), *apart], baseline="b"), "a").difference
    assert not unpaired.paired
    assert unpaired.mean == pytest.approx(found.difference.mean)
    error = math.sqrt(statistics.variance(A) / 3 + statistics.variance(B) / 3)
    assert unpaired.error == pytest.approx(error)


def test_one_repetition_that_both_have_is_a_pair():
    one = line(compare([*rows("a", A[:1]), *rows("b", B[:1])], baseline="b"), "a").difference
    assert (one.paired, one.n, one.error) == (True, 1, None)
    assert one.mean == pytest.approx(A[0] - B[0])


def test_each_system_beside_its_own_untrained_encoder_by_default():
    found = compare(
        [
            *rows("a", A),
            *rows("a", [0.2, 0.3, 0.1], encoder="untrained"),
            *rows("b", B),
            *rows("b", [0.25], encoder="untrained"),
        ]
    )
    assert line(found, "a").difference.baseline == "a untrained"
    assert line(found, "a").difference.mean == pytest.approx(statistics.fmean(A) - 0.2)
    b = line(found, "b").difference
    assert (b.paired, b.error, b.n) == (False, None, 1)
    assert "single repetition" in found.notes[-1]


def test_what_was_measured_twice_counts_once():
    old, new = rows("a", A), rows("a", [v + 0.1 for v in A])
    found = line(compare([*old, *new]), "a")
    assert found.n == 3
    assert found.mean == pytest.approx(statistics.fmean(A) + 0.1)


def shelf(weights, size, value, encoder="trained"):
    """A row of an encoder off the shelf whose file is called ``w.pth``."""
    details = {
        "weights": {"file": "w.pth", "sha256": weights * 64},
        "plan": {"size": size, "resize": size + 8, "frames": 1},
    }
    name = f"{weights}{size}"
    (row,) = rows("net w.pth", [value], checkpoint=name, details=details, encoder=encoder)
    return row


def test_encoders_off_the_shelf_of_one_name_are_told_apart():
    every = [shelf("a", 32, 0.5), shelf("b", 32, 0.6), shelf("a", 48, 0.7)]
    fresh = [shelf("a", 32, 0.1, "untrained"), shelf("a", 48, 0.2, "untrained")]
    found = compare([*every, *fresh])
    assert {entry.arm: (entry.mean, entry.n) for entry in found.lines} == {
        "net w.pth (aaaaaaaa, size 32)": (0.5, 1),
        "net w.pth (bbbbbbbb, size 32)": (0.6, 1),
        "net w.pth (aaaaaaaa, size 48)": (0.7, 1),
        "net w.pth (aaaaaaaa, size 32) untrained": (0.1, 1),
        "net w.pth (aaaaaaaa, size 48) untrained": (0.2, 1),
    }
    gain = line(found, "net w.pth (aaaaaaaa, size 48)").difference
    assert gain.mean == pytest.approx(0.5)
    assert gain.paired, "names are all that changes"
    for pair, names in (
        (every[:2], ["net w.pth (aaaaaaaa)", "net w.pth (bbbbbbbb)"]),
        (every[::2], ["net w.pth (size 32)", "net w.pth (size 48)"]),
        (every[:1], ["net w.pth"]),
    ):
        assert [entry.arm for entry in compare([*pair, *rows("moco", A)]).lines] == [*names, "moco"]


def test_a_row_of_another_checkpoint_is_never_dropped_without_a_word():
    found = compare([*rows("a", A), *rows("a", B, checkpoint="other")])
    assert line(found, "a").n == 6
    assert "a: several encoders of one seed" in found.notes[0]
    fresh = rows("a", A, encoder="untrained")
    same = rows("a", A, encoder="untrained", checkpoint="other")
    assert compare([*fresh, *same]).notes == (), "one untrained encoder beside two trained ones"
    other = rows("a", [*A[:2], 0.9], encoder="untrained", checkpoint="other")
    found = compare([*fresh, *other])
    assert line(found, "a untrained").n == 3
    assert "a untrained: 1 figures were replaced" in found.notes[0]


def test_settings_tell_lines_apart_folds_do_not():
    five = rows("a", A, settings={"k": 5})
    found = compare([*rows("a", A), *five])
    assert sorted(entry.variant for entry in found.lines) == ["k 10", "k 5"]
    folds = [
        Result(**{**r.to_row(), "settings": {"k": 10, "fold": str(i)}, "pair": f"fold{i}"})
        for i, r in enumerate(rows("a", A))
    ]
    assert len(compare(folds).lines) == 1


def test_data_of_one_name_are_told_apart_by_their_fingerprints():
    one, two = rows("a", A, data_fingerprint="0123456789"), rows("a", B, data_fingerprint="abcdef")
    found = compare([*one, *two, *rows("a", A, data="other")])
    assert [line.data for line in found.lines] == ["clips (01234567)", "clips (abcdef)", "other"]
    assert [line.n for line in found.lines] == [3, 3, 3]
    assert "several sets of data are called clips" in found.notes[0]
    plain = compare([*one, *rows("b", B, data_fingerprint="0123456789")])
    assert {line.data for line in plain.lines} == {"clips"}
    assert not plain.notes


def test_lost_values_are_counted_and_left_out():
    found = compare([*rows("a", [0.5, math.nan, 0.7]), *rows("b", B)], baseline="b")
    a = line(found, "a")
    assert (a.mean, a.n, a.lost) == (pytest.approx(0.6), 2, 1)
    assert a.difference.n == 2
    assert "1 values are not finite" in found.notes[0]


def test_table_and_refusals():
    found = compare([*rows("a", A), *rows("b", B)], baseline="b")
    text = found.text()
    assert "0.557" in text
    assert "difference" in text
    assert all(len(row) <= len(found.columns) for row in found.rows)
    with pytest.raises(EvaluationError, match="no results"):
        compare([])
    with pytest.raises(UnknownName, match="no results of 'c'"):
        compare(rows("a", A), baseline="c")


def judged(system, values, encoder="trained"):
    """Rows by (split, seed of the encoder), their pair keys as ``evaluate`` writes them."""
    (first,) = rows(system, [0.0], encoder=encoder)
    return [
        replace(first, value=value, seed=seed, pair=f"f/{split}/0/seed{seed}", checkpoint=f"{key}")
        for key, value in values.items()
        for split, seed in [key]
    ]


DRAWS = {("s0", 0): 0.1, ("s0", 1): 0.3, ("s0", 2): 0.5, ("s1", 0): 0.2, ("s1", 1): 0.6,
         ("s1", 2): 0.7}  # fmt: skip


def test_a_training_seed_does_not_pair_with_the_draw_of_fresh_weights_of_its_number():
    """Two runs, each with a split of its own and three draws on it: all six draws count."""
    found = compare(
        [*judged("a", {("s0", 0): 0.4, ("s1", 1): 0.8}), *judged("a", DRAWS, "untrained")]
    )
    a, fresh = line(found, "a"), line(found, "a untrained")
    gains = [0.4 - 0.3, 0.8 - 0.5]
    assert a.difference.mean == pytest.approx(a.mean - fresh.mean)
    assert (a.difference.paired, a.difference.n) == (True, 2)
    assert a.difference.error == pytest.approx(statistics.stdev(gains) / math.sqrt(2))
    assert a.difference.whole
    assert fresh.n == 6
    assert not any("pairs that both have" in note for note in found.notes)


def test_every_training_seed_counts_beside_three_draws_on_one_split():
    trained = {("s0", seed): 0.4 + 0.1 * seed for seed in range(5)}
    draws = {key: value for key, value in DRAWS.items() if key[0] == "s0"}
    found = compare([*judged("a", trained), *judged("a", draws, "untrained")])
    a, fresh = line(found, "a"), line(found, "a untrained")
    assert (a.n, fresh.n) == (5, 3)
    assert a.difference.mean == pytest.approx(0.6 - 0.3)
    assert not a.difference.paired
    spread = statistics.variance(trained.values()) / 5 + statistics.variance(draws.values()) / 3
    assert a.difference.error == pytest.approx(math.sqrt(spread))


def test_seeds_that_one_of_two_trained_arms_lacks_are_told():
    found = compare(
        [
            *judged("a", {("s0", seed): 0.5 + 0.1 * seed for seed in range(5)}),
            *judged("b", {("s0", seed): 0.4 for seed in range(3)}),
        ],
        baseline="b",
    )
    difference = line(found, "a").difference
    assert (difference.paired, difference.n, difference.whole) == (True, 3, False)
    assert difference.mean == pytest.approx(0.2)
    assert any(note.startswith("a minus b: over the 3 pairs that both") for note in found.notes)


def test_an_encoder_that_was_not_trained_here_pairs_by_split_alone():
    splits = [f"s{seed}" for seed in range(3)]
    found = compare(
        [
            *judged("a", {(split, seed): 0.5 + 0.1 * seed for seed, split in enumerate(splits)}),
            *judged("shelf", {(split, 0): 0.2 * seed for seed, split in enumerate(splits)}),
        ],
        baseline="shelf",
    )
    difference = line(found, "a").difference
    assert (difference.paired, difference.n) == (True, 3)
    assert difference.mean == pytest.approx(0.6 - 0.2)
    assert difference.error == pytest.approx(0.1 / math.sqrt(3))


@pytest.mark.parametrize("details", [{"weights": {"sha256": "ab"}}, {"seed_of": "the evaluation"}])
def test_every_training_seed_counts_beside_an_encoder_that_was_not_trained_here(details):
    """Its seed is that of the evaluation, 0: it had met the trainings of seed 0 alone."""
    folds = [f"s{fold}" for fold in range(4)]
    trained = {(fold, s): v for fold in folds for s, v in enumerate((0.50, 0.64, 0.66))}
    shelf = [
        replace(row, details=details)
        for row in judged("shelf", {(fold, 0): 0.60 for fold in folds})
    ]
    found = compare([*judged("a", trained), *shelf], baseline="shelf")
    difference = line(found, "a").difference
    assert difference.mean == pytest.approx(0.0)
    assert (difference.paired, difference.n, difference.whole) == (True, 4, True)
    assert not any("pairs that both have" in note for note in found.notes)
    # two of them are held against each other split by split, too
    other = [replace(row, system="other", value=0.55) for row in shelf]
    between = line(compare([*shelf, *other], baseline="shelf"), "other").difference
    assert (between.mean, between.n) == (pytest.approx(-0.05), 4)


@pytest.mark.parametrize(
    ("pair", "seed", "split"),
    [
        ("f0/5a/0/seed3", 3, "f0/5a"),
        ("f0/5a/12/seed3", 3, "f0/5a"),
        ("f0/5a/0/seed3", 4, "f0/5a/0/seed3"),
        ("s/seed0", 0, "s"),
        ("p", 0, "p"),
    ],
)
def test_a_pair_key_tells_the_split_without_either_seed(pair, seed, split):
    assert split_of(pair, seed) == split


def test_an_encoder_that_has_no_seed_is_the_same_one_under_every_seed_of_the_evaluation():
    shelf = [
        Measured.of(f"f/s/{seed}/seed{seed}", seed, value, details={"weights": {}})
        for seed, value in enumerate((0.2, 0.4))
    ]
    (figure,) = averaged([*shelf, replace(shelf[0], value=math.nan)])
    assert (figure.split, figure.value) == ("f/s", pytest.approx(0.3))


def test_pairs_of_other_test_items_are_told():
    """One encoder's sequences could not be read, or were left out: its figure is of fewer."""
    few = [replace(row, items=4) for row in rows("b", B)]
    found = compare([*rows("a", A), *few], baseline="b")
    assert line(found, "a").difference.paired
    (note,) = [note for note in found.notes if "same test items" in note]
    assert note.startswith("a minus b: not over the same test items (knn top1: 40 and 4)")
    many = [
        replace(row, metric=f"recall_at_{k}") for k in range(5) for row in (*rows("a", A), *few)
    ]
    (note,) = [n for n in compare(many, baseline="b").notes if "same test items" in n]
    assert "recall_at_2: 40 and 4 and 2 more)" in note
    folds = [replace(row, items=k, pair=f"{row.pair}x") for k, row in enumerate(rows("b", B))]
    for other in (rows("b", B), folds):
        told = compare([*rows("a", A), *other], baseline="b").notes
        assert not any("same test items" in note for note in told)
