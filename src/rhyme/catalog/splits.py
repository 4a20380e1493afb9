"""Splits and folds by group: no source is ever on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from rhyme.catalog.catalog import Catalog
from rhyme.catalog.schema import LABEL
from rhyme.errors import ConfigError, DataError, UnknownName, nearest

NAMES = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One way to leave a fold out.

    Args:
        name: the value of the column that is left out.
        train: int64 row numbers of all other folds.
        test: int64 row numbers of this fold.
    """

    name: str
    train: np.ndarray
    test: np.ndarray


def assign_splits(
    catalog: Catalog,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    *,
    seed: int = 0,
    label: str | None = None,
) -> Catalog:
    """Draw train, val and test by group, keeping classes in proportion where that is possible.

    The draw of a group depends on the seed and the group's name. A class is stratified where it
    has two groups or more (with two: train and test; with three: one each); groups of the other
    classes are drawn together. A group of several classes counts for its most frequent one.

    Args:
        catalog: any; splits it has are replaced.
        fractions: shares of the groups in train, val and test; they sum to 1.
        seed: of the draw.
        label: the label column to stratify by; the main one by default, if there is one.

    Returns:
        The catalog with its split column set; write it with `Catalog.save`.

    Raises:
        ConfigError: the fractions are negative or do not sum to 1.
        DataError: fewer groups than splits that are not empty.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            "three fractions of 0 or more that sum to 1 are needed",
            stage="splits",
            value=fractions,
            remedy="for example 0.6 0.2 0.2",
        )
    groups = [str(g) for g in catalog.table.column("group").to_pylist()]
    distinct = sorted(set(groups))
    needed = sum(f > 0 for f in fractions)
    if len(distinct) < needed:
        raise DataError(
            "there are fewer groups than splits to share them among",
            file=catalog.root,
            stage="splits",
            value={"groups": len(distinct), "splits": needed},
            remedy=f"give videos of at least {needed} sources, or train on all and hold nothing "
            "out (--split all)",
        )
    strata = _strata(catalog, groups, distinct, label)
    chosen: dict[str, str] = {}
    pooled: list[str] = []
    for name, members in sorted(strata.items(), key=lambda pair: str(pair[0])):
        if name is None or len(members) < 2:
            pooled += members
        else:
            _deal(members, fractions, seed, chosen)
    _deal(pooled, fractions, seed, chosen)
    settings = {"fractions": list(fractions), "seed": seed}
    split = catalog.with_column("split", [chosen[g] for g in groups])
    return split.with_meta(splits=settings)


def folds(catalog: Catalog, column: str) -> list[Fold]:
    """Leave one fold out, for each value of a column.

    Args:
        catalog: any.
        column: a label column such as ``fold`` or ``person``, or ``"group"`` or ``"split"``; items
            without a value are in no fold.

    Returns:
        One fold a value, in order of the values.

    Raises:
        UnknownName: no such column.
        DataError: fewer than two values, or a group that lies in two folds.
    """
    if column in ("group", "split"):
        values = [None if v is None else str(v) for v in catalog.table.column(column).to_pylist()]
        names = sorted({v for v in values if v is not None})
        place = {name: i for i, name in enumerate(names)}
        codes = np.array([-1 if v is None else place[v] for v in values], dtype=np.int64)
    elif column in catalog.label_columns:
        codes, names = catalog.labels(column)
    else:
        raise UnknownName(
            "no such column to make folds of",
            file=catalog.path,
            value=column,
            remedy=nearest(column, [*catalog.label_columns, "group", "split"]),
        )
    present = [code for code in range(len(names)) if bool(np.any(codes == code))]
    if len(present) < 2:
        raise DataError("folds need two values or more", file=catalog.path, value=column)
    pairs = np.unique(np.stack([catalog.group_codes, codes], axis=1)[codes >= 0], axis=0)
    owners, counts = np.unique(pairs[:, 0], return_counts=True)
    if counts.max() > 1:
        row = int(np.flatnonzero(catalog.group_codes == owners[counts.argmax()])[0])
        raise DataError(
            "a group lies in two folds, so a source would be trained and judged on",
            file=catalog.path,
            stage="folds",
            value=catalog.item(row).group,
            remedy="take another column, or another --group-column",
        )
    return [
        Fold(
            name=names[code],
            train=np.flatnonzero((codes != code) & (codes >= 0)),
            test=np.flatnonzero(codes == code),
        )
        for code in present
    ]


def _strata(
    catalog: Catalog, groups: list[str], distinct: list[str], label: str | None
) -> dict[str | None, list[str]]:
    """Groups by class; one stratum without labels."""
    column = label if label is not None else catalog.label_column
    if column is None:
        return {None: distinct}
    catalog.labels(column)
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for group, value in zip(groups, catalog.table.column(LABEL + column).to_pylist(), strict=True):
        if value is not None:
            votes[group][str(value)] += 1
    strata: dict[str | None, list[str]] = defaultdict(list)
    for group in distinct:
        cast = sorted(votes[group].items(), key=lambda pair: (-pair[1], pair[0]))
        strata[cast[0][0] if cast else None].append(group)
    return strata


def _deal(
    members: list[str], fractions: tuple[float, float, float], seed: int, chosen: dict[str, str]
) -> None:
    """Share groups out in an order that the seed decides."""
    order = sorted(members, key=lambda g: hashlib.sha256(f"{seed}\0{g}".encode()).digest())
    counts = share(len(order), fractions)
    names = [name for name, count in zip(NAMES, counts, strict=True) for _ in range(count)]
    chosen.update(zip(order, names, strict=True))


def share(count: int, fractions: tuple[float, float, float]) -> tuple[int, int, int]:
    """How many of ``count`` groups go to train, val and test.

    Every split that is asked for gets one before any gets two, in the order train, test, val; the
    rest goes by largest remainder, in the same order on ties.

    Args:
        count: number of groups.
        fractions: the shares.
    """
    order = [i for i in (0, 2, 1) if fractions[i] > 0]
    given = [0, 0, 0]
    for i in order[:count]:
        given[i] = 1
    while sum(given) < count:
        lacking = max(order, key=lambda i: (fractions[i] * count - given[i], -order.index(i)))
        given[lacking] += 1
    return given[0], given[1], given[2]
