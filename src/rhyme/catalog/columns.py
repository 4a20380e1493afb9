"""Columns of a table, or of some of its rows, without copying more than is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


class Columns:
    """Some rows of a table that may be a mapped file.

    Args:
        base: the whole table.
        rows: int64 ``[n]`` rows of it, in order; all by default.
    """

    def __init__(self, base: pa.Table, rows: np.ndarray | None = None) -> None:
        self.base, self.rows = base, rows
        self._whole: dict[str, np.ndarray] = {}
        self._chosen: dict[str, np.ndarray] = {}
        self._table: pa.Table | None = base if rows is None else None

    def __len__(self) -> int:
        return int(self.base.num_rows) if self.rows is None else len(self.rows)

    @property
    def table(self) -> pa.Table:
        """The rows as a table; of a selection it is a copy, made when it is first asked for."""
        if self._table is None:
            self._table = self.base.take(self.rows)
        return self._table

    def column(self, name: str) -> pa.ChunkedArray:
        """One column."""
        column = self.base.column(name)
        return column if self.rows is None else column.take(self.rows)

    def row(self, index: int) -> pa.Table:
        """One row, 0 or above, as a table."""
        return self.base.slice(index if self.rows is None else int(self.rows[index]), 1)

    def within(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the whole table for row numbers of the selection."""
        return rows if self.rows is None else self.rows[rows]

    def numbers(self, name: str) -> np.ndarray:
        """One column of numbers, ``[n]``: a view of the file where nothing is selected."""
        if self.rows is None:
            return self._mapped(name)
        if name not in self._chosen:
            self._chosen[name] = self._mapped(name)[self.rows]
        return self._chosen[name]

    def numbers_at(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Numbers of some rows, ``[b]``; nothing else is read."""
        return self._mapped(name)[self.within(indices)]

    def words(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A column of words: codes int64 ``[n]``, -1 where missing, and the words they index."""
        column = self.column(name).unify_dictionaries().combine_chunks()
        codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return codes, cast("list[str]", column.dictionary.to_pylist())

    def _mapped(self, name: str) -> np.ndarray:
        """A whole column of numbers."""
        if name not in self._whole:
            column = self.base.column(name)
            whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            self._whole[name] = whole.to_numpy(zero_copy_only=False)
        return self._whole[name]
