"""The rows of a store: vectors in a flat file, what they are in a LanceDB table beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import StoreError
from rhyme.run import fsync_directory, naming, sha256_file, take_room
from rhyme.store.layout import TABLE, VECTORS, StoreInfo
from rhyme.store.shards import ItemKey, Rows

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Moments", "old_moments", "read_table", "read_vectors", "write_generation"]

_WORDS = ("path", "kind", "group", "collection", "labels", "files", "state", "package")
_REMEDY = "embed the collection again into a new folder"
_BATCH = 16384  # rows a batch on the way to the table: bounds the memory


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Rows as they are carried from one generation to the next.

    Attributes:
        table: Arrow table of everything but the vectors, in the order of ``row``; None where the
            store is new.
        vectors: ``float32 [n, d]``.
        keys: the item of each row.
    """

    table: pa.Table | None
    vectors: NDArray[np.float32]
    keys: list[ItemKey]

    def without(self, others: Sequence[ItemKey], seen: Sequence[ItemKey]) -> Moments:
        """The moments of items that none of the others speaks of anew and whose file is the same.

        Args:
            others: items that take the place of those that they overlap.
            seen: all items of the collection. What the store holds of an earlier state of their
                files has gone, also behind the end of a file that became shorter.
        """
        if self.table is None:
            return self
        by_path: dict[str, list[ItemKey]] = {}
        for key in others:
            by_path.setdefault(key.path, []).append(key)
        states: dict[str, set[str]] = {}
        for key in seen:
            states.setdefault(key.path, set()).add(key.state)
        stays = {
            key: key.state in states.get(key.path, (key.state,))
            and not any(key.overlaps(other) for other in by_path.get(key.path, ()))
            for key in set(self.keys)
        }
        rows = np.flatnonzero([stays[key] for key in self.keys])
        return Moments(
            table=self.table.take(rows),
            vectors=self.vectors[rows],
            keys=[self.keys[row] for row in rows],
        )


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a generation holds.

    Attributes:
        count: moments.
        items: items.
        dim: width of a vector.
        sha256: of the vector file.
    """

    count: int
    items: int
    dim: int
    sha256: str


def read_vectors(directory: Path, info: StoreInfo, *, verify: bool = False) -> NDArray[np.float32]:
    """The vectors, mapped from their file.

    Args:
        directory: the store.
        info: what it is.
        verify: read all bytes and hold them against the checksum.

    Returns:
        ``float32 [n, d]``; changes stay in memory.

    Raises:
        StoreError: missing, damaged, or of another number.
    """
    file = directory / info.generation / VECTORS
    try:
        # copy on write: torch refuses to look at memory that it must not write to
        vectors = np.load(file, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError as error:
        raise StoreError(
            "the vectors are missing", file=file, stage="open store", remedy=_REMEDY
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(
            f"the vectors are damaged: {error}", file=file, stage="open store", remedy=_REMEDY
        ) from error
    if vectors.dtype != np.float32 or vectors.shape != (info.count, info.dim):
        raise StoreError(
            f"the vectors are {vectors.dtype} {vectors.shape}, not float32 "
            f"{(info.count, info.dim)}",
            file=file,
            stage="open store",
            remedy=_REMEDY,
        )
    if verify and sha256_file(file) != info.vectors_sha256:
        raise StoreError(
            "the vectors are damaged: their checksum is wrong",
            file=file,
            stage="open store",
            remedy=_REMEDY,
        )
    return cast(NDArray[np.float32], vectors)


def read_table(directory: Path, info: StoreInfo) -> pa.Table:
    """What the vectors are, without the vectors, in their order.

    Args:
        directory: the store.
        info: what it is.

    Returns:
        Arrow table with the columns ``row, item, path, kind, time, start, stop, spacing, group,
        collection, labels, files, state, package``.

    Raises:
        StoreError: missing, damaged, or of another number.
    """
    import lancedb

    folder = directory / info.generation
    names = [name for name, _ in _fields()]
    try:
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        opened = lancedb.connect(str(folder)).open_table(TABLE)
        found = opened.search().select(names).limit(info.count + 1).to_arrow()
    except Exception as error:  # the database raises plain RuntimeError, ValueError, OSError
        raise StoreError(
            f"the table of moments is missing or damaged: {error}".splitlines()[0],
            file=folder,
            stage="open store",
            remedy=_REMEDY,
        ) from error
    table = found.select(names).sort_by("row")
    if table.column("row").to_pylist() != list(range(info.count)):
        raise StoreError(
            f"the table holds {table.num_rows} moments, not {info.count}",
            file=folder,
            stage="open store",
            remedy=_REMEDY,
        )
    return table


def old_moments(directory: Path, info: StoreInfo | None) -> Moments:
    """All rows of a store, to carry over.

    Args:
        directory: the store.
        info: what it is; None where it is new.

    Raises:
        StoreError: as :func:`read_vectors` and :func:`read_table`.
    """
    if info is None:
        return Moments(table=None, vectors=np.zeros((0, 0), np.float32), keys=[])
    table = read_table(directory, info)
    columns = [table.column(n).to_pylist() for n in ("path", "start", "stop", "state")]
    keys = [ItemKey(*values) for values in zip(*columns, strict=True)]
    return Moments(table=table, vectors=read_vectors(directory, info), keys=keys)


def write_generation(
    folder: Path,
    kept: Moments,
    new: Iterable[tuple[ItemKey, Rows, dict[str, Any]]],
    package: str,
) -> Written:
    """Write all rows into a new folder and make them durable.

    Args:
        folder: the folder, which must not exist.
        kept: rows carried over; they come first.
        new: items with their moments and facts, in order.
        package: hash of the encoder.

    Returns:
        What it holds: one moment at least.

    Raises:
        StoreError: it cannot be written.
    """
    import lancedb
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name, _ in _fields()}
    vectors: list[NDArray[np.float32]] = [kept.vectors] if len(kept.keys) else []
    items = len(set(kept.keys))
    if kept.table is not None:
        for name in columns:
            columns[name] = kept.table.column(name).to_pylist()
    for key, rows, facts in new:
        count = len(rows.times)
        shared = {**facts, **key._asdict(), "package": package}
        for name, values in columns.items():
            if name == "time":
                values.extend(rows.times.tolist())
            elif name != "row":
                values.extend([shared[name]] * count)
        vectors.append(rows.vectors)
        items += 1
    total, dim = sum(len(v) for v in vectors), vectors[0].shape[1]
    columns["row"] = list(range(total))

    folder.mkdir()
    file = folder / VECTORS
    with naming(file):
        matrix = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(total, dim))
        take_room(file)
    at = 0
    for part in vectors:
        matrix[at : at + len(part)] = part
        at += len(part)
    matrix.flush()

    meta = pa.table({name: pa.array(columns[name], type=kind) for name, kind in _fields()})
    vector = pa.field("vector", pa.list_(pa.float32(), dim))
    schema = meta.schema.append(vector)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, total, _BATCH):
            flat = pa.array(matrix[start : start + _BATCH].reshape(-1))
            listed = pa.FixedSizeListArray.from_arrays(flat, dim)
            part = meta.slice(start, _BATCH).combine_chunks().append_column(vector, listed)
            yield from part.to_batches()

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    try:
        lancedb.connect(str(folder)).create_table(TABLE, data=reader, schema=schema)
    except (OSError, RuntimeError) as error:
        why = str(error).partition(", /")[0][:300]  # what follows are lines of lance's source
        raise StoreError(
            f"the table of the store cannot be written: {why}",
            file=folder.parent,
            stage="embed",
            remedy="check the free space, then run the command again: it goes on",
        ) from error
    with naming(folder):
        _make_durable(folder)
    return Written(count=total, items=items, dim=dim, sha256=sha256_file(file))


def _fields() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    fields: list[tuple[str, pa.DataType]] = [("row", pa.int64()), ("item", pa.int64())]
    fields += [(name, pa.float64()) for name in ("time", "start", "stop", "spacing")]
    return fields + [(name, pa.string()) for name in _WORDS]


def _make_durable(folder: Path) -> None:
    for path, _, files in os.walk(folder):
        for name in files:
            with (Path(path) / name).open("rb") as file:
                os.fsync(file.fileno())
        fsync_directory(Path(path))
    fsync_directory(folder.parent)
