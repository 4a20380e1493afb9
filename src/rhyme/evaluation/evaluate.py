"""Judge an encoder beside its untrained self, on groups that it never saw."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage, load_package, untrained
from rhyme.errors import ConfigError, DataError, EvaluationError
from rhyme.evaluation.heads import behind_head, check_heads, cycle_head
from rhyme.evaluation.inputs import Seen, classes_of, without_seen
from rhyme.evaluation.judged import Judged
from rhyme.evaluation.measuring import measure, reason_of
from rhyme.evaluation.pixels import Testing
from rhyme.evaluation.protocol import (
    Protocol,
    SplitData,
    load_protocol,
    parse_settings,
)
from rhyme.evaluation.record import Record
from rhyme.evaluation.result import Result
from rhyme.evaluation.seen import TrainedOn
from rhyme.evaluation.splits import Splits, held_out, make_splits
from rhyme.loading import FrameCache
from rhyme.tasks import FeatureTable
from rhyme.tasks.extract import Progress
from rhyme.views import ShortVideo

__all__ = ["Evaluation", "evaluate"]

PARTS = ("train", "val", "test")
STANDARD = ("knn", "linear", "retrieval", "cycle")
"""Protocols that work on features alone, in seconds; the others train, and are asked for."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Attributes:
        results: one row a figure and encoder.
        skipped: reason by id of a protocol that could not be run.
        notes: the split, what was left out, what has to be taken on trust.
        splits: rows of the catalog by split.
        features: the trained encoder's table of each split, for rhymes and strips; empty where no
            protocol reads features.
        quarantined: files that the scan of the data left out.
        unsaved: why, by file, rows could not be added to it.
    """

    results: tuple[Result, ...]
    skipped: dict[str, str]
    notes: tuple[str, ...]
    splits: Splits
    features: dict[str, FeatureTable] = field(repr=False)
    quarantined: int = 0
    unsaved: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def columns(self) -> list[str]:
        """Names of the cells of :attr:`rows`."""
        return ["protocol", "metric", "trained", "untrained", "sd", "gain", "chance", "items"]

    @property
    def rows(self) -> list[list[Any]]:
        """A line a metric: trained beside untrained (mean and deviation over seeds)."""
        lines: dict[tuple[str, str], list[Result]] = {}
        for row in self.results:
            lines.setdefault((row.protocol, row.metric), []).append(row)
        shown: list[list[Any]] = []
        for (protocol, metric), rows in lines.items():
            trained = next((row for row in rows if row.encoder == "trained"), None)
            known = trained or rows[0]
            floor = [row.value for row in rows if row.encoder == "untrained"]
            mean = statistics.fmean(floor) if floor else None
            shown.append(
                [
                    protocol,
                    metric,
                    None if trained is None else trained.value,
                    mean,
                    statistics.stdev(floor) if len(floor) > 1 else None,
                    None if mean is None or trained is None else trained.value - mean,
                    known.chance,
                    known.items,
                ]
            )
        return shown


def evaluate(
    package: EncoderPackage | str | Path,
    catalog: Catalog,
    *,
    protocols: Sequence[str] = STANDARD,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    label_column: str | None = None,
    seed: int = 0,
    heads: Sequence[str] = (),
    frames_per_item: int = 4,
    clips: str | None = None,
    short: ShortVideo | None = None,
    untrained_seeds: Sequence[int] = (0, 1, 2),
    seen: Seen = "error",
    batch_size: int = 128,
    workers: int = 0,
    device: str | torch.device = "cpu",
    cache: FrameCache | None = None,
    command: str = "",
    commit: str = "",
    data: str | None = None,
    progress: Progress | None = None,
    pictures: Path | None = None,
    keep: Callable[[Sequence[Result]], None] | None = None,
) -> Evaluation:
    """Run protocols on the split of a catalog, for the encoder and for untrained copies of it.

    The split is the catalog's own, else 60/20/20 by group; protocols that fit nothing, asked for
    without others, judge all items of a catalog without a split. Frames are decoded once for all
    encoders. A protocol that the data or the encoder cannot serve is skipped with its reason, and
    an untrained encoder from which a training diverges is noted by name; settings and options that
    cannot be are refused before anything is measured.

    Args:
        package: an encoder package, or its folder.
        catalog: the items.
        protocols: ids of :data:`~rhyme.evaluation.PROTOCOLS`.
        settings: changed settings by protocol, of those that are asked for.
        label_column: column to judge by; the catalog's main label by default. Without any,
            protocols that need labels are skipped.
        seed: of all that an evaluation draws: the split where none is given, the validation items
            where a split has none, queries against support, pairs of views, cells, orders of
            segments, and a trained classifier's weights, order and crops. Of encoders none of it.
        heads: heads of the package behind which to measure too, for protocols on features; those
            rows are called ``top1@NAME``, and untrained encoders get fresh heads of the same form.
        frames_per_item: equally spaced frames an item; 1 where all items are single pictures.
        clips: a rule of a published protocol for the clips of a video instead, see
            :data:`rhyme.views.CLIP_RULES`; each item then has one feature, the mean of its clips.
            Their frames and stride are those of the encoder's plan. For protocols on features,
            and those that train on pictures.
        short: what becomes of videos that are shorter than a clip; None takes the rule's own.
        untrained_seeds: seeds of the fresh weights to stand beside the encoder.
        seen: what to do with test groups that the package says it was trained on: refuse, leave
            them out, or measure all the same (the settings then say so).
        batch_size: frames a forward pass.
        workers: decoding processes.
        device: where the encoders run.
        cache: decoded frames to use instead of the files.
        command: command line, for the record.
        commit: revision of the code, for the record.
        data: name of the collection, for the record; its folder's name by default.
        progress: called with (done, total) frames.
        pictures: folder for the pictures that protocols draw of the trained encoder; None for none.
        keep: called with the rows of each protocol and encoder as soon as they are measured, so
            that they are safe whatever becomes of the next ones.

    Returns:
        The rows, and everything one has to know to read them.

    Raises:
        UnknownName: an unknown protocol, setting, head or label column.
        ConfigError: settings of a protocol that is not asked for, that are out of range or do not
            fit the encoder; heads or ``clips`` where no protocol reads features or pictures by
            them; ``short`` without ``clips``.
        EvaluationError: no usable split, or test groups that the encoder was trained on.
        DataError: no item can be read.
    """
    chosen = [load_protocol(name) for name in dict.fromkeys(protocols)]
    parsed = _parsed(chosen, settings or {})
    testing = Testing(clips=clips, short=short)
    if not isinstance(package, EncoderPackage):
        package = load_package(package, device)
    _check_heads(package, heads, chosen)
    _check_clips(clips, chosen)
    skipped = _unfit(package, chosen, parsed)
    placed = all(p.reads == "frames" and not p.fits for p in chosen)
    splits = (held_out if placed else make_splits)(catalog, seed=seed, label=label_column)
    notes = [str(splits), *splits.notes]
    sampling = testing.sampling(package.plan)
    splits = without_seen(package, catalog, splits, seen, notes)
    before = len(notes)
    classes = classes_of(catalog, label_column, splits, notes)
    unlabelled = "; ".join(notes[before:]) or "give a label column (scan with --labels)"
    # a picture has one moment: to see it four times would only make neighbours of itself
    longest = int(np.max(catalog.facts(splits.rows).frames, initial=1))
    judged = Judged(
        package=package,
        modules=_encoders(package, untrained_seeds, notes),
        catalog=catalog,
        splits=splits,
        classes=classes,
        label_column=None if classes is None else label_column or catalog.label_column,
        seed=seed,
        frames_per_item=min(frames_per_item, longest),
        testing=testing,
        known=None if seen == "allow" else TrainedOn.of(package),
        fits=any(p.fits for p in chosen),
        pictures=pictures,
        batch_size=batch_size,
        workers=workers,
        device=device,
        cache=cache,
        progress=progress,
    )
    ready: Mapping[str, SplitData] = {}
    if any(p.reads == "features" for p in chosen):
        ready = judged.features
        notes += _read(judged)
    record = Record.of(
        package,
        catalog,
        splits,
        classes,
        base={
            "data": data if data is not None else catalog.root.name,
            "command": command,
            "commit": commit,
        },
        common={
            "frames_per_item": judged.frames_per_item,
            "label_column": judged.label_column,
            "split_seed": seed,
            "seen": seen,
            **({} if sampling is None else {"sampling": f"{clips}, {sampling}, {sampling.short}"}),
        },
    )
    own = cycle_head(package)
    wanted = {*heads} if own is None else {*heads, own}
    behind = {h: behind_head(package, h, ready) for h in sorted(wanted)} if ready else {}
    results: list[Result] = []
    for protocol in chosen:
        if protocol.id in skipped:
            continue
        if protocol.needs_labels and classes is None:
            skipped[protocol.id] = f"no labels to measure by: {unlabelled}"
            continue
        asked = [
            h
            for h in behind
            if protocol.reads == "features" and (h in heads or protocol.id == "cycle")
        ]
        try:
            inputs = {
                name: {"": data, **{f"@{head}": behind[head][name] for head in asked}}
                for name, data in judged.inputs(protocol.reads).items()
            }
            rows, told = measure(protocol, parsed[protocol.id], inputs, record, keep)
        except (DataError, EvaluationError) as error:
            skipped[protocol.id] = reason_of(error)
            continue
        results += rows
        notes += told
    notes += [f"{name} was skipped: {reason}" for name, reason in skipped.items()]
    first = next(iter(judged.modules))
    features = {name: getattr(ready[first], name) for name in PARTS} if ready else {}
    return Evaluation(
        results=tuple(results),
        skipped=skipped,
        notes=tuple(notes),
        splits=splits,
        features=features,
        quarantined=catalog.quarantine.num_rows,
    )


def _parsed(
    chosen: Sequence[Protocol], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The settings of every protocol that is measured; none may be of another."""
    asked = [protocol.id for protocol in chosen]
    for name, given in settings.items():
        if load_protocol(name).id not in asked:
            raise ConfigError(
                f"settings of '{name}', which is not measured",
                stage="evaluate",
                value=", ".join(f"{name}.{option}" for option in given) or name,
                remedy=f"add it to --protocol: {','.join([*asked, name])}; or leave them out",
            )
    return {p.id: parse_settings(p, settings.get(p.id, {})) for p in chosen}


def _check_heads(package: EncoderPackage, heads: Sequence[str], chosen: Sequence[Protocol]) -> None:
    """Refuse heads that are not there, or that nothing would be measured behind."""
    if heads and not any(p.reads == "features" for p in chosen):
        raise ConfigError(
            "heads are for protocols on features, and none is asked for",
            stage="evaluate",
            value=tuple(heads),
            remedy="add one to --protocol, e.g. knn, or leave --heads out",
        )
    check_heads(package, heads)


def _check_clips(clips: str | None, chosen: Sequence[Protocol]) -> None:
    """Refuse a rule for the clips of a video where nothing is measured by it."""
    if clips is not None and all(p.reads in ("frames", "videos") for p in chosen):
        raise ConfigError(
            "clips by a rule are for protocols on features and those that train on pictures, and "
            "none is asked for",
            stage="evaluate",
            value=clips,
            remedy="add one to --protocol, e.g. retrieval, or leave --clips out",
        )


def _unfit(
    package: EncoderPackage, chosen: Sequence[Protocol], parsed: Mapping[str, Any]
) -> dict[str, str]:
    """Reason by id of a protocol that the encoder cannot serve."""
    found: dict[str, str] = {}
    for protocol in chosen:
        try:
            if protocol.check is not None:
                protocol.check(package, parsed[protocol.id], f"--{protocol.id}.")
        except EvaluationError as error:
            found[protocol.id] = reason_of(error)
    return found


def _encoders(
    package: EncoderPackage, untrained_seeds: Sequence[int], notes: list[str]
) -> dict[str, nn.Module]:
    """The trained encoder, if there is one, and untrained ones of the same form."""
    if not package.trained:
        untrained_seeds = untrained_seeds or (0,)
        notes.append(
            "random weights: no file of weights was given, so every row is of an untrained encoder"
        )
    modules: dict[str, nn.Module] = {"trained": package.module} if package.trained else {}
    return modules | {f"untrained/{s}": untrained(package, s) for s in untrained_seeds}


def _read(judged: Judged) -> list[str]:
    """What was read for the features: the clips, and what could not be read."""
    notes: list[str] = []
    sampling = judged.testing.sampling(judged.package.plan)
    if sampling is not None:
        facts = judged.catalog.facts(judged.splits.rows)
        too_short = int(sampling.of(facts).short.sum())
        notes.append(
            f"clips by {judged.testing.clips}: {sampling}; {too_short} of {len(facts)} videos are "
            f"shorter than a clip ({sampling.short})"
        )
    left_out = next(iter(judged.tables.values())).left_out
    if left_out:
        notes.append(f"{len(left_out)} items could not be read and are left out")
    return notes
