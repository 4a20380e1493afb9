"""Judging: figures of a run beside an untrained encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rhyme.api.checks import STAGED, check_seed, describe_missing, find_missing, rows_file
from rhyme.api.data import DataOptions, quarantine_note, read_data
from rhyme.api.encoder import OffTheShelf, encoder_of, weights_note
from rhyme.api.own_data import own_data, refuse_data_options
from rhyme.api.prepare import prepared_note
from rhyme.api.progress import progress_bar
from rhyme.api.provenance import command_line, commit
from rhyme.api.train import CATALOG
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError, DataError, RunError
from rhyme.evaluation import (
    PROTOCOLS,
    Evaluation,
    Result,
    append_results,
    load_protocol,
)
from rhyme.evaluation import evaluate as run_protocols
from rhyme.evaluation.evaluate import STANDARD
from rhyme.evaluation.inputs import Seen
from rhyme.notices import tell
from rhyme.run import RunFolder
from rhyme.training import resolve_device
from rhyme.views import ShortVideo


def evaluate(
    run: str | Path | OffTheShelf,
    data: str | Path | Catalog | None = None,
    *,
    protocols: Sequence[str] = STANDARD,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    heads: Sequence[str] = (),
    frames_per_item: int = 4,
    clips: str | None = None,
    short: ShortVideo | None = None,
    untrained_seeds: Sequence[int] = (0, 1, 2),
    seen: Seen = "error",
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    options: DataOptions | None = None,
    record: bool = True,
    results: str | Path | None = None,
) -> Evaluation:
    """Judge an encoder on groups that it never saw, beside untrained copies of it.

    Args:
        run: run folder, an encoder package, or an encoder off the shelf.
        data: folder or catalog; by default the data of the run with its split.
        protocols: ids of protocols, or one text with commas.
        settings: changed settings by protocol, e.g. ``{"finetune": {"epochs": 10}}``, of those
            that are asked for.
        heads: heads of the encoder behind which to measure too, e.g. ``("z",)`` of SimCLR.
        frames_per_item: equally spaced frames, or clips, of each item.
        clips: a rule of a published protocol for the clips of a video instead, e.g.
            ``"linspace10"``; see :data:`rhyme.views.CLIP_RULES`.
        short: what becomes of videos shorter than a clip: ``"clamp"``, ``"repeat-first"`` or
            ``"loop"``; None takes the rule's own.
        untrained_seeds: seeds of the fresh weights to stand beside the encoder; none for none.
        seen: what to do with test groups that the encoder was trained on: ``"error"`` refuses,
            ``"drop"`` leaves them out, ``"allow"`` measures all the same, which is right where
            other files only bear the same names; the rows say so.
        seed: of all that is drawn: splits, queries, crops, orders, and a classifier's weights.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: decoding processes.
        options: how a folder is read; of a run's own data its labels alone may be given.
        record: append the rows to the run's ``results.jsonl``.
        results: file to append the rows to besides: a new one, or one of such rows.

    Returns:
        Rows, notes, how many files the scan left out, what could not be measured with its reason,
        and the files that rows could not be written to.
    """
    if isinstance(protocols, str):
        protocols = tuple(name.strip() for name in protocols.split(","))
    if not protocols:
        raise ConfigError(
            "no protocol is named", stage="evaluate", remedy=f"choose from {', '.join(PROTOCOLS)}"
        )
    for given in (seed, *untrained_seeds):
        check_seed(given)
    extra = None if results is None else rows_file(results, "--results")
    package = encoder_of(run, device)
    shelf = isinstance(run, OffTheShelf)
    folder = package.directory if shelf else Path(run)
    # Where nothing is fitted, a collection without a split is judged whole.
    fitted = [p.reads != "frames" or p.fits for p in map(load_protocol, protocols)]
    if data is None:
        if shelf or not (folder / CATALOG).is_file():
            raise RunError(
                "an encoder package brings no data",
                file=folder,
                remedy="say what to judge on: --data",
            )
        refuse_data_options(options, "evaluate")
        catalog = own_data(folder, options)
    else:
        catalog = read_data(data, options, seed=seed, must_split=any(fitted))
    if all(fitted):
        check_held_out(catalog)
    gone = find_missing(catalog)
    if gone:
        tell(f"{describe_missing(gone)}; judged without")
    if catalog.staged_again():
        tell(STAGED)
    label_column = options.label_column if options is not None else None
    recorded = record and not shelf and (folder / "config.yaml").is_file()
    files = [RunFolder.open(folder).results] if recorded else []
    files += [] if extra is None else [extra]
    unsaved: dict[str, str] = {}

    def keep(rows: Sequence[Result]) -> None:
        for file in files:
            try:
                append_results(file, rows)
            except RunError as error:  # what is measured is told all the same
                unsaved.setdefault(str(file), error.cause)

    pictures = folder / "pictures" if recorded else None
    whole = all(load_protocol(name).reads in ("frames", "videos") for name in protocols)
    with progress_bar("evaluate", "videos" if whole else "frames") as progress:
        done = run_protocols(
            package,
            catalog,
            protocols=protocols,
            settings=settings,
            heads=heads,
            label_column=label_column,
            seed=seed,
            frames_per_item=frames_per_item,
            clips=clips,
            short=short,
            untrained_seeds=untrained_seeds,
            seen=seen,
            workers=workers,
            device=resolve_device(device),
            command=command_line(),
            commit=commit(),
            progress=progress,
            pictures=pictures,
            keep=keep,
        )
    if pictures is not None and any(row.protocol == "propagation" for row in done.results):
        done = replace(done, notes=(*done.notes, f"pictures: {pictures}"))
    lost = describe_missing(gone) if gone else ""
    told = [weights_note(package), prepared_note(catalog), lost, quarantine_note(catalog)]
    told += [f"NOT SAVED in {file}: {why}" for file, why in unsaved.items()]
    return replace(done, notes=(*done.notes, *filter(None, told)), unsaved=unsaved)


def check_held_out(catalog: Catalog) -> None:
    """Refuse to judge where all was trained on, as where every archive is called ``train-*``.

    Raises:
        DataError: with the ways out.
    """
    if set(catalog.split_names) == {"train"}:
        raise DataError(
            "no item is of another split than 'train': nothing is held out to judge on",
            file=catalog.root,
            stage="evaluate",
            remedy="judge other data (--data DIR), or train on data with a test part: folders or "
            "archives called test, a --split-column, or names that are no splits, so that "
            "60/20/20 is drawn by group; --split all holds nothing out",
        )
