"""Splits by group, folds, classes that are left out."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from rhyme.catalog import assign_splits
from rhyme.errors import EvaluationError, UnknownName
from rhyme.evaluation import fold_splits, group_hashes, make_splits, usable_classes
from rhyme.evaluation.splits import held_out


def test_a_given_split_is_taken(rows_catalog):
    names = ["train"] * 4 + ["val"] * 2 + ["test"] * 3 + [None, "extra"]
    found = make_splits(rows_catalog(range(11), splits=names))
    assert found.train.tolist() == [0, 1, 2, 3]
    assert found.val.tolist() == [4, 5]
    assert found.test.tolist() == [6, 7, 8]
    assert found.notes == ("2 items are in no split and left out",)
    assert str(found) == "split given with the data: train 4, val 2, test 3 items"


def test_none_given_draws_by_group_and_seed(rows_catalog):
    groups = np.repeat(np.arange(20), 3)
    catalog = rows_catalog(groups)
    found = make_splits(catalog, seed=4)
    parts = [set(groups[getattr(found, name)]) for name in ("train", "val", "test")]
    assert [len(p) for p in parts] == [12, 4, 4]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert "60/20/20 by group, seed 4" in str(found)
    assert make_splits(catalog, seed=4).key == found.key
    assert make_splits(catalog, seed=5).key != found.key


def test_a_split_that_was_drawn_is_told_as_drawn(rows_catalog, tmp_path):
    drawn = assign_splits(rows_catalog(range(20)), (0.5, 0.25, 0.25), seed=4)
    kept = drawn.save(tmp_path / "drawn.arrow")
    for catalog in (drawn, kept):
        found = make_splits(catalog, seed=7)
        assert str(found) == "50/25/25 by group, seed 4: train 10, val 5, test 5 items"
        # rows that were written before pair by their settings
        assert found.origin == "split given with the data"
    given = kept.with_splits(kept.splits[::-1])
    assert str(make_splits(given)).startswith("split given with the data: ")
    folds = fold_splits(assign_splits(rows_catalog(range(9), fold=list("123") * 3)), "fold", 2)
    assert str(make_splits(folds)).startswith("folds of 'fold': ")
    assert "splits" not in folds.meta


def test_a_collection_of_test_items_alone_is_judged_where_nothing_is_fitted(rows_catalog):
    catalog = rows_catalog(range(4), splits=["test"] * 3 + [None])
    found = held_out(catalog)
    assert (found.train.tolist(), found.val.tolist()) == ([], [])
    assert found.test.tolist() == [0, 1, 2]
    with pytest.raises(EvaluationError, match="'train' has no items"):
        make_splits(catalog)
    with pytest.raises(EvaluationError, match="'test' has no items") as caught:
        held_out(rows_catalog(range(4), splits=["train"] * 4))
    assert caught.value.remedy == "give more groups, or a split column with test"


def test_validation_is_set_aside_from_training_groups(rows_catalog):
    groups = np.repeat(np.arange(20), 2)
    names = ["train"] * 30 + ["test"] * 10
    found = make_splits(rows_catalog(groups, splits=names))
    assert len(found.val) == 6
    assert found.test.tolist() == list(range(30, 40))
    assert not set(groups[found.val]) & set(groups[found.train])
    assert "set aside" in found.notes[0]


def test_of_few_training_groups_one_is_set_aside_and_of_one_none(rows_catalog):
    found = make_splits(rows_catalog(["a", "b", "c", "t"], splits=["train"] * 3 + ["test"]))
    assert (len(found.train), len(found.val)) == (2, 1)
    assert "at least one, was set aside" in found.notes[0]
    found = make_splits(rows_catalog(["a", "a", "t"], splits=["train"] * 2 + ["test"]))
    assert (len(found.train), len(found.val)) == (2, 0)
    assert "all training items are of one group" in found.notes[0]


def former_draw(catalog, train, seed):
    """The rows that were set aside before classes were heeded."""
    codes = np.unique(catalog.group_codes[:train])
    drawn = np.random.default_rng([seed, 2]).permutation(codes)[: max(1, len(codes) // 5)]
    return np.flatnonzero(np.isin(catalog.group_codes, drawn)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_no_class_loses_its_last_training_group(rows_catalog, seed):
    """Of 20 training groups in pairs a fifth may go, but never both of one class."""
    labels = [f"c{i // 2}" for i in range(20)] + [f"c{i}" for i in range(10)]
    names = ["train"] * 20 + ["test"] * 10
    catalog = rows_catalog(range(30), splits=names, y=labels)
    found = make_splits(catalog, seed=seed)
    assert len(found.val) == 4
    codes, classes = catalog.labels("y")
    usable = usable_classes(codes, classes, catalog.group_codes, found)
    assert len(usable.used) == 10
    former = former_draw(catalog, 20, seed)
    served = len({labels[row] for row in former}) == 4
    assert (found.val.tolist() == former) == served, "a draw that served stays"


def test_a_draw_that_leaves_each_class_a_group_is_as_it_was(rows_catalog):
    labels = [f"c{i % 3}" for i in range(90)]
    names = ["train"] * 60 + ["test"] * 30
    bare = make_splits(rows_catalog(range(90), splits=names), seed=3)
    catalog = rows_catalog(range(90), splits=names, y=labels)
    found = make_splits(catalog, seed=3)
    assert found.key == bare.key
    assert found.val.tolist() == former_draw(catalog, 60, 3)
    assert found.notes == bare.notes


def test_classes_of_one_training_group_each_leave_nothing_to_set_aside(rows_catalog):
    labels = [f"c{i}" for i in range(10)] * 2
    names = ["train"] * 10 + ["test"] * 10
    catalog = rows_catalog(range(20), splits=names, y=labels, other=["one"] * 20)
    found = make_splits(catalog)
    assert (len(found.train), len(found.val)) == (10, 0)
    assert found.notes == (
        "the split has no validation items, and every training group is the last one of a class",
    )
    assert len(make_splits(catalog, label="other").val) == 2
    with pytest.raises(UnknownName, match="no such label column"):
        make_splits(catalog, label="othr")


def test_fewer_than_a_fifth_are_set_aside_where_more_would_cost_a_class(rows_catalog):
    labels = ["common", "common", *(f"c{i}" for i in range(8)), "common"]
    found = make_splits(rows_catalog(range(11), splits=["train"] * 10 + ["test"], y=labels))
    assert len(found.val) == 1
    assert found.notes[0].startswith("the split has no validation items: 1 training groups were")
    assert "a fifth, 2, would leave classes without one" in found.notes[0]


def test_a_group_in_two_splits_is_refused(rows_catalog):
    names = ["train", "train", "val", "test"]
    with pytest.raises(EvaluationError, match="two splits, train and test") as caught:
        make_splits(rows_catalog(["a", "b", "c", "a"], splits=names))
    assert caught.value.value == "a"
    with pytest.raises(EvaluationError, match="'test' has no items"):
        make_splits(rows_catalog(["a", "b"], splits=["train", "val"]))


def test_folds(rows_catalog):
    folds = [str(i % 4) for i in range(12)]
    catalog = rows_catalog(range(12), y=["u"] * 12, fold=folds)
    split = fold_splits(catalog, "fold", "3")
    names = split.table.column("split").to_pylist()
    assert [names[i] for i in range(4)] == ["val", "train", "train", "test"]
    found = make_splits(split)
    assert found.test.tolist() == [3, 7, 11]
    assert found.origin == "folds of 'fold'"
    assert split.meta["fold"] == {"column": "fold", "test": "3", "val": "0"}
    other = make_splits(fold_splits(catalog, "fold", 1, 3))
    assert other.val.tolist() == [3, 7, 11]
    # the folds may also have been read as the split column
    read = rows_catalog(range(12), splits=folds)
    assert make_splits(fold_splits(read, "split", "3")).test.tolist() == [3, 7, 11]


def test_folds_refused(rows_catalog):
    catalog = rows_catalog(range(6), fold=["0", "1", "2"] * 2, two=["0", "1"] * 3)
    with pytest.raises(UnknownName, match="no fold '7'"):
        fold_splits(catalog, "fold", 7)
    with pytest.raises(UnknownName, match="no column 'fild'"):
        fold_splits(catalog, "fild", 0)
    with pytest.raises(EvaluationError, match="three values"):
        fold_splits(catalog, "two", 0)
    with pytest.raises(EvaluationError, match="validate and test"):
        fold_splits(catalog, "fold", 1, 1)


def test_classes_without_two_groups_or_missing_from_a_side_are_named(rows_catalog):
    names = ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    labels = ["a", "a", "b", "c", "d", "a", "b", "a", "c", None]
    groups = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    catalog = rows_catalog(groups, splits=names, y=labels)
    codes, classes = catalog.labels("y")
    found = usable_classes(codes, classes, catalog.group_codes, make_splits(catalog))
    assert found.used == ("a", "c")
    assert found.left_out == {"b": "no item in test", "d": "fewer than two groups"}
    assert found.codes.tolist() == [0, 0, -1, 2, -1, 0, -1, 0, 2, -1]
    assert codes[2] == 1  # the catalog's own are not touched


def test_group_hashes_are_short_sorted_and_unique():
    found = group_hashes(["b", "a", "b"])
    assert found == sorted(hashlib.sha256(n.encode()).hexdigest()[:16] for n in "ab")
