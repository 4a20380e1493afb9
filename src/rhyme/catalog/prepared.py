"""The catalog of a folder of prepared shards: the source's rows, and where their frames lie.

Ids, paths, groups, labels, splits and all facts stay those of the source, so that every draw and
the fingerprint stay the same. Two columns are added: ``shard``, a file name in the folder, and
``entry``, the number of the source file in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rhyme.catalog.candidates import Candidate
from rhyme.catalog.catalog import Catalog
from rhyme.catalog.examine import quarantined, refusal
from rhyme.catalog.schema import SHARD, encode_words
from rhyme.catalog.storage import FILE_NAME
from rhyme.media import DEFAULT_LIMITS, FrameReader, Limits


def prepared_catalog(
    catalog: Catalog,
    *,
    root: Path,
    shards: Sequence[str],
    entries: Sequence[int],
    hurt: np.ndarray,
    facts: Mapping[str, Any],
    quarantine: Sequence[Mapping[str, str]],
) -> Catalog:
    """A source's catalog, its items to be read from shards.

    Args:
        catalog: the rows that the shards hold.
        root: the folder of the shards.
        shards: file name of each row's shard.
        entries: number of each row's entry in it.
        hurt: ``bool [n]`` rows in which damaged frames were found.
        facts: what was kept, and how well; goes into the metadata as ``prepared``.
        quarantine: files that are left out.

    Returns:
        The catalog, not yet written.
    """
    import pyarrow as pa

    table = catalog.table
    status = [
        "partial" if h else str(s.as_py()) for h, s in zip(hurt, table["status"], strict=True)
    ]
    # Whoever compares states of files must see shards that were made anew as changed.
    stamps = {name: (root / name).stat().st_mtime_ns for name in set(shards)}
    columns: dict[str, Any] = {
        "status": encode_words(list(status)),
        "mtime_ns": pa.array([stamps[name] for name in shards], type=pa.int64()),
        SHARD: encode_words(list(shards)),
        "entry": pa.array(list(entries), type=pa.int32()),
    }
    for name, values in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    made = Catalog(table, root=root)
    return made.with_meta(prepared=dict(facts), quarantine=[dict(row) for row in quarantine])


def find_prepared(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> FrameReader | None:
    """A reader of a source file by its name within a folder of shards, ``SHARDS/a/b.mp4``.

    Args:
        path: the folder's path and the item's path.
        limits: bounds.

    Returns:
        The reader; None where no folder above holds shards of such a file.

    Raises:
        CatalogError: the folder's catalog is damaged.
    """
    for folder in path.parents:
        if not (folder / FILE_NAME).is_file():
            continue
        catalog = Catalog.open(folder)
        if SHARD not in catalog.table.column_names:
            return None
        names = catalog.table.column("path").to_pylist()
        name = path.relative_to(folder).as_posix()
        return catalog.reader(names.index(name), limits=limits) if name in names else None
    return None


def refusal_of(catalog: Catalog, row: int, error: Exception) -> dict[str, str]:
    """The quarantine row for a file that proved unusable after the scan.

    Args:
        catalog: the collection.
        row: an item of the file.
        error: what reading it raised.
    """
    item = catalog.item(row)
    candidate = Candidate(path=item.path, kind=item.kind, files=item.files)
    return quarantined(item.path, refusal(catalog.root, candidate, error)["refused"])
