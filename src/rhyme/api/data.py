"""Reading a collection for training and judging: labels, groups, splits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Unpack, cast, get_args

from rhyme.api.checks import CATALOG, beside, check_seed, output_file
from rhyme.api.data_notes import is_catalog, several_parts
from rhyme.api.progress import progress_bar
from rhyme.catalog import (
    Catalog,
    assign_splits,
    official_lists,
    open_data,
    relabelled,
)
from rhyme.catalog import scan as scan_folder
from rhyme.errors import ConfigError, DataError, UnknownName, nearest
from rhyme.evaluation import fold_splits
from rhyme.loading import PREPARED
from rhyme.media import Depth, Kind
from rhyme.synthetic import WorldConfig, WorldOptions, write_world

DEFAULT_SEGMENT = 10.0
SPLITS = ("train", "val", "test")
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a folder is read; the defaults suit a plain one.

    Attributes:
        labels: ``auto``, ``none``, ``folder``, a CSV file, or official lists as
            ``ucf101:FOLDER``, ``hmdb51:FOLDER``, ``kinetics:PATH`` or ``something:FOLDER``. Only
            official lists may be given for a catalog that was scanned before, or for shards.
        label_column: column of the label to judge by.
        group_column: column whose equal values mean: same source.
        split_column: column with train, val and test, or with folds.
        split_number: number of the split of official lists, from 1.
        path_column: column that names the file; found by itself where it has a usual name, such
            as file or path.
        segment: seconds of an item of a long file; where None, in training the recipe's, else 10,
            or whole files with official lists, whose figures are of whole videos.
        spacing: seconds from one picture of a frame folder to the next.
        kinds: what is taken of a folder, separated by commas: ``video``, ``frames`` (a folder of
            numbered pictures is a film), ``image`` (every picture for itself), ``audio``. By
            default films, else pictures, else sound.
        include: patterns of paths, separated by commas, such as ``*.input.jpg``; only files, and
            members of archives, that fit one of them are taken.
    """

    labels: str = "auto"
    label_column: str | None = None
    group_column: str | None = None
    split_column: str | None = None
    split_number: int | None = None
    path_column: str | None = None
    segment: float | None = None
    spacing: float | None = None
    kinds: str | None = None
    include: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(ReadOptions):
    """How a collection is read and split; the defaults suit a plain folder.

    Attributes:
        fold: value of the split column to test on; the next one validates, the rest trains.
        split: ``auto``: the given split, or 60/20/20 by group; ``all``: everything trains.
    """

    fold: str | None = None
    split: Literal["auto", "all"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What a scan found.

    Attributes:
        path: the catalog.
        facts: counts by name.
        quarantine: files left out: path, reason, remedy.
        seconds: how long it took.
        notes: what is worth knowing before the catalog is used.
    """

    path: Path
    facts: Mapping[str, Any]
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list[str])


def scan(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    depth: Depth = "packets",
    workers: int = 0,
    kinds: str | None = None,
    include: str | None = None,
    labels: str | Path = "auto",
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    path_column: str | None = None,
    split_number: int | None = None,
    segment: float | None = None,
    spacing: float | None = None,
) -> Scanned:
    """Look through a folder and write its catalog; bad files are left out and named.

    Args:
        folder: videos, frame folders or images, in any depth of sub-folders, or images in archives.
        out: where the catalog goes; ``<folder>.catalog.arrow`` beside it by default.
        depth: ``header``, ``packets`` or ``frames``.
        workers: processes that read.
        kinds: what is taken, see :class:`DataOptions`.
        include: patterns of paths that are taken, see :class:`DataOptions`.
        labels: where labels come from, see :class:`DataOptions`.
        label_column: column of the label to judge by.
        group_column: column whose equal values mean: same source.
        split_column: column with train, val and test, or with folds.
        path_column: column of the file, where it has none of the usual names.
        split_number: number of the split of official lists, from 1.
        segment: seconds of an item of a long file, see :class:`DataOptions`.
        spacing: seconds between the pictures of a folder of frames.

    Raises:
        DataError: the folder holds nothing that can be used.
    """
    folder = Path(folder)
    target = Path(out) if out is not None else beside(folder, ".catalog.arrow")
    if not target.is_dir():
        output_file(target, "catalog", CATALOG)
    begun = time.perf_counter()
    with progress_bar("scan", "files") as progress:
        found = scan_folder(
            folder,
            out=target,
            depth=depth,
            workers=workers,
            progress=progress,
            kinds=None if kinds is None else parse_kinds(kinds),
            include=None if include is None else parse_patterns(include),
            labels=labels,
            label_column=label_column,
            group_column=group_column,
            split_column=split_column,
            path_column=path_column,
            split_number=split_number,
            segment=whole_or(segment, str(labels)),
            spacing=spacing,
        )
    return Scanned(
        path=target,
        facts=found.summary(),
        quarantine=quarantined(found),
        seconds=time.perf_counter() - begun,
        notes=several_parts(folder, found),
    )


def quarantined(catalog: Catalog) -> list[dict[str, Any]]:
    """The files that a catalog left out, each with path, reason and remedy."""
    return catalog.quarantine.to_pylist()


def quarantine_note(catalog: Catalog) -> str:
    """How many files the scan of a catalog left out; empty for none."""
    count = catalog.quarantine.num_rows
    files = "1 file is" if count == 1 else f"{count} files are"
    return f"{files} left out as damaged; rhyme scan names them" if count else ""


def read_data(
    data: str | Path | Catalog,
    options: DataOptions | None = None,
    *,
    seed: int = 0,
    must_split: bool = True,
) -> Catalog:
    """A collection with a split: the one it brings, a fold, or 60/20/20 by group.

    Args:
        data: a folder, a file, a catalog file, or a catalog.
        options: how to read a folder.
        seed: of the split, where none is given.
        must_split: False leaves a collection that brings no split as it is.

    Returns:
        A catalog whose items say ``train``, ``val`` or ``test``.

    Raises:
        DataError: nothing usable, or too few groups to split.
        ConfigError: a fold without a split column, or the reverse; an option of the scan beside a
            catalog.
    """
    check_seed(seed)
    o = options or DataOptions()
    catalog = read_source(data, o)
    if o.fold is not None:
        if o.split_column is None:
            raise ConfigError(
                "--fold needs --split-column", value=o.fold, remedy="name the column of the folds"
            )
        return fold_splits(catalog, o.split_column, o.fold)
    if o.split == "all":
        return catalog.with_splits(["train"] * len(catalog))
    names = set(catalog.split_names)
    if names and not names <= set(SPLITS):
        raise ConfigError(
            "the split column holds other values than train, val and test",
            value=sorted(names)[:8],
            remedy="if these are folds, choose the one to test on: --fold VALUE",
        )
    return catalog if names or not must_split else assign_splits(catalog, seed=seed)


def read_source(data: str | Path | Catalog, options: ReadOptions | None = None) -> Catalog:
    """A collection as it is, with the split that it brings or none.

    Args:
        data: a folder, a file, a catalog file, or a catalog.
        options: how to read a folder.

    Raises:
        DataError: nothing usable.
        ConfigError: an option of the scan beside a catalog.
        UnknownName: the catalog has no such label column.
    """
    o = options or ReadOptions()
    if isinstance(data, Catalog) or is_catalog(data):
        catalog = data if isinstance(data, Catalog) else open_data(Path(data))
        lists = official_lists(o.labels, o.split_number)
        refuse_scan_options(o, (data.path or data.root) if isinstance(data, Catalog) else data)
        if lists is not None:
            return relabelled(catalog, lists)
        if o.label_column is not None:
            catalog.labels(o.label_column)
            catalog = catalog.with_meta(label_column=o.label_column)
        return catalog
    if (Path(data) / PREPARED).is_file():
        raise DataError(
            "the shards in this folder are not complete",
            file=data,
            stage="data",
            remedy="run the same rhyme prepare command again: it goes on where it was",
        )
    # Only what is given: a scan is kept under the options that it had.
    given: dict[str, Any] = {
        "kinds": None if o.kinds is None else parse_kinds(o.kinds),
        "include": None if o.include is None else parse_patterns(o.include),
        "path_column": o.path_column,
        "spacing": o.spacing,
    }
    with progress_bar("scan", "files") as progress:
        return open_data(
            Path(data),
            labels=o.labels,
            label_column=o.label_column,
            group_column=o.group_column,
            split_column=o.split_column,
            split_number=o.split_number,
            segment=whole_or(o.segment, o.labels),
            progress=progress,
            **{name: value for name, value in given.items() if value is not None},
        )


def refuse_scan_options(options: ReadOptions, catalog: str | Path) -> None:
    """Refuse options that say how a folder is scanned, where it was scanned before.

    Raises:
        ConfigError: naming the option.
    """
    listed = official_lists(options.labels, options.split_number) is not None
    folded = isinstance(options, DataOptions) and options.fold is not None
    given: dict[str, Any] = {
        "labels": None if listed or options.labels == "auto" else options.labels,
        "group-column": options.group_column,
        "split-column": None if folded else options.split_column,
        "path-column": options.path_column,
        "segment": options.segment,
        "spacing": options.spacing,
        "kinds": options.kinds,
        "include": options.include,
    }
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"--{name} says how a folder is scanned, and this is a catalog of one",
                file=catalog,
                stage="data",
                value=value,
                remedy="scan the folder anew (rhyme scan DIR), or leave the option out",
            )


def whole_or(segment: float | None, labels: str) -> float | None:
    """Seconds of an item: those asked for, else 10; None, for whole files, with official lists."""
    if segment is not None:
        return segment
    return None if official_lists(labels, None) is not None else DEFAULT_SEGMENT


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Kinds of media from a list with commas.

    Raises:
        UnknownName: naming the nearest kind that exists.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in found:
        if name not in KINDS:
            raise UnknownName(f"unknown kind of media '{name}'", remedy=nearest(name, KINDS))
    if not found:
        raise ConfigError("no kind of media is named", remedy=f"choose from {', '.join(KINDS)}")
    return cast("tuple[Kind, ...]", found)


def parse_patterns(text: str) -> tuple[str, ...]:
    """Patterns of paths from a list with commas.

    Raises:
        ConfigError: there is none.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise ConfigError("no pattern is given", value=text, remedy="e.g. --include '*.input.jpg'")
    return found


def part(catalog: Catalog, split: str) -> Catalog:
    """The items of one split.

    Raises:
        DataError: the split is empty.
    """
    chosen = catalog.select(split=split)
    if len(chosen) == 0:
        raise DataError(
            f"the '{split}' split has no items",
            file=catalog.root,
            remedy="give more groups, or another --split-column",
        )
    return chosen


def world(out: str | Path, *, workers: int = 0, **options: Unpack[WorldOptions]) -> dict[str, Any]:
    """Make a generated world; see :class:`rhyme.synthetic.WorldConfig` for the options.

    Returns:
        Folder, number of videos, videos a split, seconds.
    """
    begun = time.perf_counter()
    with progress_bar("world", "videos") as progress:
        made = write_world(WorldConfig(workers=workers, **options), Path(out), progress=progress)
    return {
        "out": str(out),
        "videos": made.videos,
        "splits": dict(made.splits),
        "seconds": time.perf_counter() - begun,
    }
