"""Options that several commands share."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from rhyme.api import DataOptions, LaunchOptions, OffTheShelf, ReadOptions


@dataclass(kw_only=True)
class Common:
    """Options of every command."""

    json: bool = False
    """Print one JSON document on standard output, and nothing else there."""


HowToRead = Annotated[DataOptions, OmitArgPrefixes]
"""Options on how a collection is read, as flags of the command itself."""

ReadOnly = Annotated[ReadOptions, OmitArgPrefixes]
"""The same for commands that split nothing."""

Launching = Annotated[LaunchOptions, OmitArgPrefixes]
"""Options on ranks, as flags of the command itself."""

Shelf = Annotated[OffTheShelf, OmitArgPrefixes]
"""An encoder off the shelf in place of a run, as flags of the command itself."""

Run = Annotated[Positional[Path | None], arg(metavar="RUN")]
"""A run folder or an encoder package; left out where --encoder is given."""

Data = Annotated[Path, arg(metavar="DIR|CATALOG")]
"""A folder of files, or a catalog that `rhyme scan` wrote."""


def changed(options: Any) -> list[str]:
    """Flags of the options that are not at their defaults, those of nested ones among them."""
    found: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            found += changed(value)
        elif field.default is not MISSING and value != field.default:
            found.append(f"--{field.name.replace('_', '-')}")
    return found
