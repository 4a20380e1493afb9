"""What a row of a catalog is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from rhyme.media import Kind

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
LABEL = "label:"
"""Prefix of label columns in the table."""
ASSET = "asset:"
"""Prefix of asset columns in the table."""
SHARD = "shard"
"""Column of a catalog of prepared shards: the file that holds an item's frames."""

OFFSET = "offset"
STORED = "stored"
"""Columns of a catalog with pictures in archives: where a member begins, and its bytes there."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One row: a stretch of one source.

    Args:
        index: row number in the catalog it was taken from.
        id: stable 63-bit number made from path and start; the key of all randomness.
        path: path relative to the catalog's root, with ``/``; of a frame folder its common stem.
        kind: ``"video"``, ``"frames"``, ``"image"`` or ``"audio"``.
        start: first moment, seconds after the first shown frame of the file.
        stop: end, seconds; equal to ``start`` for a picture.
        fps: mean frames per second; 0 for a picture or sound.
        frames: frames shown between start and stop; from header facts where not counted.
        width: pixels per row, after rotation.
        height: rows, after rotation.
        audio: there is a sound track.
        group: name of the source; masks and splits go by it.
        split: name of the split, or None.
        status: ``"ok"``, or ``"partial"`` where the file is cut or damaged.
        labels: label by column; None where missing.
        assets: relative path by asset name, e.g. a mask or a caption file.
        files: the picture files of a frame folder, relative to the root; else empty.
    """

    index: int
    id: int
    path: str
    kind: Kind
    start: float
    stop: float
    fps: float
    frames: int
    width: int
    height: int
    audio: bool
    group: str
    split: str | None
    status: str
    labels: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    assets: dict[str, str] = field(default_factory=dict[str, str])
    files: tuple[str, ...] = ()

    @classmethod
    def of_row(cls, index: int, row: Mapping[str, Any]) -> Item:
        """The item that a row of the table says.

        Args:
            index: number of the row.
            row: its values by column.
        """
        labels = {k.removeprefix(LABEL): v for k, v in row.items() if k.startswith(LABEL)}
        assets = {
            k.removeprefix(ASSET): v
            for k, v in row.items()
            if k.startswith(ASSET) and v is not None
        }
        derived = {"index", "labels", "assets", "files"}
        return cls(
            index=index,
            **{f.name: row[f.name] for f in fields(cls) if f.name not in derived},
            labels=labels,
            assets=assets,
            files=tuple(row["files"] or ()),
        )

    @property
    def duration(self) -> float:
        """Seconds between start and stop."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemFacts:
    """Facts of ``b`` items as arrays, all ``[b]``.

    Args:
        id: uint64, stable numbers.
        start: float64, seconds.
        stop: float64, seconds.
        fps: float64, mean frames per second.
        frames: int64, frames between start and stop.
        width: int64, pixels.
        height: int64, pixels.
        group: int64, dense codes within the catalog they were taken from.
    """

    id: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    fps: np.ndarray
    frames: np.ndarray
    width: np.ndarray
    height: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.id)


def stable_id(path: str, start: float) -> int:
    """A 63-bit number that depends on nothing but path and start.

    Args:
        path: path relative to the root, with ``/``.
        start: seconds; rounded to a microsecond.

    Returns:
        ``0 <= id < 2**63``.
    """
    digest = hashlib.sha256(f"{path}\0{start:.6f}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def arrow_schema(labels: list[str], assets: list[str], *, archives: bool = False) -> pa.Schema:
    """The table's columns.

    Args:
        labels: names of the label columns, without prefix.
        assets: names of the asset columns, without prefix.
        archives: some items lie within archives.
    """
    import pyarrow as pa

    words = pa.dictionary(pa.int32(), pa.string())
    fields: list[tuple[str, pa.DataType]] = [
        ("id", pa.int64()),
        ("path", pa.string()),
        ("kind", words),
        ("start", pa.float64()),
        ("stop", pa.float64()),
        ("fps", pa.float64()),
        ("frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("audio", pa.bool_()),
        ("group", pa.string()),
        ("split", words),
        ("status", words),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("spacing", pa.float64()),
        ("files", pa.list_(pa.string())),
    ]
    if archives:
        fields += [(OFFSET, pa.int64()), (STORED, pa.int64())]
    fields += [(LABEL + name, words) for name in labels]
    fields += [(ASSET + name, pa.string()) for name in assets]
    return pa.schema(fields)


def build_table(
    rows: list[dict[str, object]], labels: list[str], assets: list[str], meta: Mapping[str, object]
) -> pa.Table:
    """A table from plain rows.

    Args:
        rows: one mapping an item, keyed like the schema; missing keys become null.
        labels: names of the label columns, without prefix.
        assets: names of the asset columns, without prefix.
        meta: written into the schema as JSON.
    """
    import pyarrow as pa

    archives = any(row.get(OFFSET) is not None for row in rows)
    schema = arrow_schema(labels, assets, archives=archives)
    columns: list[pa.Array] = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        if pa.types.is_dictionary(column.type):
            columns.append(encode_words([None if v is None else str(v) for v in values]))
        else:
            columns.append(pa.array(values, type=column.type))
    return with_meta(pa.Table.from_arrays(columns, schema=schema), meta)


def encode_words(values: list[str | None]) -> pa.DictionaryArray:
    """Strings as codes into sorted names; names that are all numbers are sorted as numbers.

    Args:
        values: strings or None.
    """
    import pyarrow as pa

    names = sorted({v for v in values if v is not None})
    if names and all(_number(n) is not None for n in names):
        names.sort(key=lambda n: (_number(n) or 0.0, n))
    place = {name: i for i, name in enumerate(names)}
    codes = pa.array([None if v is None else place[v] for v in values], type=pa.int32())
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, type=pa.string()))


def with_words(table: pa.Table, name: str, values: Sequence[str | None]) -> pa.Table:
    """The table with a column of words, replaced or new.

    Args:
        table: the table.
        name: the column.
        values: one a row.
    """
    import pyarrow as pa

    words = encode_words(list(values))
    if name == "group":  # mostly one value an item: plain strings
        words = pa.array(list(values), type=pa.string())
    names = table.column_names
    if name in names:
        return table.set_column(names.index(name), name, words)
    return table.append_column(name, words)


def with_meta(table: pa.Table, meta: Mapping[str, object]) -> pa.Table:
    """The table with new metadata.

    Args:
        table: the table.
        meta: written as JSON under the key ``rhyme``.
    """
    import json

    return table.replace_schema_metadata({b"rhyme": json.dumps(dict(meta)).encode()})


def _number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if value == value else None
