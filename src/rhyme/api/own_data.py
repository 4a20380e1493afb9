"""The data that a run brings itself: its catalog with its split, and labels to judge it by."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from rhyme.api.data import DataOptions, ReadOptions
from rhyme.api.fit import catalog_of
from rhyme.catalog import Catalog, labelled, official_lists
from rhyme.errors import ConfigError


def own_data(folder: Path, options: ReadOptions | None = None) -> Catalog:
    """A run's catalog with its split, under other labels where they are given.

    Args:
        folder: the run folder.
        options: see :func:`refuse_data_options`.

    Raises:
        CatalogError: the run's catalog, or the file of labels, is missing or damaged, or the file
            names others than the run's.
        UnknownName: no such column of labels.
    """
    catalog = catalog_of(folder)
    given = options or ReadOptions()
    column = given.label_column
    if given.labels == "none":
        return catalog.with_meta(label_column=None)
    if given.labels != "auto":
        return labelled(catalog, given.labels, label_column=column, path_column=given.path_column)
    if column is not None:
        catalog.labels(column)
        catalog = catalog.with_meta(label_column=column)
    return catalog


def refuse_data_options(options: ReadOptions | None, stage: str, *, run: bool = True) -> None:
    """Refuse options on how to read a folder where no folder is read.

    Args:
        options: what is given.
        stage: the verb, for the message.
        run: a run's own items are read, so their labels may be given, and which of them is meant;
            False where there are none.

    Raises:
        ConfigError: naming the option.
    """
    given = options or DataOptions()
    own = ["label_column"] if run else []
    if run and given.labels != "auto":
        own += ["labels", "path_column"]
        if official_lists(given.labels, given.split_number) is not None:
            raise ConfigError(
                "official lists bring their own split, and a run's data keep the one it was "
                "trained by",
                stage=stage,
                value=given.labels,
                remedy="add --data DIR, the folder that the lists are of",
            )
    defaults = DataOptions()
    changed = [
        f.name
        for f in fields(given)
        if f.name not in own and getattr(given, f.name) != getattr(defaults, f.name)
    ]
    if changed:
        raise ConfigError(
            f"--{changed[0].replace('_', '-')} says how to read a folder, and none is given",
            stage=stage,
            value=getattr(given, changed[0]),
            remedy="add --data DIR, or leave the option out"
            + (
                ": the run's own data and split are used (labels for them: --labels FILE.csv)"
                if run
                else ""
            ),
        )
