"""Catalog tables on disk: Arrow IPC files that are mapped into memory, and Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rhyme.catalog.schema import LABEL, OFFSET, SHARD, VERSION, encode_words
from rhyme.errors import CatalogError
from rhyme.media import MARK
from rhyme.media.patience import patiently
from rhyme.run import fsync_directory

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "catalog.arrow"
"""Name of the catalog file in a folder."""


CHANGED = "put it back with its time (cp -a, rsync -t); or scan again, for a new run"


def file_of(path: str | Path) -> Path:
    """The catalog file that a path means: itself, or ``catalog.arrow`` in a folder."""
    file = Path(path)
    return file / FILE_NAME if file.is_dir() else file


def read_arrow(file: Path) -> pa.Table:
    """Map a table into memory.

    Args:
        file: an Arrow IPC file.

    Raises:
        CatalogError: missing or damaged.
    """
    import pyarrow as pa

    if not file.is_file():
        raise CatalogError(
            "no such catalog", file=file, remedy="make one: rhyme scan FOLDER --out FILE"
        )
    try:
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError, EOFError) as error:
        raise CatalogError(
            f"the catalog is damaged: {error}", file=file, remedy="scan the folder again"
        ) from error


def read_meta(table: pa.Table, file: Path | None) -> dict[str, Any]:
    """What a table says of itself as a catalog.

    Args:
        table: the table.
        file: where it comes from, for the message.

    Raises:
        CatalogError: it is no catalog, or of another version.
    """
    raw = (table.schema.metadata or {}).get(b"rhyme")
    if raw is None:
        raise CatalogError("not a catalog: the table says nothing of rhyme", file=file)
    meta = cast("dict[str, Any]", json.loads(raw))
    if meta.get("version") != VERSION:
        raise CatalogError(
            "the catalog was written by another version of rhyme",
            file=file,
            value=meta.get("version"),
            remedy="scan the folder again",
        )
    return meta


def write_arrow(table: pa.Table, file: Path) -> None:
    """Write a table, whole or not at all, and make it durable.

    Args:
        table: the table.
        file: where to; an existing file is replaced.

    Raises:
        CatalogError: it cannot be written.
    """
    import pyarrow as pa

    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as sink:
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table.combine_chunks())
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(file)
        fsync_directory(file.parent)
    except OSError as error:
        raise CatalogError(
            f"the catalog cannot be written: {error.strerror or error}",
            file=file,
            remedy="check free space and permissions, or give another --out",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read_parquet(file: Path) -> pa.Table:
    """Read a table from Parquet, its words encoded anew.

    Args:
        file: the Parquet file.

    Raises:
        CatalogError: missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"cannot be read as Parquet: {error}", file=file) from error
    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type) or column.name.startswith(LABEL):
            words = encode_words(table.column(place).to_pylist())
            table = table.set_column(place, column.name, words)
    return table


def write_parquet(table: pa.Table, file: Path) -> None:
    """Write a table as Parquet.

    Args:
        table: the table.
        file: where to.

    Raises:
        CatalogError: it cannot be written.
    """
    import pyarrow.parquet as pq

    try:
        pq.write_table(table, file)
    except OSError as error:
        raise CatalogError(f"cannot be written: {error}", file=file) from error


def check_unchanged(
    file: Path, *, size: int | None, mtime_ns: int | None, excused: Callable[[], bool]
) -> None:
    """Refuse a file that is no longer the one that was scanned.

    Args:
        file: the file.
        size: bytes at the scan; None does not compare.
        mtime_ns: time of its last change at the scan, nanoseconds; None does not compare.
        excused: asked whether another time alone says nothing, as the whole folder was copied.

    Raises:
        CatalogError: the file has changed or gone.
        StorageError: the disk or the network fails again and again.
    """
    try:
        facts = patiently(file.stat, file)
    except OSError as error:
        raise CatalogError(
            "the file is gone since the scan",
            file=file,
            stage="open",
            remedy="scan again, or give the folder the data has moved to",
        ) from error
    later = mtime_ns not in (None, facts.st_mtime_ns)
    if size not in (None, facts.st_size) or (later and not excused()):
        raise CatalogError(
            "the file has changed since the scan", file=file, stage="open", remedy=CHANGED
        )


def absolute_place(path: Path) -> Path:
    """A path from the root of the file system, its last part a name: ``..`` is followed."""
    return path.resolve() if ".." in path.parts else path.absolute()


def relative_root(root: Path, file: Path) -> str | None:
    """The data's folder relative to the catalog file, where both can move together.

    That is so where the catalog lies in the data's folder or the data below the catalog's.

    Args:
        root: the data's folder.
        file: the catalog file.
    """
    home, data = file.absolute().parent, root.absolute()
    if home.is_relative_to(data) or data.is_relative_to(home):
        return os.path.relpath(data, home)
    return None


def first_file(table: pa.Table) -> str:
    """The file of the first item, relative to the data's folder; empty where none tells of it.

    Prepared shards are made with their catalog and stay beside it: one that is missing is gone.
    """
    if table.num_rows == 0:
        return ""
    row = table.slice(0, 1).to_pylist()[0]
    path = str(row.get("path", ""))
    if row.get(SHARD) is not None:
        return ""
    if row.get(OFFSET) is not None:
        return path.partition(MARK)[0]
    return str((row.get("files") or [path])[0])


def find_root(meta: Mapping[str, Any], file: Path, first: str) -> Path:
    """The data's folder: relative to the catalog where the data moved with it, else as recorded.

    Args:
        meta: the catalog's metadata.
        file: the catalog file.
        first: a file of the data, relative to their folder; it tells where they are.
    """
    recorded = Path(str(meta["root"]))
    relative = meta.get("root_relative")
    if relative is None:
        return recorded
    beside = Path(os.path.normpath(file.absolute().parent / str(relative)))
    stayed = not os.path.lexists(beside / first) and os.path.lexists(recorded / first)
    return recorded if stayed else beside
