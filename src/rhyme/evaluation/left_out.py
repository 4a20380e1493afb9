"""What a protocol on frames or videos could not use: told in its rows and to the reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["left_out"]

_LISTED = 20


def left_out(skipped: Mapping[str, str], asked: int, what: str) -> tuple[dict[str, Any], list[str]]:
    """Details and notes of a figure that should rest on more items than it does.

    Args:
        skipped: reason by name of what could not be used.
        asked: how many would have been used, those that were skipped among them.
        what: what they are, e.g. ``"items with masks"``.

    Returns:
        The details: ``skipped``, the first 20 with their reasons, and ``left_out``, how many there
        are. The notes: one, with the first of them, or none where nothing was skipped.
    """
    details: dict[str, Any] = {
        "skipped": dict(list(skipped.items())[:_LISTED]),
        "left_out": len(skipped),
    }
    if not skipped:
        return details, []
    name, why = next(iter(skipped.items()))
    verb = "was" if len(skipped) == 1 else "were"
    return details, [f"{len(skipped)} of {asked} {what} {verb} left out, e.g. {name}: {why}"]
