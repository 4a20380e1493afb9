"""Encoders off the shelf of one name, told apart by their weights and by how they were fed.

Their rows are called by encoder and file, and a file may be called ``checkpoint.pth`` in every
folder. Only what a comparison calls them changes; their settings do not, so they stay comparable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from rhyme.evaluation.result import Result

__all__ = ["tell_apart"]

_DIGITS = 8


def tell_apart(rows: Iterable[Result]) -> list[Result]:
    """The rows, those of several encoders of one name under names of their own.

    A name gets the first digits of the weights' SHA-256 where these differ, and the fields of the
    inference plan that differ, e.g. ``torchvision:resnet50 w.pth (3f2a91c0, size 128)``.

    Args:
        rows: any rows; those without ``details.weights`` stay as they are.
    """
    rows = list(rows)
    kinds: dict[str, dict[str, tuple[str, Mapping[str, Any]]]] = {}
    for row in rows:
        if "weights" in row.details:
            found = kinds.setdefault(row.system, {})
            found.setdefault(_kind(row), (_weights(row), _plan(row)))
    names = {
        (system, kind): name
        for system, found in kinds.items()
        if len(found) > 1
        for kind, name in zip(found, _names(system, [*found.values()]), strict=True)
    }
    if not names:
        return rows
    return [
        replace(row, system=names.get((row.system, _kind(row)), row.system))
        if "weights" in row.details
        else row
        for row in rows
    ]


def _weights(row: Result) -> str:
    """First digits of the hash of the file of weights; empty for drawn ones."""
    facts = row.details["weights"]
    return str(cast("dict[str, Any]", facts).get("sha256", ""))[:_DIGITS] if facts else ""


def _plan(row: Result) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", row.details.get("plan") or {})


def _kind(row: Result) -> str:
    return json.dumps([_weights(row), _plan(row)], sort_keys=True, default=str)


def _names(system: str, kinds: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    plans = [plan for _, plan in kinds]
    fields = dict.fromkeys(name for plan in plans for name in plan)
    apart = [name for name in fields if len({repr(plan.get(name)) for plan in plans}) > 1]
    if "size" in apart and "resize" in apart:
        apart.remove("resize")  # it follows the size, as a rule
    several = len({weights for weights, _ in kinds}) > 1
    names: list[str] = []
    for weights, plan in kinds:
        told = [weights] if several and weights else []
        told += [f"{name} {plan[name]}" for name in apart if name in plan]
        names.append(f"{system} ({', '.join(told)})" if told else system)
    return names
