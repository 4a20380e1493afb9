"""Result rows -> one comparison a protocol and metric: trained against untrained, with spreads."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rhyme.evaluation.pairing import Measured, pair_up
from rhyme.report.data import Row
from rhyme.report.rows import (
    TRAINED,
    UNTRAINED,
    by_line,
    chance_keys,
    data_names,
    encoder_of,
    figures,
    finite,
    latest,
    mapping,
    mark_of,
    number,
    place_of,
    variant_of,
)
from rhyme.report.text import lower_is_better, metric_name, protocol_name

HEADLINES = ("knn", "linear", "retrieval", "cycle")
FEW = 3  # lines that are not worth folding away
# Numbers of rows and their details that a figure rests on, and what they count.
_RESTS_ON = {
    "items": "video",
    "test_items": "video",
    "test_videos": "video",
    "test_groups": "group",
    "query_groups": "group",
}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation over repetitions.

    Attributes:
        mean: mean of the values.
        sd: standard deviation with ``n - 1``; None for a single value.
        n: number of values.
    """

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of the values; None when there are none."""
        if not values:
            return None
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), sd=sd, n=len(values))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One line of the evaluation table.

    Attributes:
        protocol: protocol id.
        metric: metric id.
        variant: the settings in which it differs from other lines of this protocol and metric.
        settings: all settings.
        details: what the protocol found beside the trained encoder's figure (sizes, choices).
        trained: values of the trained encoder.
        untrained: values of the same architecture with fresh weights.
        others: values of further encoders by name.
        chance: value of a guess, where stated.
        gain: trained minus untrained; its sd is that of differences by split (of one collection,
            whose untrained draws are averaged first), or of two independent means'
            values added in squares. Where one side has a single value it is the spread of
            the other alone: of one training run, that of the draws of fresh weights.
        paired: whether ``gain`` comes from pairs.
        items: number of items measured.
        independent: items that do not come from one another's video or group, as far as the rows
            tell; what a figure's sampling error depends on.
        counted: what ``independent`` counts: ``"video"`` or ``"group"``.
        lost: values that were not finite and are left out.
        encoders: which encoders of the run the trained values are of, e.g. ``"step 400"``; its
            hash where the rows tell no step, empty where they tell neither.
        replaced: encoders whose values are left out: the same was measured of another one later.
    """

    protocol: str
    metric: str
    variant: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trained: Spread | None = None
    untrained: Spread | None = None
    others: Mapping[str, Spread] = field(default_factory=dict[str, Spread])
    chance: float | None = None
    gain: Spread | None = None
    paired: bool = False
    items: int | None = None
    independent: int | None = None
    counted: str = "video"
    lost: int = 0
    encoders: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Protocol and metric for readers."""
        return f"{protocol_name(self.protocol)}, {metric_name(self.metric)}"

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return lower_is_better(self.metric)

    @property
    def better(self) -> bool | None:
        """Which side is ahead; None when that cannot be told, or no digit shown says so."""
        if self.gain is None or round(self.gain.mean, 3) == 0:
            return None
        return (self.gain.mean < 0) if self.lower_is_better else (self.gain.mean > 0)

    @property
    def error(self) -> float | None:
        """Standard error of ``gain`` from the test items alone, at most; None where not known.

        Of figures in [0, 1] that are a mean over items: no item's variance exceeds m(1 - m) of its
        mean m, which a share of right answers has. The encoders are taken to err independently of
        each other, which overstates it where the same items are hard for both. Where both means are
        0 or 1 it would be 0, which few items do not warrant: not known.
        """
        if self.trained is None or self.untrained is None or not self.independent:
            return None
        means = (self.trained.mean, self.untrained.mean)
        if not all(0 <= mean <= 1 for mean in means):
            return None
        variance = sum(mean * (1 - mean) for mean in means)
        return math.sqrt(variance / self.independent) if variance > 0 else None

    @property
    def clear(self) -> bool | None:
        """Whether the difference exceeds its spread, and twice its error from the test items.

        None where there is no spread to exceed, unless the test items alone leave it open.
        """
        if self.gain is None:
            return None
        if self.gain.sd is None:
            small = self.error is not None and abs(self.gain.mean) <= 2 * self.error
            return False if small else None
        floor = max(self.gain.sd, 2 * (self.error or 0.0))
        return self.better is not None and abs(self.gain.mean) > floor


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Comparisons in the order in which their protocols first appear.

    A row measured twice with equal settings, encoder and seed counts once, the later value; what an
    encoder has on one split by several seeds of the evaluation counts once, as a mean.
    A metric named ``<metric>_chance`` is taken as the chance level of ``<metric>``.

    Args:
        rows: rows of ``results.jsonl``; rows without protocol, metric or value are passed over.
    """
    lines = by_line(rows)
    chances = {key: lines.pop(key) for key in chance_keys(lines)}
    names = data_names(rows)
    found: list[Comparison] = []
    for key, members in lines.items():
        protocol, metric, settings = key
        variants = [k for k in lines if k[:2] == key[:2]]
        chance = chances.get((protocol, f"{metric}_chance", settings), ())
        found.append(_comparison(members, [*chance], variant_of(settings, variants, names)))
    return found


def headline(
    comparisons: Sequence[Comparison], wanted: tuple[str, str] | None = None
) -> Comparison | None:
    """The comparison to put on top: the wanted one, else the first usual protocol's.

    Args:
        comparisons: lines of the table.
        wanted: (protocol, metric), or None.
    """
    usable = [c for c in comparisons if c.trained is not None]
    if wanted is not None:
        for line in usable:
            if (line.protocol, line.metric) == wanted:
                return line
    complete = [c for c in usable if c.untrained is not None] or usable
    for protocol in HEADLINES:
        for line in complete:
            if line.protocol == protocol:
                return line
    return complete[0] if complete else None


def leading(protocols: Sequence[str], top: int | None = None) -> list[bool]:
    """Which lines a phone shows at once: the first of each protocol, and the headline's.

    Args:
        protocols: that of each line.
        top: place of the headline's line.
    """
    lead = [protocol not in protocols[:k] or k == top for k, protocol in enumerate(protocols)]
    return lead if lead.count(False) >= FEW else [True] * len(lead)


def _comparison(rows: Sequence[Row], chance: Sequence[Row], variant: str) -> Comparison:
    first = rows[0]
    known = [row for row in rows if finite(row) is not None]
    kept = latest(known)
    names = dict.fromkeys(encoder_of(row) for row in kept)
    spreads = {name: _spread(figures(kept, name)) for name in names}
    gain, paired = _gain(kept)
    independent, counted = _independent(rows)
    told = {place_of(row): mark_of(row) for row in kept if encoder_of(row) == TRAINED}
    replaced = dict.fromkeys(
        mark_of(row) for row in known if told.get(place_of(row), mark_of(row)) != mark_of(row)
    )
    items = next((n for row in rows if (n := number(row.get("items"))) is not None), None)
    return Comparison(
        protocol=str(first["protocol"]),
        metric=str(first["metric"]),
        variant=variant,
        settings=mapping(first.get("settings")),
        details=mapping(_shown(rows).get("details")),
        trained=spreads.get(TRAINED),
        untrained=spreads.get(UNTRAINED),
        others={n: s for n, s in spreads.items() if s and n not in (TRAINED, UNTRAINED)},
        chance=_chance([*rows, *chance], len(rows)),
        gain=gain,
        paired=paired,
        items=int(items) if items is not None and math.isfinite(items) else None,
        independent=independent,
        counted=counted,
        lost=len(rows) - len(known),
        encoders=tuple(dict.fromkeys(name for name in told.values() if name)),
        replaced=tuple(name or "an encoder that is not named" for name in replaced),
    )


def _spread(arm: Sequence[Measured]) -> Spread | None:
    return Spread.of([figure.value for figure in arm])


def _chance(rows: Sequence[Row], own: int) -> float | None:
    stated = [
        number(row.get("chance", mapping(row.get("settings")).get("chance"))) for row in rows[:own]
    ]
    stated += [number(row.get("value")) for row in rows[own:]]
    finite = [value for value in stated if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def _shown(rows: Sequence[Row]) -> Row:
    """The trained row measured last; of an untrained encoder alone the last of its rows."""
    trained = [row for row in rows if row.get("encoder", TRAINED) == TRAINED]
    return (trained or rows)[-1]


def _independent(rows: Sequence[Row]) -> tuple[int | None, str]:
    """The fewest of items, videos and groups that a row tells, and which they are."""
    told = [
        (int(n), counted)
        for name, counted in _RESTS_ON.items()
        for row in rows
        for facts in (row, mapping(row.get("details")))
        if (n := number(facts.get(name))) is not None and math.isfinite(n) and n >= 1
    ]
    return min(told, key=lambda few: few[0], default=(None, "video"))


def _gain(rows: Sequence[Row]) -> tuple[Spread | None, bool]:
    """Trained minus untrained, by split where there are several, else between the means."""
    trained, untrained = (figures(rows, name) for name in (TRAINED, UNTRAINED))
    pairs = pair_up(trained, untrained)
    if pairs is not None and pairs.whole and len(pairs.values) > 1:
        return Spread.of(pairs.gains), True
    one, other = _spread(trained), _spread(untrained)
    if one is None or other is None:
        return None, False
    known = [s.sd for s in (one, other) if s.sd is not None]
    sd = math.sqrt(sum(value**2 for value in known)) if known else None
    return Spread(mean=one.mean - other.mean, sd=sd, n=max(one.n, other.n)), False
