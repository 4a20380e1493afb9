"""A folder becomes a catalog; bad files go to quarantine and never stop the scan."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

from rhyme.catalog.assemble import assemble
from rhyme.catalog.candidates import Found, listing
from rhyme.catalog.catalog import Catalog
from rhyme.catalog.discover import discover
from rhyme.catalog.examine import Task, examine, refusal, tool_versions
from rhyme.catalog.journal import Journal
from rhyme.catalog.labels import (
    Columns,
    Labels,
    by_split,
    find_path_column,
    from_folders,
    read_csv,
    read_header,
)
from rhyme.catalog.lists import listed_labels, official_lists
from rhyme.catalog.matching import resolve
from rhyme.catalog.schema import VERSION
from rhyme.catalog.shard_labels import SUFFIX
from rhyme.catalog.storage import FILE_NAME, absolute_place
from rhyme.errors import CatalogError, ConfigError, StorageError
from rhyme.media import ARCHIVES, DEFAULT_LIMITS, Depth, Kind, Limits
from rhyme.workers import map_ordered

Progress = Callable[[int, int], None]
"""Called with the number of finished candidates and of all."""

_DEADLINE = 300.0


def scan(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    depth: Depth = "header",
    labels: str | Path | Literal["auto", "none", "folder"] = "auto",
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    path_column: str | None = None,
    split_number: int | None = None,
    segment: float | None = 10.0,
    spacing: float | None = None,
    kinds: Iterable[Kind] | None = None,
    include: Iterable[str] | None = None,
    workers: int = 0,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
    journal: str | Path | None = None,
) -> Catalog:
    """Look at every file of a folder and make a catalog of what can be used.

    A scan with ``out`` that is stopped half way goes on from there when it is started again.

    Args:
        folder: the data, a folder or one media file.
        out: where to write the catalog, a file or an existing folder; None keeps it in memory.
        depth: ``"header"``, ``"packets"`` or ``"frames"``; see `rhyme.media.probe`.
        labels: a CSV file; official lists as ``"ucf101:FOLDER"`` (see
            `rhyme.catalog.LIST_FORMS`); ``"folder"`` for the first folder of each path;
            ``"none"``; or ``"auto"``: ``labels.csv`` in the folder, else the ``.cls`` members
            beside the pictures of archives, else class folders where there clearly are such,
            else none.
        label_column: the main label column of the CSV file.
        group_column: the CSV column that names the source; splits and masks go by it.
        split_column: the CSV column that names the split.
        path_column: the CSV column that names the file.
        split_number: number of the split of official lists, from 1.
        segment: seconds; longer files become several items of one group, and a last piece below
            half of this joins the one before; None never cuts.
        spacing: seconds between the frames of frame folders; by default 5 s for R2V2 names and
            1/25 s for others.
        kinds: what to take; see `rhyme.catalog.discover.discover`.
        include: patterns of paths; only what fits one of them is taken, see there.
        workers: processes that look at files; with 1 or more a decoder that crashes or hangs
            costs its file only.
        limits: bounds for one file.
        progress: called after each candidate.
        journal: file that remembers what was found, kept after the scan; by default it lies
            beside ``out`` and goes when the catalog is written.

    Returns:
        The catalog, opened from ``out`` where given.

    Raises:
        DataError: no such folder, or no usable file in it.
        CatalogError: the CSV file is damaged, or the catalog cannot be written.
        ConfigError: an option is out of range.
    """
    if segment is not None and not (math.isfinite(segment) and segment > 0):
        raise ConfigError("segment must be above 0 seconds", value=segment, stage="scan")
    if spacing is not None and not (math.isfinite(spacing) and spacing > 0):
        raise ConfigError("spacing must be above 0 seconds", value=spacing, stage="scan")
    given = absolute_place(Path(folder))
    root = given.parent if given.is_file() else given
    single = given.is_file() and str(labels) == "auto"
    if single and given.suffix.lower() not in ARCHIVES:
        labels = "none"
    listed = None if kinds is None else tuple(kinds)
    patterns = None if include is None else tuple(include)
    found = discover(given, kinds=listed, include=patterns, limits=limits)
    columns = Columns(path=path_column, label=label_column, group=group_column, split=split_column)
    lists = official_lists(labels, split_number)
    if lists is not None and columns != Columns():
        raise ConfigError("official lists have no columns to name", stage="labels", value=columns)
    table = None if single or lists is not None else _read_labels(root, labels, columns)
    target = None if out is None else Path(out)
    if target is not None and target.is_dir():
        target = target / FILE_NAME
    own = journal is None and target is not None
    note = target.with_name(target.name + ".journal") if own and target is not None else journal
    digest = _digest(depth, spacing, limits)
    with Journal(None if note is None else Path(note), digest) as log:
        results, reused, failed = _examine_all(
            root, found, log, depth, spacing, workers, limits, progress
        )
        if lists is None:
            chosen, told = _labels_for(root, found, results, table, labels), {}
        else:
            chosen, told = listed_labels(lists, [c.path for c in found.candidates])
        if unused := found.labels.seen - chosen.beside - len(chosen.bad):
            found.ignored[SUFFIX] = unused
        catalog = assemble(
            root,
            found,
            results,
            chosen,
            segment=segment,
            settings={
                "depth": depth,
                "labels": str(labels),
                "segment": segment,
                "spacing": spacing,
                "kinds": listed,
                "include": patterns,
            },
            extra={
                "reused": reused,
                # Without a listing a kept catalog is not used again: what a disk refused for a
                # while is looked at once more, and the journal knows the rest.
                "listing": None if failed else listing(found),
                "parts": found.parts,
                **told,
            },
        )
        if target is not None:
            catalog = catalog.save(target)
        if own:
            log.remove()
    return catalog


def _digest(depth: Depth, spacing: float | None, limits: Limits) -> str:
    facts = json.dumps([VERSION, depth, spacing, asdict(limits), tool_versions()])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _read_labels(root: Path, labels: str | Path, columns: Columns) -> Labels | None:
    """Labels from a CSV file, before any media file is opened."""
    if str(labels) in ("none", "folder"):
        if columns != Columns():
            raise ConfigError(
                "columns are named but there is no CSV file",
                stage="labels",
                value=str(labels),
                remedy="give the CSV file: --labels FILE.csv",
            )
        return None
    if str(labels) != "auto":
        return read_csv(Path(labels), columns)
    beside = root / "labels.csv"
    if not beside.is_file():
        if columns != Columns():
            raise CatalogError(
                "columns are named but the folder holds no labels.csv",
                file=root,
                stage="labels",
                remedy="give the CSV file: --labels FILE.csv",
            )
        return None
    if columns.path is None and find_path_column(read_header(beside)) is None:
        return None
    return read_csv(beside, columns)


def _examine_all(
    root: Path,
    found: Found,
    log: Journal,
    depth: Depth,
    spacing: float | None,
    workers: int,
    limits: Limits,
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], int, int]:
    """What is known of each candidate, in order; how many were known; how many no disk gave."""
    results = [log.get(candidate) for candidate in found.candidates]
    missing = [i for i, result in enumerate(results) if result is None]
    failed = 0
    done = reused = len(results) - len(missing)
    tasks = (
        Task(
            root=str(root),
            candidate=found.candidates[i],
            depth=depth,
            spacing=spacing if spacing is not None else found.candidates[i].spacing,
            limits=limits,
        )
        for i in missing
    )
    deadline = _DEADLINE if workers > 0 else None
    answers = map_ordered(examine, tasks, workers=workers, deadline=deadline, errors="return")
    for i, answer in zip(missing, answers, strict=True):
        candidate = found.candidates[i]
        # A worker that died or hung answers with an error: that file is to blame.
        result = refusal(root, candidate, answer) if isinstance(answer, Exception) else answer
        results[i] = result
        if isinstance(answer, StorageError):
            failed += 1  # the next scan looks again
        else:
            log.add(candidate, result)
        done += 1
        if progress is not None:
            progress(done, len(results))
    return cast("list[dict[str, Any]]", results), reused, failed


def _labels_for(
    root: Path,
    found: Found,
    results: list[dict[str, Any]],
    table: Labels | None,
    labels: str | Path,
) -> Labels:
    """Labels keyed by the collection's own paths."""
    paths = [candidate.path for candidate in found.candidates]
    if table is not None:
        matched = resolve(table, paths, root, strict=str(labels) != "auto")
        met = set(matched.values())
        return Labels(
            source=table.source,
            names=table.names,
            main=table.main,
            asset_names=table.asset_names,
            values={path: table.values[w] for path, w in matched.items()},
            groups={path: table.groups[w] for path, w in matched.items() if w in table.groups},
            splits={path: table.splits[w] for path, w in matched.items() if w in table.splits},
            assets={path: table.assets[w] for path, w in matched.items() if w in table.assets},
            lost={
                p: f"on line {line} of {table.source}"
                for p, line in table.lines.items()
                if p not in met
            },
        )
    if str(labels) == "none":
        return Labels()
    usable = [p for p, result in zip(paths, results, strict=True) if "facts" in result]
    if str(labels) == "folder":
        return from_folders(usable, force=True) or Labels()
    chosen = found.labels.labels(usable)
    if chosen is None and any(candidate.r2v2 for candidate in found.candidates):
        chosen = Labels(splits=by_split(usable)[0])  # folders of two letters are no classes
    elif chosen is None:
        chosen = from_folders(usable, force=False)
    return replace(chosen or Labels(), bad=found.labels.faults)
