"""A run folder, or files of result rows -> report data, from text files alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from rhyme.errors import EvaluationError, RunError
from rhyme.evaluation import Result, read_results
from rhyme.evaluation.shelf_names import tell_apart
from rhyme.report.data import ReportData, Row, RunFacts
from rhyme.report.rows import TRAINED, UNTRAINED, mapping, number
from rhyme.run import RunFolder, read_jsonl

_TEXT = (
    "data",
    "data_fingerprint",
    "device",
    "commit",
    "command",
    "package_hash",
    "initial_weights",
    "system",
    "system_title",
)
_NUMBERS = ("items", "groups", "seed", "seconds")
_PACKAGES = ("rhyme", "torch", "torchvision", "numpy", "python", "cuda")
_OF_FILES = ("quarantined", "left_out")  # their numbers tell of what took no part
_ALIASES = {
    "fingerprint": "data_fingerprint",
    "catalog": "data_fingerprint",
    "catalog_fingerprint": "data_fingerprint",
    "checkpoint": "package_hash",
    "package": "package_hash",
    "title": "system_title",
}


def collect(
    run_dir: str | Path, *, titles: Callable[[str], str] | Mapping[str, str] | None = None
) -> ReportData:
    """What ``config.yaml``, ``metrics.jsonl``, ``results.jsonl`` and ``events.jsonl`` say.

    A run that has not logged or measured anything yet gives a report that says so. Rhymes, strips
    and notes need the data and are added by the caller with ``dataclasses.replace``.

    Args:
        run_dir: the run folder.
        titles: name for readers by system id, as a mapping or a function.

    Raises:
        RunError: the folder is missing, is no run, or its ``config.yaml`` is no YAML mapping.
    """
    run = RunFolder.open(run_dir)
    text = run.config.read_text(encoding="utf-8", errors="replace")
    config = _parse(run.config, text)
    metrics, results, events = (read_jsonl(path) for path in (run.metrics, run.results, run.events))
    facts = _facts(config, metrics, results, events)
    system = str(facts.pop("system", "") or "unknown system")
    title = str(facts.pop("system_title", "") or _title(system, titles))
    return ReportData(
        system=system,
        system_title=title,
        run=str(run_dir),
        facts=RunFacts(**facts),
        config=text,
        metrics=metrics,
        results=results,
        events=events,
    )


def collect_results(
    files: Sequence[str | Path],
    *,
    titles: Callable[[str], str] | Mapping[str, str] | None = None,
) -> list[ReportData]:
    """The encoders of files of result rows, as ``rhyme evaluate --results`` writes them.

    Encoders of one arm count as its runs. They are told apart as ``rhyme compare`` does it, and
    have figures alone: no curves, no configuration.

    Args:
        files: JSONL files of :class:`rhyme.evaluation.Result`.
        titles: name for readers by system id, as a mapping or a function.

    Raises:
        EvaluationError: a file has no rows, or one that is no result.
    """
    rows: list[Result] = []
    sources: dict[int, str] = {}
    for file in files:
        found = read_results(file)
        if not found:
            raise EvaluationError(
                "the file holds no result rows",
                file=file,
                stage="report",
                remedy="give a run folder, or a file that rhyme evaluate --results wrote",
            )
        sources |= {len(rows) + k: str(file) for k in range(len(found))}
        rows += found
    rows = tell_apart(rows)
    encoders: dict[tuple[str, str], list[int]] = {}
    for k, row in enumerate(rows):
        if not row.untrained:
            encoders.setdefault((row.arm, row.checkpoint), []).append(k)
    # of random weights there are untrained rows alone
    known = {rows[places[0]].system for places in encoders.values()}
    for k, row in enumerate(rows):
        if row.system not in known:
            encoders.setdefault((row.system, ""), []).append(k)
    return [_encoder(rows, places, sources[places[0]], titles) for places in encoders.values()]


def _encoder(
    rows: Sequence[Result],
    places: Sequence[int],
    file: str,
    titles: Callable[[str], str] | Mapping[str, str] | None,
) -> ReportData:
    """An encoder with its own rows, and with the untrained ones of its arm, or of its system."""
    first = rows[places[0]]
    own = [{**rows[k].to_row(), "encoder": TRAINED} for k in places if not rows[k].untrained]
    fresh = [row for row in rows if row.arm == f"{first.arm} {UNTRAINED}"] or [
        row for row in rows if row.system == first.system and row.encoder == UNTRAINED
    ]
    title = _title(first.system, titles)
    named = bool(title) and own and first.arm != first.system
    return ReportData(
        system=first.arm if own else first.system,
        system_title=f"{title} {first.encoder}" if named else title,
        kind="results",
        run=file,
        facts=RunFacts(seed=first.seed if first.measured.trained else None),
        results=[*own, *({**row.to_row(), "encoder": UNTRAINED} for row in fresh)],
    )


def _parse(path: Path, text: str) -> Mapping[str, Any]:
    remedy = "restore config.yaml from a copy; it is written once, when the run starts"
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunError(
            "config.yaml cannot be read", file=path, stage="report", remedy=remedy
        ) from error
    if not isinstance(config, Mapping):
        raise RunError("config.yaml is no table of options", file=path, remedy=remedy)
    return cast(Mapping[str, Any], config)


def _title(system: str, titles: Callable[[str], str] | Mapping[str, str] | None) -> str:
    if titles is None:
        return ""
    return titles(system) if callable(titles) else titles.get(system, "")


def _facts(
    config: Mapping[str, Any],
    metrics: Sequence[Row],
    results: Sequence[Row],
    events: Sequence[Row],
) -> dict[str, Any]:
    """Facts from all four files. What the run did (events) outweighs what was asked (config)."""
    facts: dict[str, Any] = {}
    train = mapping(config.get("train"))
    for key in ("seed", "device"):
        _note(facts, {key: config.get(key, train.get(key))})
    if facts.get("device") == "auto":
        del facts["device"]
    for key in ("system", "data"):
        value: Any = config.get(key)
        options = mapping(value)
        if options:
            value = next((options[k] for k in ("id", "name", "path") if k in options), None)
        _note(facts, {key: value})
    own = [row for row in results if row.get("encoder", TRAINED) == TRAINED]
    for row in own[-1:]:
        # A result's `items`, `seed` and `data` tell of the measurement, not of the training.
        _note(facts, {k: row.get(k) for k in ("system", "checkpoint", "package_hash", "commit")})
    # Steps done, not steps asked for: the run may have been stopped.
    done = [step for row in (*metrics, *events) if (step := _whole(row.get("step"))) is not None]
    if done:
        facts["steps"] = max(done)
    for row in metrics[-1:]:
        _note(facts, {"seconds": row.get("seconds")})
    for row in events:
        if row.get("event") in _OF_FILES:
            continue
        _note(facts, row)
        _note(facts, {"versions": {k: row[k] for k in _PACKAGES if k in row}})
        # Items and groups of the data set, of which only the training split was trained on.
        splits = mapping(row.get("splits"))
        if "train" in splits:
            facts.pop("groups", None)
            _note(facts, {"items": splits["train"]})
        _note(facts, {"items": row.get("train_items"), "groups": row.get("train_groups")})
    return facts


def _note(facts: dict[str, Any], row: Row) -> None:
    for name, value in row.items():
        key = _ALIASES.get(name, name)
        if isinstance(value, str) and key in _TEXT and value:
            facts[key] = value
        elif key == "command" and isinstance(value, list):
            facts[key] = " ".join(str(word) for word in cast(list[Any], value))
        elif key in _NUMBERS and (known := number(value)) is not None and abs(known) < 1e18:
            facts[key] = known if key == "seconds" else int(known)
        elif key == "versions" and mapping(value):
            known_before = facts.get("versions", {})
            facts[key] = {**known_before, **{str(k): str(v) for k, v in mapping(value).items()}}


def _whole(value: object) -> int | None:
    known = number(value)
    return int(known) if known is not None and abs(known) < 1e18 else None
