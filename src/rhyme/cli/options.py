"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from rhyme.api import DataOptions


@dataclass(kw_only=True)
class Common:
    """Options of every command."""

    json: bool = False
    """Print one JSON document on standard output, and nothing else there."""


@dataclass(kw_only=True)
class DataFlags:
    """How a collection is read; the defaults suit a plain folder."""

    labels: str = "auto"
    """Where labels come from: auto, none, folder (class sub-folders), or a CSV file."""

    label_column: str | None = None
    """Column of the CSV that holds the label to judge by."""

    group_column: str | None = None
    """Column whose equal values mean: same source; splits and masks go by it."""

    split_column: str | None = None
    """Column with train, val and test, or with folds (then give --fold)."""

    fold: str | None = None
    """Value of the split column to test on; the next one validates, the rest trains."""

    segment: float | None = None
    """Seconds of an item of a long file; by default the recipe's, or 10."""

    split: Literal["auto", "all"] = "auto"
    """auto: the given split, or 60/20/20 by group; all: train on everything, judge nothing."""

    def data_options(self) -> DataOptions:
        """These flags for the API."""
        return DataOptions(
            labels=self.labels,
            label_column=self.label_column,
            group_column=self.group_column,
            split_column=self.split_column,
            fold=self.fold,
            segment=self.segment,
            split=self.split,
        )


Data = Annotated[Path, arg(metavar="DIR|CATALOG")]
"""A folder of files, or a catalog that `rhyme scan` wrote."""
