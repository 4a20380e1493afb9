"""Figures of several arms beside each other: spreads over seeds and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rhyme.evaluation.pairing import Measured, pair_up
from rhyme.report.arms import Arm
from rhyme.report.data import Row
from rhyme.report.rows import (
    TRAINED,
    UNTRAINED,
    Key,
    by_line,
    chance_keys,
    data_names,
    figures,
    latest,
    number,
    variant_of,
)
from rhyme.report.summary import HEADLINES, Spread
from rhyme.report.text import lower_is_better, metric_name, protocol_name

TIE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Gap:
    """An arm minus the first one.

    Attributes:
        spread: mean and deviation, of the pairs' differences where paired.
        values: the pairs' differences; empty where there are no pairs.
        lower: whether a smaller value is the better one.
        whole: whether it is the difference of the two means; else a pair leaves figures out that
            one of the means rests on.
    """

    spread: Spread
    values: tuple[float, ...]
    lower: bool
    whole: bool = True

    @property
    def ties(self) -> int:
        """Pairs in which both are equal, but for what is left of a difference of equals."""
        return sum(abs(value) < TIE for value in self.values)

    @property
    def wins(self) -> int:
        """Pairs in which the arm is better than the first."""
        return sum(value <= -TIE if self.lower else value >= TIE for value in self.values)

    @property
    def verdict(self) -> str:
        """``"up"`` or ``"down"`` where every one of at least three pairs says so, else empty."""
        n = len(self.values)
        if n < 3:
            return ""
        return "up" if self.wins == n else "down" if self.wins + self.ties == 0 else ""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One figure of all arms.

    Attributes:
        protocol: protocol id.
        metric: metric id.
        variant: settings in which it differs from its like.
        trained: spread of each arm; None where it was not measured.
        untrained: spread of each arm's untrained encoder.
        gaps: each arm minus the first; None for the first, and where one was not measured.
        chance: value of a guess.
    """

    protocol: str
    metric: str
    variant: str
    trained: tuple[Spread | None, ...]
    untrained: tuple[Spread | None, ...]
    gaps: tuple[Gap | None, ...]
    chance: float | None

    @property
    def title(self) -> str:
        """Protocol and metric for readers."""
        title = f"{protocol_name(self.protocol)}, {metric_name(self.metric)}"
        return f"{title}, {self.variant}" if self.variant else title


def beside(arms: Sequence[Arm]) -> list[Beside]:
    """Every figure that was measured of any arm, in the order in which they first appear.

    Rows are of one figure when protocol, metric, data and all settings agree. Of a run, a later row
    replaces an equal earlier one; runs of one arm and seed count each. What an encoder has on one
    split by several seeds of the evaluation counts once, as a mean. Differences are taken over the
    pairs of :func:`rhyme.evaluation.pairing.pair_up`, else between the means.

    Args:
        arms: what is compared; the first is what the others are held against.
    """
    tables = [_table(arm) for arm in arms]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    chances = set(chance_keys(dict.fromkeys(keys)))
    names = data_names(row for arm in arms for run in arm.runs for row in run.results)
    found: list[Beside] = []
    for key in keys:
        if key in chances:
            continue
        protocol, metric, settings = key
        rows = [table.get(key, []) for table in tables]
        trained = [figures(r, TRAINED, runs=True) for r in rows]
        lower = lower_is_better(metric)
        others = [k for k in keys if k[:2] == key[:2]]
        guess = [table.get((protocol, f"{metric}_chance", settings), []) for table in tables]
        found.append(
            Beside(
                protocol=protocol,
                metric=metric,
                variant=variant_of(settings, others, names),
                trained=tuple(_spread(arm) for arm in trained),
                untrained=tuple(_spread(figures(r, UNTRAINED, runs=True)) for r in rows),
                gaps=(None, *(gap(v, trained[0], lower) for v in trained[1:])),
                chance=_chance(rows, guess),
            )
        )
    return found


def gap(own: Sequence[Measured], first: Sequence[Measured], lower: bool = False) -> Gap | None:
    """An arm minus the first; None where either has no value.

    Args:
        own: finite figures of the arm.
        first: those of the first.
        lower: whether a smaller value is the better one.
    """
    one, other = _spread(own), _spread(first)
    if one is None or other is None:
        return None
    pairs = pair_up(own, first)
    if pairs is not None and (spread := Spread.of(pairs.gains)) is not None:
        return Gap(spread=spread, values=pairs.gains, lower=lower, whole=pairs.whole)
    sds = [s.sd for s in (one, other) if s.sd is not None]
    spread = Spread(
        mean=one.mean - other.mean,
        sd=math.hypot(*sds) if len(sds) == 2 else None,
        n=min(one.n, other.n),
    )
    return Gap(spread=spread, values=(), lower=lower)


def first_of(lines: Sequence[Beside]) -> Beside | None:
    """The figure to put on top: the first usual protocol's that all arms have."""
    whole = [line for line in lines if all(s is not None for s in line.trained)]
    for protocol in HEADLINES:
        for line in whole:
            if line.protocol == protocol:
                return line
    return whole[0] if whole else None


def _table(arm: Arm) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for run in arm.runs:
        for key, rows in by_line(run.results).items():
            found.setdefault(key, []).extend(latest(rows))
    return found


def of_one_seed(arm: Arm) -> bool:
    """Whether runs of an arm have figures of equal data, split and seed."""
    for rows in _table(arm).values():
        own = figures(rows, TRAINED, runs=True)
        if len({(figure.split, figure.seed) for figure in own}) < len(own):
            return True
    return False


def _spread(arm: Sequence[Measured]) -> Spread | None:
    return Spread.of([figure.value for figure in arm])


def _chance(rows: Sequence[Sequence[Row]], guess: Sequence[Sequence[Row]]) -> float | None:
    stated = [number(row.get("chance")) for group in rows for row in group]
    stated += [number(row.get("value")) for group in guess for row in group]
    finite = [value for value in stated if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if finite else None
