"""A catalog in a few numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rhyme.catalog.catalog import Catalog


def summarise(catalog: Catalog) -> dict[str, object]:
    """Counts and sums of a catalog, ready for JSON.

    Args:
        catalog: any.

    Returns:
        root, items, files, groups, hours, frames, with_sound, kinds, splits and status (counts by
        name), label_column, labels (number of names by column), quarantined, animations (picture
        files of which only the first picture is used), ignored (files left out by kind), parts
        (number of pictures by ending, where samples of archives hold several) and fingerprint.
    """
    seconds = float((catalog.numbers("stop") - catalog.numbers("start")).sum())
    return {
        "root": str(catalog.root),
        "items": len(catalog),
        "files": len(catalog.table.column("path").unique()),
        "groups": int(catalog.group_codes.max(initial=-1)) + 1,
        "hours": seconds / 3600,
        "frames": int(catalog.numbers("frames").sum()),
        "with_sound": int(catalog.numbers("audio").sum()),
        "kinds": _counts(catalog, "kind"),
        "splits": _counts(catalog, "split"),
        "status": _counts(catalog, "status"),
        "label_column": catalog.label_column,
        "labels": {name: len(catalog.labels(name)[1]) for name in catalog.label_columns},
        "quarantined": len(cast("list[object]", catalog.meta.get("quarantine", []))),
        "animations": len(cast("list[object]", catalog.meta.get("animations", []))),
        "ignored": catalog.meta.get("ignored", {}),
        "parts": catalog.meta.get("parts", {}),
        "fingerprint": catalog.fingerprint,
    }


def _counts(catalog: Catalog, column: str) -> dict[str, int]:
    found = catalog.table.column(column).value_counts().to_pylist()
    counts = Counter[str]()
    for row in found:
        counts["none" if row["values"] is None else str(row["values"])] += int(row["counts"])
    return dict(sorted(counts.items()))
