"""What is known of damaged items: how many there are, which must not be tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhyme.loading.bad_items import too_many_bad
from rhyme.loading.maker import Replaced

__all__ = ["Damaged", "Tell"]

Tell = Callable[[Replaced], None]
"""Called once for each file that proves damaged."""


class Damaged:
    """The damaged items of one source.

    An item that cannot be decoded is tried again whenever it comes: whether it is replaced depends
    on nothing but its file and its draws. One that *ends its worker* is left out from the batch
    after the one in which it was found, for any number of workers and batches made ahead; that is
    part of the source's state, so a resumed run does the same.

    Args:
        ids: ``uint64 [n]`` item ids, by row.
        limit: largest share of items that may prove damaged; three always may.
        tell: called once for each damaged file.
    """

    def __init__(self, ids: NDArray[np.uint64], limit: float, tell: Tell | None = None) -> None:
        self._ids, self._limit, self._tell = ids, limit, tell
        self.files: dict[str, str] = {}
        self.deadly: dict[int, str] = {}

    def note(self, replaced: Iterable[Replaced]) -> None:
        """Take note of replaced items.

        Raises:
            DataError: more items are damaged than may be.
        """
        for one in replaced:
            if one.path not in self.files:
                self.files[one.path] = one.reason
                if self._tell is not None:
                    self._tell(one)
        problem = too_many_bad(self.files, len(self._ids), self._limit)
        if problem is not None:
            raise problem

    def unforeseen(self, known: Mapping[int, str], rows: Iterable[int]) -> bool:
        """Whether a batch holds an item that ends its worker, which was not known when asked."""
        return any(row in self.deadly and row not in known for row in rows)

    def state_dict(self) -> dict[str, Any]:
        """Everything that was found, as plain data."""
        deadly = [[int(self._ids[row]), reason] for row, reason in self.deadly.items()]
        return {"files": [list(pair) for pair in self.files.items()], "deadly": deadly}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.files = {str(path): str(reason) for path, reason in state["files"]}
        rows = {int(id_): row for row, id_ in enumerate(self._ids)} if state["deadly"] else {}
        self.deadly = {rows[int(id_)]: str(reason) for id_, reason in state["deadly"]}
