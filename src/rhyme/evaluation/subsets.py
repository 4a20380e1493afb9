"""Which of the labels a protocol of few labels may see: drawn by seed, or listed in a file."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rhyme.errors import EvaluationError
from rhyme.evaluation.pixels import Pixels
from rhyme.tasks.table import Integer
from rhyme.views import Keys

__all__ = ["balanced_subset", "listed_subset"]


def balanced_subset(
    ids: np.ndarray, codes: Integer, fraction: float, seed: int
) -> tuple[Integer, dict[str, Any]]:
    """A fixed subset of labelled items with equally many of each class.

    Whether an item is drawn depends on its id, its class and the seed alone, and a smaller subset
    is part of a larger one. A class that has fewer items than its share gives all it has.

    Args:
        ids: ``uint64 [n]`` stable ids of the items.
        codes: ``int64 [n]`` class of each, from 0.
        fraction: share of the items, in (0, 1].
        seed: which subset.

    Returns:
        Places of the chosen items, ascending, and what is written down of them: seed, items a
        class, and the ids' SHA-256; the ids themselves up to 1000.

    Raises:
        EvaluationError: a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise EvaluationError("a fraction of labels lies in (0, 1]", value=fraction)
    draw = Keys.of(seed, 0, ids).within("labels").uniform("order", 1)[:, 0]
    present = np.unique(codes)
    share = max(1, round(fraction * len(codes) / len(present)))
    parts = [np.flatnonzero(codes == c) for c in present]
    places = np.sort(np.concatenate([p[np.argsort(draw[p], kind="stable")][:share] for p in parts]))
    chosen = np.sort(np.asarray(ids, np.uint64)[places])
    written = {"seed": seed, "fraction": fraction, "a_class": share, **_facts(chosen)}
    return places.astype(np.int64), written


def listed_subset(pixels: Pixels, file: str | Path) -> tuple[Integer, dict[str, Any]]:
    """The labelled items that a file names, as the published lists of 1 % and 10 % of ImageNet do.

    Validation items may be among them, as nothing is chosen on them; test items may not. A name
    stands for all segments of its file. Items of classes that the evaluation leaves out are left
    out here too, and counted.

    Args:
        pixels: labelled items.
        file: text of one file name a line, e.g. ``n01440764_10043.JPEG``, or as much of its path
            as makes it the only one, e.g. ``n01440764/10043.JPEG``.

    Returns:
        The chosen rows of the catalog, ascending, and what is written down of them: the list's
        name, how many items, how many more were left out, and the ids' SHA-256; the ids themselves
        up to 1000.

    Raises:
        EvaluationError: the file cannot be read or is empty, or names what is not there, several
            files, a test item, one file twice, or no labelled item at all.
    """
    names = _names(Path(file))
    named = _items(pixels, file, names)
    rows = np.concatenate(named)
    test = [n for n, r in zip(names, named, strict=True) if np.isin(r, pixels.rows["test"]).any()]
    _refuse(file, "a test item", test)
    items, counts = np.unique(rows, return_counts=True)
    twice = items[counts > 1]
    _refuse(
        file,
        "a file twice",
        [n for n, r in zip(names, named, strict=True) if np.isin(r, twice).any()],
    )
    chosen = np.intersect1d(items, np.concatenate([pixels.rows["train"], pixels.rows["val"]]))
    if not len(chosen):
        _refuse(file, "an item without a label that is measured", names)
    ids = np.sort(np.asarray(pixels.catalog.facts(chosen).id, np.uint64))
    written = {"list": Path(file).name, "left_out": len(items) - len(chosen), **_facts(ids)}
    return chosen, written


def _items(pixels: Pixels, file: str | Path, names: Sequence[str]) -> list[Integer]:
    """The rows of the catalog that each name stands for: all segments of its file."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(pixels.catalog.table.column("path").to_pylist()):
        rows[path].append(row)
    known: dict[str, list[str]] = defaultdict(list)
    for path in rows:
        known[PurePosixPath(path).name].append(path)
    found = [
        [path for path in known[PurePosixPath(name).name] if f"/{path}".endswith(f"/{name}")]
        for name in names
    ]
    _refuse(file, "what is not there", [n for n, p in zip(names, found, strict=True) if not p])
    several = [n for n, paths in zip(names, found, strict=True) if len(paths) > 1]
    _refuse(file, "several files", several, "give more of each path, e.g. train/cat/0001.jpg")
    return [np.array(rows[path], np.int64) for (path,) in found]


def _names(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"the list of labelled items cannot be read: {error}",
            file=file,
            stage="evaluate",
            remedy="give a text file of one file name a line",
        ) from error
    if not any(names):
        raise EvaluationError(
            f"{file.name}, the list of labelled items, is empty", file=file, stage="evaluate"
        )
    return [name for name in names if name]


def _refuse(
    file: str | Path,
    what: str,
    names: Sequence[str],
    remedy: str = "give the list that was made for this collection",
) -> None:
    """Raise an error that counts the lines, if there are any, and shows the first."""
    if names:
        raise EvaluationError(
            f"{Path(file).name} names {what} in {len(names)} of its lines, first '{names[0]}'",
            file=file,
            stage="evaluate",
            remedy=remedy,
        )


def _facts(ids: np.ndarray) -> dict[str, Any]:
    """What is written down of chosen items, by their sorted ids ``uint64 [n]``."""
    facts: dict[str, Any] = {
        "items": len(ids),
        "sha256": hashlib.sha256(ids.astype("<u8").tobytes()).hexdigest(),
    }
    if len(ids) <= 1000:
        facts["ids"] = [int(i) for i in ids]
    return facts
