"""A collection as a table of items, memory-mapped from an Arrow file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from rhyme.catalog import storage
from rhyme.catalog.columns import Columns
from rhyme.catalog.content import content_hash, dated_hash
from rhyme.catalog.item_reader import has_moved, item_reader
from rhyme.catalog.schema import (
    LABEL,
    Item,
    ItemFacts,
    with_meta,
    with_words,
)
from rhyme.catalog.select import pick_rows
from rhyme.catalog.staged import staged_again
from rhyme.catalog.summary import summarise
from rhyme.errors import DataError, UnknownName, nearest
from rhyme.media import DEFAULT_LIMITS, FrameReader, Limits

if TYPE_CHECKING:
    import pyarrow as pa


class Catalog:
    """Items of one collection; open one with `open`, make one with `rhyme.catalog.scan`.

    A selection holds row numbers beside the whole table, which may be a mapped file; a copy that
    travels to a worker process maps the file again.

    Args:
        table: rows as `rhyme.catalog.schema.arrow_schema` says, metadata included.
        path: the file the table is mapped from, if any.
        rows: row numbers of the table that are the items; all by default.
        root: folder that item paths are relative to; the table's own by default.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        path: Path | None = None,
        rows: np.ndarray | None = None,
        root: Path | None = None,
    ) -> None:
        self._columns = Columns(table, rows)
        self.path = path
        self._root = root
        self._groups: np.ndarray | None = None
        self._fingerprint: str | None = None
        self._staged = False
        self.meta = storage.read_meta(table, path)

    @classmethod
    def open(cls, path: str | Path, *, root: str | Path | None = None) -> Self:
        """Map a catalog file into memory.

        Args:
            path: the file, or a folder that holds ``catalog.arrow``.
            root: folder of the data, where it has moved since the scan.

        Raises:
            CatalogError: missing, damaged, or of another version.
        """
        file = storage.file_of(path)
        table = storage.read_arrow(file)
        catalog = cls(table, path=file)
        found = storage.find_root(catalog.meta, file, storage.first_file(table))
        catalog._root = found if root is None else Path(root)
        return catalog

    @classmethod
    def from_parquet(cls, path: str | Path, *, root: str | Path | None = None) -> Self:
        """Read a catalog from Parquet.

        Args:
            path: the file.
            root: folder of the data, where it has moved.

        Raises:
            CatalogError: missing, damaged, or not a catalog.
        """
        return cls(storage.read_parquet(Path(path)), root=None if root is None else Path(root))

    def save(self, path: str | Path) -> Catalog:
        """Write the catalog, whole or not at all, and map the written file.

        Args:
            path: a file, or an existing folder, which gets ``catalog.arrow``.

        Returns:
            The catalog as opened from there.

        Raises:
            CatalogError: it cannot be written.
        """
        file = storage.file_of(path)
        relative = storage.relative_root(self.root, file)
        storage.write_arrow(with_meta(self.table, self._facts_for_file(relative)), file)
        return Catalog.open(file, root=self.root)

    def to_parquet(self, path: str | Path) -> None:
        """Write the catalog as Parquet.

        Args:
            path: the file.

        Raises:
            CatalogError: it cannot be written.
        """
        storage.write_parquet(with_meta(self.table, self._facts_for_file(None)), Path(path))

    def _facts_for_file(self, relative: str | None) -> dict[str, object]:
        root = str(self.root.absolute())
        facts = {"root": root, "root_relative": relative, "fingerprint": self.fingerprint}
        return {**self.meta, **facts}

    def __len__(self) -> int:
        return len(self._columns)

    def __getstate__(self) -> dict[str, object]:
        # Group codes are large to make and small to share: workers get them made.
        state = {"root": self._root, "group": self.group_codes}
        if self.path is not None:
            return {**state, "path": self.path, "rows": self._columns.rows}
        return {**state, "table": self.table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "table" in state:
            self.__init__(state["table"], root=state["root"])
        else:
            file = Path(state["path"])
            table = storage.read_arrow(file)
            self.__init__(table, path=file, rows=state["rows"], root=state["root"])
        self._groups = state["group"]

    @property
    def table(self) -> pa.Table:
        """The items as a table; of a selection it is a copy, made when it is asked for."""
        return self._columns.table

    @property
    def root(self) -> Path:
        """Folder that item paths are relative to."""
        return self._root if self._root is not None else Path(str(self.meta["root"]))

    @property
    def label_column(self) -> str | None:
        """Name of the label column that tasks use unless told otherwise."""
        name = self.meta.get("label_column")
        return None if name is None else str(name)

    @property
    def label_columns(self) -> list[str]:
        """Names of all label columns."""
        return [n.removeprefix(LABEL) for n in self.table.column_names if n.startswith(LABEL)]

    @property
    def fingerprint(self) -> str:
        """sha256 over what the items are, in order; the same wherever the folder lies."""
        if self._fingerprint is None:
            labels = [LABEL + name for name in self.label_columns]
            self._fingerprint = content_hash(self._columns, labels)
        return self._fingerprint

    @property
    def identity(self) -> str:
        """sha256 over the items and when their files were changed last, as the scan found them.

        What was made of the files' contents belongs to this; a fingerprint outlives a file that was
        replaced by one of the same size.
        """
        return dated_hash(self.fingerprint, self._columns.column("mtime_ns"))

    @property
    def quarantine(self) -> pa.Table:
        """Files left out: path, reason, remedy, versions, sha256 of the first megabyte."""
        import pyarrow as pa

        names = ("path", "reason", "remedy", "versions", "sha256")
        rows = cast("list[dict[str, str]]", self.meta.get("quarantine", []))
        return pa.table({n: pa.array([row[n] for row in rows], type=pa.string()) for n in names})

    def item(self, index: int) -> Item:
        """One row.

        Args:
            index: row number; negative numbers count from the end.

        Raises:
            IndexError: no such row.
        """
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"item {index} of a catalog of {n}")
        index %= n
        return Item.of_row(index, self._columns.row(index).to_pylist()[0])

    def facts(self, indices: Sequence[int] | np.ndarray | None = None) -> ItemFacts:
        """Facts of items as arrays.

        Args:
            indices: row numbers, ``[b]``; all rows by default.
        """
        names = ("start", "stop", "fps", "frames", "width", "height")
        if indices is None:
            return ItemFacts(
                id=self.numbers("id").view(np.uint64),
                group=self.group_codes,
                **{name: self.numbers(name) for name in names},
            )
        picked = np.asarray(indices, dtype=np.int64)
        at = self._columns.numbers_at
        return ItemFacts(
            id=at("id", picked).view(np.uint64),
            group=self.group_codes[picked],
            **{name: at(name, picked) for name in names},
        )

    @property
    def group_codes(self) -> np.ndarray:
        """int64 ``[n]``: dense group numbers in order of first appearance."""
        if self._groups is None:
            column = self._columns.column("group").combine_chunks()
            codes = column.dictionary_encode().indices
            found = np.asarray(codes.to_numpy(zero_copy_only=False), dtype=np.int64)
            self._groups = found
            return found
        return self._groups

    @property
    def distinct_groups(self) -> list[str]:
        """Names of the groups, in order of first appearance: those of the group codes."""
        return cast("list[str]", self._columns.column("group").unique().to_pylist())

    @property
    def partial(self) -> list[str]:
        """Files that end early, of which the readable part is used."""
        codes, names = self._columns.words("status")
        if "partial" not in names:
            return []
        rows = np.flatnonzero(codes == names.index("partial"))
        return sorted(set(self._columns.column("path").take(rows).to_pylist()))

    @property
    def group_names(self) -> list[str]:
        """Group of each item."""
        return cast("list[str]", self._columns.column("group").to_pylist())

    @property
    def splits(self) -> list[str | None]:
        """Split of each item, None where it has none; folds, where those were given as split."""
        return cast("list[str | None]", self._columns.column("split").to_pylist())

    @property
    def split_names(self) -> list[str]:
        """Names of the splits that items are in, sorted."""
        codes, names = self._columns.words("split")
        return sorted(names[code] for code in np.unique(codes) if code >= 0)

    def with_splits(self, splits: Sequence[str | None]) -> Catalog:
        """The catalog with another split for each item; it is not written."""
        return self.with_column("split", splits)

    def labels(self, column: str | None = None) -> tuple[np.ndarray, list[str]]:
        """One label column.

        Args:
            column: its name; the catalog's main label by default.

        Returns:
            int64 codes ``[n]``, -1 where missing, and the names they index; selections of one
            catalog share names.

        Raises:
            UnknownName: no such column.
            DataError: none is given and the catalog has no main label.
        """
        name = self.label_column if column is None else column
        if name is None:
            raise DataError(
                "the catalog has no labels",
                file=self.path,
                remedy="scan with --labels folder or --labels FILE.csv --label-column NAME",
            )
        if name not in self.label_columns:
            raise UnknownName(
                "no such label column",
                file=self.path,
                value=name,
                remedy=nearest(name, self.label_columns),
            )
        return self._columns.words(LABEL + name)

    def select(
        self,
        which: np.ndarray | Sequence[int] | None = None,
        *,
        split: str | None = None,
        indices: np.ndarray | Sequence[int] | None = None,
        mask: np.ndarray | None = None,
    ) -> Catalog:
        """Some of the items, as a catalog of its own.

        Args:
            which: row numbers, or a boolean mask ``[n]``.
            split: name of a split; combined with the others.
            indices: row numbers, in the order wanted.
            mask: boolean, ``[n]``.

        Raises:
            DataError: no item is left, or there are no splits.
            CatalogError: a mask of the wrong length, or a row number out of range.
        """
        rows = np.arange(len(self))
        for given in (which, indices, mask):
            if given is not None:
                rows = pick_rows(rows, np.asarray(given), len(self))
        if split is not None:
            codes, names = self._columns.words("split")
            code = names.index(split) if split in names else -2
            rows = rows[codes[rows] == code]
            if len(rows) == 0:
                raise DataError(
                    f"no item is in the split {split!r}",
                    file=self.path,
                    remedy=f"splits here: {', '.join(self.split_names) or 'none'}; "
                    "see assign_splits",
                )
        rows = rows.astype(np.int64)
        within = self._columns.within(rows)
        return Catalog(self._columns.base, path=self.path, rows=within, root=self._root)

    def reader(self, index: int, *, limits: Limits = DEFAULT_LIMITS) -> FrameReader:
        """A reader of an item's file; times are those of the file, not of the item.

        Args:
            index: row number.
            limits: bounds for the file.

        Raises:
            CatalogError: the file has changed or gone since the scan, or the catalog is forged.
        """
        row = self._columns.row(index % len(self))
        item = self.item(index)
        return item_reader(self.root, self.meta, row, item, limits, self.staged_again)

    def staged_again(self) -> bool:
        """Whether all files lie in their place anew since the scan: other times, the same sizes."""
        if not self._staged and not has_moved(self.root, self.meta):
            self._staged = staged_again(self.root, self._columns.base)
        return self._staged

    def with_column(self, name: str, values: Sequence[str | None]) -> Catalog:
        """The catalog with a column of words replaced; it is not written.

        With another split the catalog does not say any more how its split was drawn.

        Args:
            name: ``"split"``, ``"group"``, or ``"label:NAME"``.
            values: one a row.
        """
        table = with_words(self.table, name, values)
        if name == "split" and "splits" in self.meta:
            meta = {fact: value for fact, value in self.meta.items() if fact != "splits"}
            table = with_meta(table, meta)
        return Catalog(table, root=self._root)

    def with_meta(self, **changes: object) -> Catalog:
        """The catalog with some of its metadata changed; it is not written."""
        meta: Mapping[str, object] = {**self.meta, **changes}
        return Catalog(with_meta(self.table, meta), root=self._root)

    def summary(self) -> dict[str, object]:
        """Counts and sums for people; see `rhyme.catalog.summary.summarise`."""
        return summarise(self)

    def numbers(self, name: str) -> np.ndarray:
        """One column of numbers, ``[n]``.

        Args:
            name: a column of the table, e.g. ``"start"``.
        """
        return self._columns.numbers(name)
