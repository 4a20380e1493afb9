"""Row numbers from masks and lists of numbers."""

from __future__ import annotations

import numpy as np

from rhyme.errors import CatalogError


def pick_rows(rows: np.ndarray, given: np.ndarray, total: int) -> np.ndarray:
    """Narrow a choice of rows.

    Args:
        rows: row numbers chosen so far.
        given: a boolean mask ``[total]``, or row numbers in the order wanted.
        total: number of rows in the catalog.

    Returns:
        The rows that both choose, in the order given.

    Raises:
        CatalogError: a mask of the wrong length, or a row number out of range.
    """
    if given.dtype == np.bool_:
        if given.shape != (total,):
            raise CatalogError(
                f"a mask must have one value an item, {total}", stage="select", value=given.shape
            )
        return rows[given[rows]]
    picked = given.astype(np.int64)
    if len(picked) and (picked.min() < -total or picked.max() >= total):
        raise CatalogError(f"a row number is not below {total}", stage="select")
    picked = picked % max(total, 1)
    return picked if len(rows) == total else picked[np.isin(picked, rows)]
