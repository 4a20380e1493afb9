"""What an evaluation judges: groups the encoder never saw, usable classes, features by split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage
from rhyme.errors import EvaluationError
from rhyme.evaluation.protocol import SplitData
from rhyme.evaluation.seen import TrainedOn
from rhyme.evaluation.splits import Classes, Splits, usable_classes
from rhyme.tasks import FeatureTable

__all__ = ["Seen", "classes_of", "shards_of", "split_features", "without_seen"]

Seen = Literal["error", "drop", "allow"]


def shards_of(catalog: Catalog) -> dict[str, Any]:
    """What was kept of the pixels, where they come from prepared shards: a setting like others."""
    told = catalog.meta.get("prepared")
    if not isinstance(told, dict):
        return {}
    kept = cast(dict[str, Any], told)
    return {"prepared": {name: kept.get(name) for name in ("size", "format", "quality", "fps")}}


def without_seen(
    package: EncoderPackage, catalog: Catalog, splits: Splits, seen: Seen, notes: list[str]
) -> Splits:
    """Hold the test groups against what the package says that it was trained on."""
    known = TrainedOn.of(package)
    if known is None:
        teller = "the file of weights" if package.extra.get("weights") else "the package"
        notes.append(
            f"{teller} does not say which groups it was trained on: that the test groups were "
            "unseen has to be taken on trust"
        )
        return splits
    hit = known.groups_in(catalog)
    if known and not hit:
        notes.append(
            "no group and no file that the encoder was trained on occurs in this data: that it "
            "does not hold the same videos under other names has to be taken on trust"
        )
    names = dict(zip(splits.test.tolist(), np.take(catalog.group_names, splits.test), strict=True))
    bad = {row for row, name in names.items() if name in hit}
    if not bad:
        return splits
    overlap = sorted({str(names[row]) for row in bad})
    files = [path for name in overlap if (path := hit[name]) is not None]
    by_file = f"; {len(files)} of them by their files, e.g. {files[0]}" if files else ""
    if seen == "allow":
        notes.append(
            f"the encoder was trained on {len(overlap)} of the test groups{by_file}; they are "
            "measured all the same, as asked"
        )
        return splits
    kept = np.array([row for row in splits.test if int(row) not in bad], dtype=np.int64)
    if seen == "error" or len(kept) == 0:
        share = f"{len(overlap)} of the" if len(kept) else f"all {len(overlap)}"
        drop = "to leave these groups out: --seen drop; " if len(kept) else ""
        own, drawn = package.card.get("seed"), catalog.meta.get("splits") or {}
        again = (
            f" (that of its own seed is drawn by --seed {own})"
            if splits.drawn and own not in (None, drawn.get("seed"))
            else ""
        )
        raise EvaluationError(
            f"the encoder was trained on {share} test groups{by_file}",
            file=catalog.root,
            stage="evaluate",
            value=overlap[:5],
            remedy=f"give the split it was trained with{again}, or data it never saw; "
            f"{drop}for other files of the same names: --seen allow",
        )
    notes.append(
        f"{len(overlap)} test groups that the encoder was trained on are left out "
        f"({len(bad)} items{by_file})"
    )
    return replace(splits, test=kept)


def classes_of(
    catalog: Catalog, column: str | None, splits: Splits, notes: list[str]
) -> Classes | None:
    """The classes that can be measured by; None, with a note, where there are none."""
    if column is None and catalog.label_column is None:
        if catalog.label_columns:
            notes.append(
                "no label column was chosen, so nothing is measured by labels; there are: "
                + ", ".join(catalog.label_columns)
            )
        return None
    codes, names = catalog.labels(column)
    found = usable_classes(codes, names, np.asarray(catalog.group_codes), splits)
    if found.left_out:
        listed = ", ".join(f"{name} ({why})" for name, why in list(found.left_out.items())[:20])
        more = len(found.left_out) - 20
        notes.append("classes left out: " + listed + (f" and {more} more" if more > 0 else ""))
    if len(found.used) < 2:
        notes.append("fewer than two classes are left: nothing is measured by labels")
        return None
    return found


def split_features(
    table: FeatureTable, splits: Splits, classes: Classes | None, seed: int
) -> SplitData:
    """One encoder's features by split; the table's rows count among ``splits.rows``."""
    origin = splits.rows[table.index]
    parts: dict[str, FeatureTable] = {}
    labels: dict[str, np.ndarray] = {}
    for name, members in splits.parts.items():
        rows = np.flatnonzero(np.isin(origin, members))
        parts[name] = table.select(rows)
        if classes is not None:
            labels[name] = classes.codes[origin[rows]]
    return SplitData(
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        labels=None if classes is None else labels,
        classes=() if classes is None else classes.names,
        seed=seed,
    )
