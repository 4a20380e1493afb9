"""Who is trained on and who is judged: splits by group, folds, classes, groups already seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rhyme.catalog import Catalog, assign_splits
from rhyme.errors import EvaluationError, UnknownName, nearest
from rhyme.tasks.table import Integer

__all__ = [
    "SPLIT_DRAWN",
    "SPLIT_GIVEN",
    "SPLIT_NAMES",
    "Classes",
    "Splits",
    "fold_splits",
    "group_hashes",
    "held_out",
    "make_splits",
    "usable_classes",
]

SPLIT_NAMES = ("train", "val", "test")
SPLIT_GIVEN = "split given with the data"
"""Setting of rows whose split came with the catalog, be it given or drawn when it was made."""
SPLIT_DRAWN = "split_drawn"
"""Detail of rows: how that split was drawn, empty where it was not drawn here."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Catalog rows of each split.

    Attributes:
        train: ``int64``, ascending.
        val: ``int64``.
        test: ``int64``.
        origin: where the split comes from, one line; a setting of the rows, which pair by it.
        drawn: how the split was drawn that the data bring; empty where it was not, or not here.
        notes: what had to be done to make it usable.
    """

    train: Integer
    val: Integer
    test: Integer
    origin: str
    drawn: str = ""
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> Integer:
        """All rows in use, ascending."""
        return np.sort(np.concatenate([self.train, self.val, self.test]))

    @property
    def parts(self) -> dict[str, Integer]:
        """Rows by the name of their split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def key(self) -> str:
        """A short name of this very split, for pair keys."""
        digest = hashlib.sha256()
        for rows in (self.train, self.val, self.test):
            digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes() + b"|")
        return digest.hexdigest()[:8]

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {len(getattr(self, name))}" for name in SPLIT_NAMES)
        return f"{self.drawn or self.origin}: {counts} items"


def make_splits(catalog: Catalog, *, seed: int = 0, label: str | None = None) -> Splits:
    """The split that a catalog brings, or 60/20/20 by group.

    Items whose split is neither train, val nor test are left out and counted in a note. A given
    split without validation items has a fifth of its training groups set aside, by seed, or as many
    of them as leave each class a group to train on.

    Args:
        catalog: the items.
        seed: of the split where none is given, and of what is set aside.
        label: the label column whose classes keep a training group; the main one by default, if
            there is one.

    Returns:
        The rows.

    Raises:
        EvaluationError: a group stands in two splits, or train or test is empty.
        DataError: too few groups to make a split of.
        UnknownName: no such label column.
    """
    return _make(catalog, seed, label, ("train", "test"))


def _make(catalog: Catalog, seed: int, label: str | None, needed: Sequence[str]) -> Splits:
    names = _column(catalog, "split")
    notes: list[str] = []
    drawn = ""
    if any(name is not None for name in names):
        fold = catalog.meta.get("fold")
        lists = catalog.meta.get("lists")
        origin = SPLIT_GIVEN
        if fold:
            origin = f"folds of '{fold['column']}'"
        elif lists:
            origin = f"official lists of {lists['title']}"
            if lists["splits"] > 1:
                notes.append(f"split {lists['split_number']} of {lists['splits']}")
            if lists["missing"]:
                notes.append(
                    f"{lists['missing']} of the {lists['listed']} videos that the lists name are "
                    "not there: they are named in the quarantine of the catalog"
                )
        elif facts := catalog.meta.get("splits"):
            shares = "/".join(f"{100 * share:g}" for share in facts["fractions"])
            drawn = f"{shares} by group, seed {facts['seed']}"
    else:
        origin = f"60/20/20 by group, seed {seed}"
        names = _column(assign_splits(catalog, seed=seed), "split")
    found = np.array([name if name in SPLIT_NAMES else "" for name in names], dtype=object)
    unused = int((found == "").sum())
    if unused:
        notes.append(f"{unused} items are in no split and left out")
    groups = np.asarray(catalog.group_codes)
    if not (found == "val").any() and (found == "train").any():
        labelled = label is not None or catalog.label_column is not None
        classes = catalog.labels(label)[0] if labelled else np.full(len(catalog), -1)
        found, note = _set_aside(found, groups, classes, seed)
        notes.append(f"the split has no validation items{note}")
    _check(catalog, found, groups, needed)
    rows = {name: np.flatnonzero(found == name).astype(np.int64) for name in SPLIT_NAMES}
    return Splits(**rows, origin=origin, drawn=drawn, notes=tuple(notes))


def held_out(catalog: Catalog, *, seed: int = 0, label: str | None = None) -> Splits:
    """Who is judged where nothing is fitted: the test items, or all where there is no split.

    Args:
        catalog: the items.
        seed: as for :func:`make_splits`.
        label: likewise.

    Raises:
        EvaluationError: a group stands in two splits, or test is empty.
    """
    if any(name is not None for name in _column(catalog, "split")):
        return _make(catalog, seed, label, ("test",))
    none = np.empty(0, dtype=np.int64)
    rows = np.arange(len(catalog), dtype=np.int64)
    return Splits(train=none, val=none, test=rows, origin="no split, all items judged")


def _column(catalog: Catalog, name: str) -> list[str | None]:
    return cast("list[str | None]", catalog.table.column(name).to_pylist())


def _set_aside(
    found: NDArray[np.object_], groups: Integer, classes: Integer, seed: int
) -> tuple[NDArray[np.object_], str]:
    """Make a fifth of the training groups validation groups, and say how many it became.

    They are taken in an order drawn by seed, without any that is the last of a class.
    """
    train = np.flatnonzero(found == "train")
    codes = np.unique(groups[train])
    fifth = max(1, len(codes) // 5) if len(codes) > 1 else 0
    known = train[classes[train] >= 0]
    pairs = np.unique(np.stack([groups[known], classes[known]], axis=1), axis=0)
    left = np.bincount(pairs[:, 1])
    taken: list[int] = []
    for group in np.random.default_rng([seed, 2]).permutation(codes).tolist():
        if len(taken) == fifth:
            break
        start, stop = np.searchsorted(pairs[:, 0], [group, group + 1])
        own = pairs[start:stop, 1]
        if (left[own] > 1).all():
            left[own] -= 1
            taken.append(group)
    out = found.copy()
    out[(found == "train") & np.isin(groups, taken)] = "val"
    if fifth == 0:
        return out, ", and all training items are of one group"
    if not taken:
        return out, ", and every training group is the last one of a class"
    if len(taken) < fifth:
        return out, (
            f": {len(taken)} training groups were set aside, seed {seed}; a fifth, {fifth}, would "
            "leave classes without one"
        )
    return out, f": a fifth of the training groups, at least one, was set aside, seed {seed}"


def _check(
    catalog: Catalog, found: NDArray[np.object_], groups: Integer, needed: Sequence[str]
) -> None:
    for name in needed:
        if not (found == name).any():
            raise EvaluationError(
                f"the split '{name}' has no items",
                file=catalog.root,
                stage="evaluate",
                remedy=f"give more groups, or a split column with {' and '.join(needed)}",
            )
    first: dict[int, tuple[str, int]] = {}
    for row in np.flatnonzero(found != "").tolist():
        group, name = int(groups[row]), str(found[row])
        before = first.setdefault(group, (name, row))
        if before[0] != name:
            raise EvaluationError(
                f"a group stands in two splits, {before[0]} and {name}",
                file=catalog.root,
                stage="evaluate",
                value=catalog.item(row).group,
                remedy="split by group, so that no source is trained on and judged on",
            )


def fold_splits(
    catalog: Catalog, column: str, test_fold: str | int, val_fold: str | int | None = None
) -> Catalog:
    """A catalog split by folds: one fold tests, one validates, the rest trains.

    Args:
        catalog: items with a column of folds, a label column or the split column it was read with.
        column: name of the column.
        test_fold: value that tests.
        val_fold: value that validates; None takes the value after ``test_fold``, in the order of
            the values, the first after the last.

    Returns:
        The catalog with ``train``, ``val`` and ``test`` as splits; items without a fold are in
        none of them.

    Raises:
        UnknownName: a fold that does not occur.
        EvaluationError: fewer than three folds, twice the same fold, or a group in two folds.
    """
    if column in catalog.label_columns:
        codes, names = catalog.labels(column)
        values = [names[code] if code >= 0 else None for code in codes.tolist()]
    else:
        values = _column(catalog, "split")
    known = sorted({v for v in values if v is not None}, key=_fold_order)
    if not known:
        raise UnknownName(
            f"no column '{column}' with folds",
            stage="evaluate",
            remedy=nearest(column, catalog.label_columns),
        )
    if len(known) < 3:
        raise EvaluationError(
            "folds need three values: to train, to validate, to test",
            stage="evaluate",
            value=known,
        )
    test = _fold(str(test_fold), known)
    after = known[(known.index(test) + 1) % len(known)]
    val = after if val_fold is None else _fold(str(val_fold), known)
    if val == test:
        raise EvaluationError("one fold cannot validate and test", stage="evaluate", value=test)
    part = {test: "test", val: "val"}
    split = catalog.with_column(
        "split", [None if v is None else part.get(v, "train") for v in values]
    )
    return split.with_meta(fold={"column": column, "test": test, "val": val})


def _fold(name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise UnknownName(f"no fold '{name}'", stage="evaluate", remedy=nearest(name, known))
    return name


def _fold_order(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Labels fit to be measured by.

    Attributes:
        codes: ``int64 [n]`` class of each catalog row, -1 where it has none or is left out.
        names: class names by code.
        used: names of the classes that are measured.
        left_out: reason by name of a class that is not.
    """

    codes: Integer
    names: tuple[str, ...]
    used: tuple[str, ...]
    left_out: dict[str, str]


def usable_classes(
    codes: Integer, names: Sequence[str], groups: Integer, splits: Splits
) -> Classes:
    """Leave out classes of fewer than two groups, and those missing from train or test.

    Args:
        codes: ``int64 [n]`` class of each catalog row, -1 without.
        names: class names by code.
        groups: ``int64 [n]`` group of each row.
        splits: the split.

    Returns:
        The labels with those classes taken out, and each reason.
    """
    used: list[str] = []
    left_out: dict[str, str] = {}
    kept = np.asarray(codes, dtype=np.int64).copy()
    rows = splits.rows
    for code, name in enumerate(names):
        members = rows[codes[rows] == code]
        if len(members) == 0:
            continue
        count = len(np.unique(groups[members]))
        missing = [s for s in ("train", "test") if not (codes[getattr(splits, s)] == code).any()]
        if count < 2:
            left_out[name] = "fewer than two groups"
        elif missing:
            left_out[name] = f"no item in {' and '.join(missing)}"
        else:
            used.append(name)
            continue
        kept[codes == code] = -1
    return Classes(codes=kept, names=tuple(names), used=tuple(used), left_out=left_out)


def group_hashes(names: Iterable[str]) -> list[str]:
    """Short hashes of group names, sorted: what a package keeps of the groups it was trained on.

    Args:
        names: group names, repeats allowed.
    """
    return sorted({hashlib.sha256(name.encode()).hexdigest()[:16] for name in set(names)})
