"""The page of evidence of a run, and the page that sets several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rhyme.api.checks import HTML, check_root, check_seed, output_file
from rhyme.api.data import ReadOptions, part, quarantine_note, quarantined, read_source
from rhyme.api.encoder import encoder_of
from rhyme.api.overlaps import with_overlaps
from rhyme.api.own_data import own_data, refuse_data_options
from rhyme.api.pictures import Pictures, draw_pictures
from rhyme.api.segment_pictures import draw_segments
from rhyme.api.train import CATALOG
from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage
from rhyme.errors import ConfigError, DataError
from rhyme.evaluation import TrainedOn
from rhyme.report import ReportData, collect, collect_results, write_report, write_runs_report
from rhyme.run import RunFolder
from rhyme.systems import SYSTEMS
from rhyme.training import resolve_device

DRAWN = ("rhymes", "worst", "map", "retrieval")
_GIVE = "Give videos that it never saw: rhyme report RUN --data VIDEOS"


def report(
    run: str | Path,
    *,
    data: str | Path | Catalog | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    points: int = 600,
    device: str = "auto",
    options: ReadOptions | None = None,
    quarantine: list[dict[str, Any]] | None = None,
) -> Path:
    """Write a run's page of evidence: one HTML file that needs no network.

    Args:
        run: run folder.
        data: videos that the pictures are drawn from, a folder or catalog; by default those that
            the run held out. Groups that the encoder was trained on are left out.
        out: where the page goes; ``report.html`` in the run by default.
        seed: picks the queries shown.
        points: most frames of the map of the features; 0 draws none.
        device: where the encoder runs.
        options: how a folder is read; of the run's own videos the labels alone may be given.
        quarantine: takes the files of ``data`` that the scan left out: path, reason, remedy.

    Raises:
        RunError: no such run.
        ConfigError: a file that is no page stands in the place, or options on how a folder is read
            without one.
        UnknownName: no such column of labels.
    """
    check_seed(seed)
    if data is None:
        refuse_data_options(options, "report")
    if points < 0:
        raise ConfigError("the number of points is below 0", value=points, remedy="0 draws no map")
    folder = RunFolder.open(run)
    target = output_file(out if out is not None else folder.report, "report", HTML)
    page = collect(folder.path, titles=system_title)
    if folder.encoder.is_dir():
        read = None if data is None else read_source(data, options)
        if read is not None and quarantine is not None:
            quarantine += quarantined(read)
        page = _drawn(page, folder, read, (seed, points, device), options)
    else:
        page = replace(page, notes=[*page.notes, "no pictures yet: the run has no encoder"])
    return write_report(page, target)


def report_runs(runs: Sequence[str | Path], *, out: str | Path = "runs.html") -> Path:
    """Write one page that sets runs side by side, from their text files alone.

    Runs that differ in nothing but their seed, and were trained and judged on the same data, make
    an arm; the first run's arm is what the others are held against. Encoders of files of results
    are arms of their own, without curves, after the runs.

    Args:
        runs: run folders, and files of result rows as ``rhyme evaluate --results`` writes them; at
            least two runs or encoders together.
        out: where the page goes.

    Raises:
        RunError: a folder is missing, or no run.
        EvaluationError: a file holds no result rows.
        ConfigError: fewer than two, one given twice, or a file that is no page stands in the place.
    """
    target = output_file(out, "report", HTML)
    given = [Path(run) for run in runs]
    places = [path.resolve() for path in given]
    twice = next((f for f, p in zip(given, places, strict=True) if places.count(p) > 1), None)
    if twice is not None:
        raise ConfigError("a run is given twice", file=twice, remedy="name every run once")
    files = [path for path in given if path.is_file()]
    folders = [RunFolder.open(path).path for path in given if path not in files]
    found = [collect(folder, titles=system_title) for folder in folders]
    return write_runs_report([*found, *collect_results(files, titles=system_title)], target)


def system_title(system: str) -> str:
    """A system's name for readers."""
    return SYSTEMS[system].title if system in SYSTEMS else system


def _drawn(
    page: ReportData,
    folder: RunFolder,
    data: Catalog | None,
    how: tuple[int, int, str],
    options: ReadOptions | None,
) -> ReportData:
    seed, points, device = how
    package, where = encoder_of(folder.path, device), str(resolve_device(device))
    notes = list(page.notes)
    items = _held_out(package, folder, data, options, notes)
    if isinstance(items, str):
        return replace(page, absent=dict.fromkeys(DRAWN, (items, _GIVE)), notes=notes)
    try:
        drawn = draw_pictures(package, items, seed=seed, points=points, device=where)
        segments = draw_segments(package, items, seed=seed, device=where)
        found = {f.name: getattr(drawn, f.name) for f in fields(Pictures)}
        page = replace(page, **{**found, "segments": segments, "notes": [*notes, *drawn.notes]})
        if page.system == "cstp" and data is None:
            page = with_overlaps(page, folder, seed=seed, device=device)
    except DataError as error:
        page = replace(page, notes=[*page.notes, f"no pictures: {error.cause}"])
    return page


def _held_out(
    package: EncoderPackage,
    folder: RunFolder,
    data: Catalog | None,
    options: ReadOptions | None,
    notes: list[str],
) -> Catalog | str:
    """Items that the encoder was not trained on, or why there are none."""
    if data is None:
        if not (folder.path / CATALOG).is_file():
            return "The run has no catalog of its data."
        catalog = own_data(folder.path, options)
        check_root(catalog)
        if "test" not in catalog.split_names:
            if catalog.split_names != ["train"]:
                return "The run's data has no split named test, so no videos are held out."
            return (
                "The run held no videos out: all of its data was trained on (--split all), and on "
                "those the pictures would show memory, not what the encoder has understood."
            )
        return part(catalog, "test")
    check_root(data)
    known, groups = TrainedOn.of(package), data.group_names
    seen = {} if known is None else known.groups_in(data)
    fresh = [row for row, name in enumerate(groups) if name not in seen]
    if not fresh:
        return f"The encoder was trained on all groups of {data.root.name}."
    notes.append(f"the pictures are of {data.root.name}, given for the report")
    notes += filter(None, [quarantine_note(data)])
    if len(fresh) < len(groups):
        left = len(groups) - len(fresh)
        notes.append(f"{left} items of it are left out: the encoder was trained on their groups")
    return data.select(indices=np.array(fresh))
