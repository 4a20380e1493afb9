"""What a protocol on frames or videos could not use: told in its rows and to the reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rhyme.catalog import Item

__all__ = ["item_name", "skipped_details", "skipped_notes"]

_LISTED = 20


def item_name(item: Item) -> str:
    """The path of an item, and where it begins if that is later than its file."""
    return item.path if item.start == 0 else f"{item.path} from {item.start:g} s"


def skipped_details(skipped: Mapping[str, str]) -> dict[str, Any]:
    """Details of a figure that should rest on more than it does.

    Args:
        skipped: reason by name of what could not be used.

    Returns:
        ``skipped``, the first 20 of them, and ``left_out``, how many there are.
    """
    return {"skipped": dict(list(skipped.items())[:_LISTED]), "left_out": len(skipped)}


def skipped_notes(skipped: Mapping[str, str], asked: int, what: str) -> tuple[str, ...]:
    """A line that counts what could not be used and gives the first; none where all could.

    Args:
        skipped: reason by name.
        asked: how many would have been used, those that were skipped among them.
        what: what they are, e.g. ``"items with masks"``.
    """
    if not skipped:
        return ()
    name, why = next(iter(skipped.items()))
    verb = "was" if len(skipped) == 1 else "were"
    return (f"{len(skipped)} of {asked} {what} {verb} left out, e.g. {name}: {why}",)
