"""Items that cannot be decoded: how many may be, and what helps against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rhyme.errors import CatalogError, DataError

__all__ = ["remedy_of", "too_many_bad"]


def too_many_bad(bad: Mapping[Any, str], items: int, limit: float) -> DataError | None:
    """The error that ends the work when more items failed than may: ``limit``, at least three."""
    if len(bad) <= max(3, int(np.ceil(limit * items))):
        return None
    listed = "; ".join(f"{name}: {why}" for name, why in list(bad.items())[:10])
    return DataError(
        f"{len(bad)} of {items} items cannot be decoded",
        stage="loading",
        value=listed,
        remedy=remedy_of(bad.values()),
    )


def remedy_of(reasons: Iterable[str]) -> str:
    """What helps against items that cannot be decoded, by the reasons that were given."""
    if any(reason.startswith(CatalogError.__name__) for reason in reasons):
        return (
            "put back the files that have changed, with their times (cp -a, rsync -t), and go on; "
            "or scan the folder again and begin a new run"
        )
    return (
        "scan again with --depth frames, which leaves damaged files out, and begin a new run "
        "with that catalog; or copy the files again from where they are whole"
    )
