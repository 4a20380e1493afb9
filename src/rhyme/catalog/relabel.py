"""Labels for a catalog that was scanned before, as it stands: its items, groups and split stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from rhyme.catalog.catalog import Catalog
from rhyme.catalog.labels import Columns, Labels, from_folders, read_csv
from rhyme.catalog.matching import resolve
from rhyme.catalog.schema import LABEL


def labelled(
    catalog: Catalog,
    labels: str | Path,
    *,
    label_column: str | None = None,
    path_column: str | None = None,
) -> Catalog:
    """A catalog with labels from a CSV file or from folder names; it is not written.

    Its own labels stay beside, but for a column of the same name. Groups and splits that the file
    names are not taken.

    Args:
        catalog: any.
        labels: a CSV file, or ``"folder"`` for the first folder of each path.
        label_column: the CSV file's column that is the main label; by default as in a scan.
        path_column: its column that names the file.

    Raises:
        CatalogError: the file is damaged, or names files that the catalog does not know.
        UnknownName: it has no such column.
    """
    paths = cast("list[str]", catalog.table.column("path").to_pylist())
    if str(labels) == "folder":
        found = from_folders(paths, force=True) or Labels()
    else:
        found = read_csv(Path(labels), Columns(path=path_column, label=label_column))
        left_out = cast("list[str]", catalog.quarantine.column("path").to_pylist())
        known = list(dict.fromkeys([*paths, *left_out]))
        matched = resolve(found, known, catalog.root, strict=True)
        found = replace(found, values={path: found.values[w] for path, w in matched.items()})
    for name in found.names:
        values = [found.values.get(path, {}).get(name) for path in paths]
        catalog = catalog.with_column(LABEL + name, values)
    return catalog.with_meta(label_column=found.main)
