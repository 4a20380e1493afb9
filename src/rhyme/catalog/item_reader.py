"""From a row of a catalog to a reader of its frames: of its file, or of prepared shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhyme.catalog import storage
from rhyme.catalog.schema import OFFSET, SHARD, STORED, Item
from rhyme.errors import CatalogError
from rhyme.media import MARK, FrameReader, Limits, Member, Picture, PreparedFrames, open_reader

if TYPE_CHECKING:
    import pyarrow as pa


def item_reader(
    root: Path,
    meta: Mapping[str, Any],
    row: pa.Table,
    item: Item,
    limits: Limits,
    staged: Callable[[], bool],
) -> FrameReader:
    """A reader of an item; times are those of its file.

    Args:
        root: folder of the collection.
        meta: metadata of the catalog.
        row: the item's row.
        item: the same, for people.
        limits: bounds for the file.
        staged: tells whether the collection was put in its place anew, so that times say nothing.

    Raises:
        CatalogError: the file has changed or gone since the scan, or the catalog is forged.
    """
    if SHARD in row.column_names:
        return _shard_reader(root, meta, row, item.path, limits)
    if OFFSET in row.column_names and row.column(OFFSET)[0].is_valid:
        return _archived(root, meta, row, item.path, limits, staged)
    files = [root / name for name in item.files or (item.path,)]
    size, stamp = row.column("bytes")[0].as_py(), row.column("mtime_ns")[0].as_py()
    # A copy of the folder has other times, and of a frame folder only the sum was kept.
    storage.check_unchanged(
        files[0],
        size=None if item.files else size,
        mtime_ns=None if has_moved(root, meta) else stamp,
        excused=staged,
    )
    spacing = row.column("spacing")[0].as_py()
    return open_reader(
        item.kind,
        files if item.kind == "frames" else files[0],
        spacing=1.0 if spacing is None else float(spacing),
        limits=limits,
    )


def has_moved(root: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the data lie elsewhere than at the scan."""
    return str(root.absolute()) != str(meta.get("root"))


def _archived(
    root: Path,
    meta: Mapping[str, Any],
    row: pa.Table,
    path: str,
    limits: Limits,
    staged: Callable[[], bool],
) -> Picture:
    """A reader of a picture within an archive.

    Args:
        root: folder of the collection.
        meta: metadata of the catalog.
        row: the item's row.
        path: the item's path, ``archive!/member``.
        limits: bounds.
        staged: as for :func:`item_reader`.

    Raises:
        CatalogError: the archive has changed or gone since the scan, or the catalog is forged.
    """
    archive, mark, name = path.partition(MARK)
    offset, stored, size = (row.column(c)[0].as_py() for c in (OFFSET, STORED, "bytes"))
    whole = all(isinstance(n, int) and n >= 0 for n in (offset, stored, size))
    outside = Path(archive).is_absolute() or ".." in Path(archive).parts
    if outside or not (mark and whole):
        raise CatalogError(
            "the catalog does not say where in its archive an item lies",
            file=root,
            value=path,
            remedy="scan the folder again",
        )
    stamp = None if has_moved(root, meta) else row.column("mtime_ns")[0].as_py()
    storage.check_unchanged(root / archive, size=None, mtime_ns=stamp, excused=staged)
    member = Member(archive=root / archive, name=name, offset=offset, stored=stored, size=size)
    return Picture(member, limits=limits)


def _shard_reader(
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
