"""Spreads over seeds and paired differences between encoders, from result rows alone."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rhyme.errors import EvaluationError, UnknownName, nearest, printable
from rhyme.evaluation.pairing import REPEATED, pair_up
from rhyme.evaluation.result import Result
from rhyme.evaluation.shelf_names import tell_apart

__all__ = ["Comparison", "ComparisonLine", "Difference", "compare"]

_UNTRAINED = "untrained"
MOST_TOLD = 3  # figures of other test items that a note names


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One arm minus another.

    Attributes:
        baseline: the other arm.
        mean: mean difference.
        error: standard error of the mean; None where it cannot be told from one repetition.
        n: pairs, or the smaller number of repetitions when unpaired.
        paired: whether it is a mean over pairs of equal data and split, and of equal seed where
            both arms were trained here.
        whole: whether it is the difference of the two means; else a pair leaves figures out that
            one of the means rests on.
    """

    baseline: str
    mean: float
    error: float | None
    n: int
    paired: bool
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class ComparisonLine:
    """One arm's figures in one metric.

    Attributes:
        data: name of the collection; with the first digits of its fingerprint where several
            collections have that name.
        protocol: protocol id.
        metric: metric id.
        variant: the settings in which lines of this protocol and metric differ, else empty.
        arm: the system, with the encoder's name where it is not the trained one.
        mean: mean over seeds and folds.
        sd: standard deviation with n - 1; None for a single value.
        n: repetitions.
        lost: repetitions whose value is not finite; they are no part of the mean.
        chance: mean figure of a guess, where known.
        difference: this arm minus the baseline; None for the baseline itself.
    """

    data: str
    protocol: str
    metric: str
    variant: str
    arm: str
    mean: float
    sd: float | None
    n: int
    lost: int
    chance: float | None
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Lines by data, protocol, metric and arm.

    Attributes:
        lines: the lines, in the order in which their rows came.
        notes: what a reader has to know of them.
    """

    lines: tuple[ComparisonLine, ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the cells of :attr:`rows`."""
        return ["data", "protocol", "metric", "encoder", "mean", "sd", "n", "chance",
                "difference", "error", "pairs", "against"]  # fmt: skip

    @property
    def rows(self) -> list[list[Any]]:
        """The lines as plain cells; None where there is nothing to say."""
        rows: list[list[Any]] = []
        for line in self.lines:
            d = line.difference
            metric = f"{line.metric} ({line.variant})" if line.variant else line.metric
            shown: list[Any] = [line.data, line.protocol, metric, line.arm]
            shown += [line.mean, line.sd, line.n, line.chance]
            shown += [None] * 4 if d is None else [d.mean, d.error, d.n if d.paired else 0]
            shown += [] if d is None else [d.baseline]
            rows.append(shown)
        return rows

    def text(self, width: int = 140) -> str:
        """The lines as a table for a terminal.

        Args:
            width: of the terminal, in characters.
        """
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in self.columns:
            table.add_column(name, justify="left" if name in _WORDS else "right")
        for row in self.rows:
            table.add_row(*[_cell(value) for value in row])
        out = io.StringIO()
        Console(file=out, width=width, color_system=None, markup=False).print(table)
        return "\n".join([out.getvalue().rstrip(), *self.notes])


_WORDS = ("data", "protocol", "metric", "encoder", "against")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else printable(str(value))


def compare(results: Iterable[Result], *, baseline: str | None = None) -> Comparison:
    """Means, spreads and differences.

    Rows belong together when data, protocol, metric and settings agree. A row measured twice (equal
    arm, checkpoint, seed and pair) counts once, the later value. Of an untrained encoder, which is
    of no checkpoint, arm, seed and pair decide; a note says where another value was replaced.
    Differences are taken over pairs, as :func:`rhyme.evaluation.pairing.pair_up` has them, where at
    least two are shared, or the one that both arms have, else between the means; where one of both
    is untrained or off the shelf, what an arm has on one data and split is averaged first. A note
    says where pairs leave figures out. Encoders off the shelf of one name are told apart by their
    weights' hash and by how they were fed.

    Args:
        results: rows of any number of runs.
        baseline: arm that all others are compared with; None compares each arm with its own
            untrained encoder (``ARM untrained``), else with that of its system.

    Returns:
        The comparison.

    Raises:
        EvaluationError: without rows.
        UnknownName: no row has the baseline.
    """
    groups: dict[tuple[str, str, str, str], dict[str, dict[Any, Result]]] = {}
    other_values: dict[str, int] = {}
    for row in tell_apart(results):
        key = (row.data_fingerprint, row.protocol, row.metric, _settings(row))
        arm = groups.setdefault(key, {}).setdefault(row.arm, {})
        # checkpoints of an untrained encoder differ by the run they stand beside, not in what
        # was measured: its seed alone tells its weights
        fresh = row.untrained
        place = (row.pair, row.seed) if fresh else (row.pair, row.seed, row.checkpoint)
        before = arm.get(place)
        if fresh and before is not None and before.checkpoint != row.checkpoint:
            other_values[row.arm] = other_values.get(row.arm, 0) + (before.value != row.value)
        arm[place] = row
    if not groups:
        raise EvaluationError(
            "no results to compare", stage="compare", remedy="evaluate first: rhyme evaluate RUN"
        )
    arms = {arm for group in groups.values() for arm in group}
    if baseline is not None and baseline not in arms:
        raise UnknownName(
            f"no results of '{baseline}'", stage="compare", remedy=nearest(baseline, arms)
        )
    lines: list[ComparisonLine] = []
    names = _data_names(
        row for group in groups.values() for rows in group.values() for row in rows.values()
    )
    lost = 0
    other_items: dict[tuple[str, str], list[str]] = {}
    for key, group in groups.items():
        siblings = [json.loads(k[3]) for k in groups if k[:3] == key[:3]]
        variant = _variant(json.loads(key[3]), siblings)
        for arm, rows in group.items():
            other = baseline if baseline is not None else _own_untrained(arm, rows, group)
            against = group.get(other) if other != arm else None
            line = _line(arm, [*rows.values()], variant, names)
            if against is not None:
                line = _with_difference(line, rows, other, against)
                if told := _other_items(rows.values(), against.values()):
                    title = f"{line.protocol} {line.metric}: {told}"
                    other_items.setdefault((arm, other), []).append(title)
            lost += line.lost
            lines.append(line)
    notes: list[str] = []
    alike = sorted({name for (name, _), shown in names.items() if shown != name})
    if alike:
        notes.append(
            f"several sets of data are called {', '.join(alike)}: each is named with its "
            "fingerprint, and lines of different data are not compared"
        )
    notes += [
        f"{arm}: {count} figures were replaced by others of the same seed, measured beside another "
        "checkpoint; such encoders differ in their form, or in the device they were measured on"
        for arm, count in other_values.items()
        if count
    ]
    notes += [
        f"{arm}: several encoders of one seed were measured on the same data; each counts as a "
        "repetition, which tells nothing of another seed"
        for arm in _of_one_seed(groups.values())
    ]
    if lost:
        notes.append(f"{lost} values are not finite; they are no part of the means")
    notes += _in_part(lines)
    notes += [
        f"{arm} minus {other}: not over the same test items ({'; '.join(told[:MOST_TOLD])}"
        f"{f' and {len(told) - MOST_TOLD} more' if len(told) > MOST_TOLD else ''}); see what was "
        "left out where they were evaluated"
        for (arm, other), told in other_items.items()
    ]
    single = sum(line.n == 1 for line in lines)
    if single:
        notes.append(f"{single} lines rest on a single repetition: they have no spread")
    return Comparison(lines=tuple(lines), notes=tuple(notes))


def _own_untrained(arm: str, rows: Mapping[Any, Result], group: Mapping[str, object]) -> str:
    """The untrained encoder that an arm is compared with: its own, else its system's."""
    first = next(iter(rows.values()))
    if first.untrained:
        return arm
    own = f"{arm} {_UNTRAINED}"
    return own if own in group else f"{first.system} {_UNTRAINED}"


def _of_one_seed(groups: Iterable[Mapping[str, Mapping[Any, Result]]]) -> list[str]:
    """Arms that have rows of equal pair and seed and of different checkpoints."""
    found: dict[str, None] = {}
    for group in groups:
        for arm, rows in group.items():
            places = {(row.pair, row.seed) for row in rows.values()}
            if len(places) < len(rows):
                found[arm] = None
    return [*found]


def _data_names(rows: Iterable[Result]) -> dict[tuple[str, str], str]:
    """What a collection is called in the table, by its name and fingerprint."""
    known = dict.fromkeys((row.data, row.data_fingerprint) for row in rows)
    names = [name for name, _ in known]
    return {
        (name, mark): f"{name} ({mark[:8]})" if names.count(name) > 1 else name
        for name, mark in known
    }


def _settings(row: Result) -> str:
    # what was evaluated with another seed stays a line of its own
    kept = {k: v for k, v in row.settings.items() if k not in REPEATED}
    return json.dumps({**kept, "export": row.export}, sort_keys=True, default=str)


def _variant(own: dict[str, Any], siblings: Sequence[dict[str, Any]]) -> str:
    differing = sorted(
        name for name in own if any(other.get(name) != own[name] for other in siblings)
    )
    return ", ".join(f"{name} {own[name]}" for name in differing)


def _finite(rows: Iterable[Result]) -> list[float]:
    return [row.value for row in rows if math.isfinite(row.value)]


def _line(
    arm: str, rows: Sequence[Result], variant: str, names: Mapping[tuple[str, str], str]
) -> ComparisonLine:
    values = _finite(rows)
    chances = [row.chance for row in rows if row.chance is not None]
    return ComparisonLine(
        data=names[rows[0].data, rows[0].data_fingerprint],
        protocol=rows[0].protocol,
        metric=rows[0].metric,
        variant=variant,
        arm=arm,
        mean=statistics.fmean(values) if values else math.nan,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        lost=len(rows) - len(values),
        chance=statistics.fmean(chances) if chances else None,
        difference=None,
    )


def _with_difference(
    line: ComparisonLine, own: dict[Any, Result], baseline: str, other: dict[Any, Result]
) -> ComparisonLine:
    a, b = [*own.values()], [*other.values()]
    pairs = pair_up([row.measured for row in a], [row.measured for row in b])
    difference: Difference | None = None
    if pairs is not None:
        gains = pairs.gains
        difference = Difference(
            baseline=baseline,
            mean=statistics.fmean(gains),
            error=statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None,
            n=len(gains),
            paired=True,
            whole=pairs.whole,
        )
    else:
        x, y = _finite(a), _finite(b)
        if x and y:
            spread = [statistics.variance(v) / len(v) for v in (x, y) if len(v) > 1]
            difference = Difference(
                baseline=baseline,
                mean=statistics.fmean(x) - statistics.fmean(y),
                error=math.sqrt(sum(spread)) if len(spread) == 2 else None,
                n=min(len(x), len(y)),
                paired=False,
            )
    return replace(line, difference=difference)


def _other_items(own: Iterable[Result], other: Iterable[Result]) -> str:
    """Numbers of items of both on a split that they were measured on both, where these differ."""
    counts: list[dict[str, set[int]]] = []
    for rows in (own, other):
        found: dict[str, set[int]] = {}
        for row in rows:
            found.setdefault(row.measured.split, set()).add(row.items)
        counts.append(found)
    a, b = counts
    for split in a:
        if split in b and a[split] != b[split]:
            return " and ".join("/".join(map(str, sorted(items[split]))) for items in (a, b))
    return ""


def _in_part(lines: Iterable[ComparisonLine]) -> list[str]:
    """Arms whose differences rest on other figures than the means beside them."""
    found: dict[tuple[str, str], set[int]] = {}
    for line in lines:
        if line.difference is not None and not line.difference.whole:
            found.setdefault((line.arm, line.difference.baseline), set()).add(line.difference.n)
    return [
        f"{arm} minus {other}: over the {' or '.join(map(str, sorted(pairs)))} pairs that both "
        "have; their means rest on other figures too, and differ by another value"
        for (arm, other), pairs in found.items()
    ]
