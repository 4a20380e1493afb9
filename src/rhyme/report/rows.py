"""Result rows as they lie in files: which are of one measurement, and what they are paired by."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from rhyme.evaluation.pairing import EVALUATION_SEED, REPEATED, Measured, averaged
from rhyme.report.data import Row
from rhyme.report.text import clean

TRAINED, UNTRAINED = "trained", "untrained"
_NOT_A_SETTING = (*REPEATED, EVALUATION_SEED, "pair", "encoder", "chance")

Key = tuple[str, str, str]
"""Protocol, metric and settings of a measurement."""


def number(value: object) -> float | None:
    """A value of a JSON row as a number; ``"nan"`` and ``"inf"`` count as numbers, text not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """A value of a JSON row as a mapping; anything else is an empty one."""
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def by_line(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """Rows of each measurement; those without protocol, metric or value are passed over."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        protocol, metric = row.get("protocol"), row.get("metric")
        if isinstance(protocol, str) and isinstance(metric, str) and row.get("value") is not None:
            found.setdefault((protocol, metric, settings_key(row)), []).append(row)
    return found


def encoder_of(row: Row) -> str:
    """``"trained"``, ``"untrained"`` or another encoder's name."""
    name = row.get("encoder")
    return name if isinstance(name, str) else TRAINED


def mark_of(row: Row) -> str:
    """Which encoder of its run a row is of; empty where it does not tell."""
    step = number(mapping(row.get("details")).get("step"))
    if step is not None and math.isfinite(step):
        return f"step {step:.0f}"
    mark = row.get("checkpoint", row.get("package_hash"))
    return f"encoder {clean(mark)[:8]}" if isinstance(mark, str) and mark else ""


def place_of(row: Row) -> tuple[str, str, str]:
    """Encoder, split and seed: what is measured there again is no repetition."""
    figure = measured(row, 0.0)
    return encoder_of(row), figure.split, figure.seed


def latest(rows: Sequence[Row]) -> list[Row]:
    """Rows of a measurement in one run without those that a later one replaces.

    A row replaces an equal one that was measured before. On one split and seed, those of the
    checkpoint that was measured last replace those of all others, whatever seeds these were
    evaluated with.
    """
    last = {place_of(row): mark_of(row) for row in rows}
    found: dict[str, Row] = {}
    for row in rows:
        place = place_of(row)
        if place[0] != TRAINED or mark_of(row) == last[place]:
            found[repr([place, _pair(row)])] = row
    return [*found.values()]


def finite(row: Row) -> float | None:
    """A row's value; None where it has none that is finite."""
    value = number(row.get("value"))
    return value if value is not None and math.isfinite(value) else None


def measured(row: Row, value: float, checkpoint: str = "") -> Measured:
    """A row's figure with what it is paired by."""
    return Measured.of(
        _pair(row),
        row.get("seed"),
        value,
        encoder=encoder_of(row),
        details=mapping(row.get("details")),
        checkpoint=checkpoint,
    )


def figures(rows: Iterable[Row], encoder: str, *, runs: bool = False) -> list[Measured]:
    """Finite figures of an encoder, one a split and seed.

    What it has there by several seeds of the evaluation is averaged.

    Args:
        rows: of one measurement, without those that others replace.
        encoder: its name.
        runs: whether they are of several runs: checkpoints of one seed then count each, but for
            those of an untrained encoder, which is of none.
    """
    last: dict[str, Measured] = {}
    for row in rows:
        value = finite(row)
        if value is not None and encoder_of(row) == encoder:
            checkpoint = str(row.get("checkpoint")) if runs and encoder != UNTRAINED else ""
            last[repr([_pair(row), row.get("seed"), checkpoint])] = measured(row, value, checkpoint)
    return averaged(last.values())


def _pair(row: Row) -> Any:
    return next((row[k] for k in ("pair", "pair_key") if row.get(k) is not None), "")


def settings_key(row: Row) -> str:
    """What has to be equal in rows of one measurement: settings, data, kind of the export.

    Data are known by their fingerprint, wherever they lie; by their name where rows have none.
    """
    settings = {
        str(k): v for k, v in mapping(row.get("settings")).items() if k not in _NOT_A_SETTING
    }
    mark = _mark(row)
    for extra, value in (
        ("data", row.get("data") if mark is None else None),
        ("export", row.get("export")),
    ):
        if value is not None:
            settings.setdefault(extra, value)
    if mark is not None:
        settings["data_fingerprint"] = mark
    return json.dumps(settings, sort_keys=True, default=str)


def _mark(row: Row) -> str | None:
    """First digits of the fingerprint of a row's data."""
    mark = row.get("data_fingerprint")
    return None if mark is None else str(mark)[:8]


def data_names(rows: Iterable[Row]) -> dict[str, str]:
    """What collections are called, by the first digits of their fingerprints.

    Of several folders that hold one collection the first name counts.
    """
    found: dict[str, str] = {}
    for row in rows:
        mark, name = _mark(row), row.get("data")
        if mark is not None and name is not None:
            found.setdefault(mark, str(name))
    return found


def chance_keys(lines: Mapping[Key, object]) -> list[Key]:
    """Those of (protocol, metric, settings) that are the chance level of another."""
    return [
        key
        for key in lines
        if key[1].endswith("_chance") and (key[0], key[1][: -len("_chance")], key[2]) in lines
    ]


def variant_of(settings: str, variants: Sequence[Key], names: Mapping[str, str]) -> str:
    """The settings in which a line differs from its like.

    Args:
        settings: those of the line, as :func:`settings_key` has them.
        variants: (protocol, metric, settings) of all its like, itself among them.
        names: those of collections, by :func:`data_names`.
    """
    if len(variants) < 2:
        return ""
    own = cast(dict[str, Any], json.loads(settings))
    others = [cast(dict[str, Any], json.loads(key[2])) for key in variants]
    differing = [
        name
        for name in own
        if any(name not in other or other[name] != own[name] for other in others)
    ]
    marks = {str(other.get("data_fingerprint")) for other in others}
    told: list[str] = []
    for name in differing:
        value = own[name]
        if name == "data_fingerprint":
            # the fingerprint tells data apart only where the name does not
            called = names.get(value, value)
            alike = sum(names.get(mark) == called for mark in marks) > 1
            name, value = "data", value if alike else called
        told.append(f"{clean(name, 40)} {clean(value, 60)}")
    return ", ".join(told)
