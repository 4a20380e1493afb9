"""Whether a collection was put in its place anew since its scan: other times, the same files.

A job that copies its data to the disk of its node, or a restore from a backup, leaves files of the
same sizes with new times. One file with another time has been changed; all of them have been staged
again, and the catalog still says what they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rhyme.catalog.schema import OFFSET, SHARD
from rhyme.media import MARK

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 256
_FILES = 32
"""Files that are looked at, spread over the collection."""
_LEAST = 3
"""Of fewer files a change of one cannot be told from a copy of all."""
_SHARE = 0.9


def staged_again(root: Path, table: pa.Table) -> bool:
    """Whether nearly all files have the size of the scan and another time.

    Args:
        root: folder of the collection, the one that was scanned.
        table: all its items.
    """
    if SHARD in table.column_names:
        return False  # of shards the times are never compared
    rows = np.unique(np.linspace(0, table.num_rows - 1, _ROWS).astype(np.int64))
    some = table.take(rows)
    inner = [False] * len(rows)
    if OFFSET in table.column_names:
        inner = some.column(OFFSET).is_valid().to_pylist()
    seen: dict[str, tuple[int | None, int | None]] = {}
    for path, files, size, stamp, member in zip(
        *(some.column(name).to_pylist() for name in ("path", "files", "bytes", "mtime_ns")),
        inner,
        strict=True,
    ):
        name = path.partition(MARK)[0] if member else (files or [path])[0]
        seen[name] = (None if member or files else size, stamp)
    there, other = 0, 0
    distinct = list(seen.items())
    for place in np.unique(np.linspace(0, len(distinct) - 1, _FILES).astype(np.int64)):
        name, (size, stamp) = distinct[place]
        try:
            facts = (root / name).stat()
        except (OSError, ValueError):
            continue
        there += 1
        other += size in (None, facts.st_size) and stamp not in (None, facts.st_mtime_ns)
    return there >= _LEAST and other >= _SHARE * there
