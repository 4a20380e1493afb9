"""Result rows as they lie in files: which are of one measurement, and what they are paired by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from rhyme.evaluation.pairing import Measured
from rhyme.report.data import Row
from rhyme.report.text import clean

TRAINED, UNTRAINED = "trained", "untrained"
# What tells rows of one measurement apart without changing what is measured.
_REPETITION = ("seed", "encoder_seed", "split_seed", "fold", "split_number")
_NOT_A_SETTING = (*_REPETITION, "pair", "encoder", "chance")


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


def repetition_of(row: Row) -> str:
    """What tells repetitions apart, pair and seed: a later row replaces an equal earlier one."""
    return json.dumps([_pair(row), row.get("seed")], default=str)


def measured(row: Row, value: float) -> Measured:
    """A row's figure with what it is paired by."""
    encoder = row.get("encoder")
    return Measured.of(
        _pair(row),
        row.get("seed"),
        value,
        encoder=encoder if isinstance(encoder, str) else TRAINED,
        details=mapping(row.get("details")),
    )


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


def chance_keys(lines: Mapping[tuple[str, str, str], object]) -> list[tuple[str, str, str]]:
    """Those of (protocol, metric, settings) that are the chance level of another."""
    return [
        key
        for key in lines
        if key[1].endswith("_chance") and (key[0], key[1][: -len("_chance")], key[2]) in lines
    ]


def variant_of(
    settings: str, variants: Sequence[tuple[str, str, str]], names: Mapping[str, str]
) -> str:
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
