"""Result rows as they lie in files: which are of one measurement, and what they are paired by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    return Measured.of(_pair(row), row.get("seed"), value)


def _pair(row: Row) -> Any:
    return next((row[k] for k in ("pair", "pair_key") if row.get(k) is not None), "")


def settings_key(row: Row) -> str:
    """What has to be equal in rows of one measurement: settings, data, kind of the export."""
    settings = {
        str(k): v for k, v in mapping(row.get("settings")).items() if k not in _NOT_A_SETTING
    }
    for extra in ("data", "export"):
        if row.get(extra) is not None:
            settings.setdefault(extra, row[extra])
    if row.get("data_fingerprint") is not None:
        settings["data_fingerprint"] = str(row["data_fingerprint"])[:8]
    return json.dumps(settings, sort_keys=True, default=str)


def chance_keys(lines: Mapping[tuple[str, str, str], object]) -> list[tuple[str, str, str]]:
    """Those of (protocol, metric, settings) that are the chance level of another."""
    return [
        key
        for key in lines
        if key[1].endswith("_chance") and (key[0], key[1][: -len("_chance")], key[2]) in lines
    ]


def variant_of(settings: str, variants: Sequence[tuple[str, str, str]]) -> str:
    """The settings in which a line differs from its like."""
    if len(variants) < 2:
        return ""
    own = cast(dict[str, Any], json.loads(settings))
    others = [cast(dict[str, Any], json.loads(key[2])) for key in variants]
    differing = [
        name
        for name in own
        if any(name not in other or other[name] != own[name] for other in others)
    ]
    # The fingerprint tells data apart only where the name does not.
    if "data_fingerprint" in differing and not any(
        other.get("data") == own.get("data")
        and other.get("data_fingerprint") != own["data_fingerprint"]
        for other in others
    ):
        differing.remove("data_fingerprint")
    words = {"data_fingerprint": "data"}
    return ", ".join(
        f"{words.get(name) or clean(name, 40)} {clean(own[name], 60)}" for name in differing
    )
