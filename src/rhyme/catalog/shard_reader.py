"""From a row of a catalog of prepared shards to a reader of its frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhyme.catalog.schema import SHARD
from rhyme.errors import CatalogError
from rhyme.media import Limits, PreparedFrames

if TYPE_CHECKING:
    import pyarrow as pa


def shard_reader(
    root: Path, meta: Mapping[str, Any], row: pa.Table, name: str, limits: Limits
) -> PreparedFrames:
    """A reader of an item in prepared shards.

    Args:
        root: folder of the shards.
        meta: metadata of the catalog.
        row: the item's row.
        name: the item's path, for messages.
        limits: bounds.

    Raises:
        CatalogError: the row does not say where its frames are, or names another folder.
    """
    shard, entry = row.column(SHARD)[0].as_py(), row.column("entry")[0].as_py()
    try:
        size = meta["prepared"]["shards"][shard]["bytes"]
    except (KeyError, TypeError):
        size = None
    plain = isinstance(shard, str) and Path(shard).name == shard
    if not (plain and isinstance(entry, int) and isinstance(size, int)):
        raise CatalogError(
            "the catalog does not say which shard holds an item",
            file=root,
            value=name,
            remedy="prepare the shards again: rhyme prepare DIR --out SHARDS",
        )
    return PreparedFrames(root / shard, entry, name=name, size=size, limits=limits)
