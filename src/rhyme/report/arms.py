"""Runs sorted into arms: those that differ in nothing but their seed belong together.

Runs of one configuration that were judged on different data are different arms: a mean over them
would be of no data at all. So are those that were trained on different data. Folds of one
collection are the same data, and so are its splits by different seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import yaml

from rhyme.report.data import ReportData, Row
from rhyme.report.rows import mapping, number
from rhyme.report.text import DASH, clean, short_path
from rhyme.training import TrainConfig

MOST_NAMED = 2
_WORDS = ("name", "about")
# Options that change how a run is carried out, not what is learned.
_NOT_AN_ARM = {
    *_WORDS,
    "train.seed",
    *(f"train.{name}" for name in TrainConfig(steps=1).operational),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """Runs of one configuration, trained on the same data and judged on the same.

    Attributes:
        name: what sets it apart, for readers.
        runs: its runs, in the order given.
        options: configuration of its first run by dotted name.
    """

    name: str
    runs: Sequence[ReportData]
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The collection that a run was trained on, however it was split.

    Attributes:
        name: that of its folder.
        collection: fingerprint of its catalog with the split column left empty; empty where the
            run does not tell.
        counts: its items and groups, None where not told, and the names of its splits.
    """

    name: str = ""
    collection: str = ""
    counts: tuple[float | str | None, ...] = ()

    def differs(self, other: TrainingData) -> bool:
        """Whether the two are surely not the same; what is not told may be anything."""
        if self.collection and other.collection and self.collection != other.collection:
            return True
        told = None not in (*self.counts[:2], *other.counts[:2]) and self.counts and other.counts
        return bool(told) and self.counts != other.counts

    def __str__(self) -> str:
        mark = f" ({clean(self.collection[:8])})" if self.collection else ""
        return f"trained on {clean(self.name, 40)}{mark}"


class Configured(Protocol):
    """A run as far as its arm depends on it."""

    @property
    def system(self) -> str:
        """Its system's id."""
        ...

    @property
    def name(self) -> str:
        """What the system is called."""
        ...

    @property
    def run(self) -> str:
        """Its folder."""
        ...

    @property
    def config(self) -> str:
        """Text of its ``config.yaml``."""
        ...


def arms(runs: Sequence[ReportData]) -> list[Arm]:
    """Arms in the order in which their first runs are given.

    Args:
        runs: reports' data with their configurations.
    """
    sorted_runs = sort_runs(
        runs, [judged_on(run) for run in runs], [trained_on(run.events) for run in runs], apart=True
    )
    return [
        Arm(name=name, runs=[runs[i] for i in own], options=flattened(runs[own[0]].config))
        for name, own in sorted_runs
    ]


def sort_runs(
    runs: Sequence[Configured],
    judged: Sequence[Sequence[str]],
    trained: Sequence[TrainingData],
    *,
    apart: bool = False,
) -> list[tuple[str, list[int]]]:
    """Name and runs, by their place, of each arm, in the order of their first runs.

    Arms of one system are told apart by the options in which they differ, and those of one
    configuration by their data.

    Args:
        runs: what is sorted.
        judged: fingerprints of the data that each run was judged on.
        trained: what each run was trained on.
        apart: of one configuration, a run joins the first arm that was trained on the same data,
            and whose first run shares data with it that it was judged on; one that was not judged
            joins the first. Otherwise runs are kept together but for those whose figures would
            be mixed: trained on different data and judged on the same.
    """
    grouped: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        flat = flattened(run.config)
        key = repr([(k, v) for k, v in sorted(flat.items()) if k not in _NOT_AN_ARM] or run.run)
        grouped.setdefault(f"{run.system} {key}", []).append(place)
    parts = [_by_data(own, judged, trained, apart) for own in grouped.values()]
    found = sorted((arm for part in parts for arm in part), key=lambda arm: arm[1][0])
    groups = [[runs[i] for i in own] for _, own in found]
    names = _names(groups, [told for told, _ in found])
    return [*zip(names, [own for _, own in found], strict=True)]


def trained_on(events: Sequence[Row]) -> TrainingData:
    """What a run was trained on, by its event ``data``.

    Args:
        events: its events; without that one nothing is known.
    """
    event = next((row for row in reversed(events) if row.get("event") == "data"), {})
    counts = tuple(number(event.get(name)) for name in ("items", "groups"))
    return TrainingData(
        name=str(event.get("data", "")),
        collection=str(event.get("collection", "")),
        counts=(*counts, *sorted(mapping(event.get("splits")))),
    )


def judged_on(run: ReportData) -> list[str]:
    """Fingerprints of the data of a run's figures."""
    marks = [row.get("data_fingerprint") for row in run.results]
    return list(dict.fromkeys(mark for mark in marks if isinstance(mark, str) and mark))


def differences(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Options in which runs differ, and their values an arm; ``–`` where it has no such option.

    Args:
        arms: what is compared. Values of an arm's runs are listed where they differ (seeds). An arm
            without any option, an encoder off the shelf, makes no difference by lacking them.
    """
    every = [[flattened(run.config) for run in arm.runs] for arm in arms]
    names = dict.fromkeys(name for runs in every for flat in runs for name in flat)
    names = [name for name in names if name not in _WORDS]
    found: list[tuple[str, list[str]]] = []
    for name in names:
        cells = [", ".join(dict.fromkeys(_value(flat, name) for flat in runs)) for runs in every]
        told = {cell for cell, runs in zip(cells, every, strict=True) if any(runs)}
        if len(told) > 1 or any(len({repr(flat.get(name)) for flat in runs}) > 1 for runs in every):
            found.append((clean(name, 120), cells))
    return found


def flattened(config: str) -> dict[str, Any]:
    """Options of a ``config.yaml`` by dotted name; lists stay whole, what is no YAML gives none."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    found: dict[str, Any] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in cast(Mapping[object, object], value).items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif path:
            found[path] = value

    walk(tree, "")
    return found


def _value(options: Mapping[str, Any], name: str) -> str:
    if name not in options:
        return DASH
    value = options[name]
    return clean("none" if value is None else value, 80)


def _by_data(
    places: Sequence[int],
    judged: Sequence[Sequence[str]],
    trained: Sequence[TrainingData],
    apart: bool,
) -> list[tuple[str, list[int]]]:
    """Runs of one configuration by their data, named where there are several."""
    found: list[tuple[list[str], list[int]]] = []
    for place in places:
        own = judged[place]
        for known, members in found:
            others = [m for m in members if trained[m].differs(trained[place])]
            if apart:
                fits = not others and not (own and known and set(known).isdisjoint(own))
            else:
                fits = all(set(judged[m]).isdisjoint(own) for m in others)
            if fits:
                known += own if not known else []
                members.append(place)
                break
        else:
            found.append(([*own], [place]))
    marks = [clean(known[0][:8]) if known and apart else "" for known, _ in found]
    named: list[tuple[str, list[int]]] = []
    for mark, (_, members) in zip(marks, found, strict=True):
        told = [f"data {mark}"] if mark and len(set(marks)) > 1 else []
        if marks.count(mark) > 1:
            told.append(next((str(trained[m]) for m in members if trained[m].name), ""))
        named.append((", ".join(part for part in told if part), members))
    return named


def _names(groups: Sequence[Sequence[Configured]], data: Sequence[str]) -> list[str]:
    options = [flattened(group[0].config) for group in groups]
    names = [clean(group[0].name, 60) for group in groups]
    for name in {n for n in names if names.count(n) > 1}:
        own = [i for i, other in enumerate(names) if other == name]
        keys = dict.fromkeys(key for i in own for key in options[i])
        apart = [
            key
            for key in keys
            if key not in _NOT_AN_ARM and len({repr(options[i].get(key)) for i in own}) > 1
        ]
        for i in own:
            told = [f"{key.rsplit('.', 1)[-1]} {_value(options[i], key)}" for key in apart]
            rest = len(told) - MOST_NAMED
            text = ", ".join(told[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
            text = ", ".join(part for part in (text, data[i]) if part)
            names[i] = f"{name}, {text or short_path(groups[i][0].run, 30)}"
    # What is still alike is told apart by its folder.
    return [
        f"{n} ({short_path(g[0].run, 30)})" if names.count(n) > 1 else n
        for n, g in zip(names, groups, strict=True)
    ]
