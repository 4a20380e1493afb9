"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from rhyme.api import DataOptions, LaunchOptions


@dataclass(kw_only=True)
class Common:
    """Options of every command."""

    json: bool = False
    """Print one JSON document on standard output, and nothing else there."""


HowToRead = Annotated[DataOptions, OmitArgPrefixes]
"""Options on how a collection is read, as flags of the command itself."""

Launching = Annotated[LaunchOptions, OmitArgPrefixes]
"""Options on ranks, as flags of the command itself."""

Data = Annotated[Path, arg(metavar="DIR|CATALOG")]
"""A folder of files, or a catalog that `rhyme scan` wrote."""
