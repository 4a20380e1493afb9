"""Files of a collection that are gone since its scan: found all at once, before any work begins."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rhyme.catalog.catalog import Catalog
from rhyme.catalog.examine import quarantined, tool_versions
from rhyme.catalog.schema import OFFSET, SHARD
from rhyme.media import MARK

__all__ = ["missing_files", "without_files"]

REMEDY = "put the file back, or scan again"


def missing_files(
    catalog: Catalog, progress: Callable[[int, int], None] | None = None
) -> dict[str, list[int]]:
    """The files that are not where the scan saw them, each with the rows of its items.

    Every folder is listed once. An archive or shard counts as one file, and so does a folder of
    frames, which is missing when any of its pictures is. A folder that cannot be listed for another
    reason than its absence is not judged.

    Args:
        catalog: the items.
        progress: called with the number of folders done and in all.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    owners: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row, (name, files) in enumerate(_files(catalog)):
        if name not in rows:
            for file in files:
                folder, _, base = file.rpartition("/")
                owners[folder][base].append(name)
        rows[name].append(row)
    gone: set[str] = set()
    for done, (folder, wanted) in enumerate(owners.items(), 1):
        for base in _absent(catalog.root / folder, list(wanted)):
            gone.update(wanted[base])
        if progress is not None:
            progress(done, len(owners))
    return {name: found for name, found in rows.items() if name in gone}


def without_files(catalog: Catalog, gone: Mapping[str, Sequence[int]]) -> Catalog:
    """The catalog without the items of missing files, which join its quarantine.

    Args:
        catalog: the items.
        gone: rows by file, as `missing_files` gives them; not all rows.
    """
    kept = np.setdiff1d(np.arange(len(catalog)), [row for rows in gone.values() for row in rows])
    facts = {
        "reason": "FileMissing: the file is gone since the scan",
        "remedy": REMEDY,
        "versions": tool_versions(),
        "sha256": "",
    }
    before = catalog.quarantine.to_pylist()
    return catalog.select(indices=kept).with_meta(
        quarantine=[*before, *(quarantined(name, facts) for name in gone)]
    )


def _files(catalog: Catalog) -> list[tuple[str, list[str]]]:
    """For each item the file that it is named after, and all files that are read for it."""
    table = catalog.table
    if SHARD in table.column_names:
        return [(str(name), [str(name)]) for name in table.column(SHARD).to_pylist()]
    paths = [str(path) for path in table.column("path").to_pylist()]
    if OFFSET in table.column_names:
        within = table.column(OFFSET).is_valid().to_pylist()
        paths = [
            path.partition(MARK)[0] if inner else path
            for path, inner in zip(paths, within, strict=True)
        ]
    listed = table.column("files").to_pylist()
    return [(path, files or [path]) for path, files in zip(paths, listed, strict=True)]


def _absent(folder: Path, names: list[str]) -> list[str]:
    """Those of the names that no file of the folder has."""
    try:
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return names
    except (OSError, ValueError):
        return []
    # A file system may spell names in another way than they were asked for.
    return [name for name in names if name not in present and not os.path.lexists(folder / name)]
