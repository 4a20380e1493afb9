"""Named parts of a feature side by side: what each knows, as the template wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rhyme.report.summary import Comparison, Spread
from rhyme.report.table import spread_text
from rhyme.report.text import DASH, PARTS, clean, figure, metric_name, protocol_name

WHOLE = "both together"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a part scores.

    Attributes:
        trained: value and spread.
        untrained: value and spread of the same part with fresh weights.
        higher: whether it is the highest of the parts, alone.
    """

    trained: str
    untrained: str
    higher: bool


@dataclass(frozen=True, kw_only=True)
class PartLine:
    """A figure of all parts.

    Attributes:
        protocol: name of the protocol.
        metric: name of the metric, and what is asked for.
        cells: one a part, then the whole feature.
        chance: value of a guess.
    """

    protocol: str
    metric: str
    cells: tuple[Cell, ...]
    chance: str


@dataclass(frozen=True, kw_only=True)
class PartTable:
    """The whole table; without lines where no part was measured.

    Attributes:
        names: the parts' names, and the whole feature's.
        lines: a line a figure.
    """

    names: tuple[str, ...] = ()
    lines: tuple[PartLine, ...] = ()


def part_table(comparisons: Sequence[Comparison]) -> PartTable:
    """Figures that were measured of at least two parts of the feature.

    Args:
        comparisons: as :func:`rhyme.report.summary.compare` gives them; ``top1@stationary`` is the
            figure ``top1`` of a part.
    """
    groups: dict[tuple[str, str, str], dict[str, Comparison]] = {}
    for line in comparisons:
        metric, _, part = line.metric.partition("@")
        if part in ("", *PARTS):
            # The settings tell measurements apart that differ in more than the part.
            key = (line.protocol, metric, repr(sorted(line.settings.items(), key=str)))
            groups.setdefault(key, {})[part] = line
    shown = [g for g in groups.values() if sum(part in g for part in PARTS) > 1]
    if not shown:
        return PartTable()
    present = [part for part in PARTS if any(part in g for g in shown)]
    return PartTable(
        names=(*(PARTS[part] for part in present), WHOLE),
        lines=tuple(_line(group, present) for group in shown),
    )


def _line(group: dict[str, Comparison], parts: Sequence[str]) -> PartLine:
    first = next(group[part] for part in parts if part in group)
    means = {p: s.mean for p in parts if p in group and (s := group[p].trained) is not None}
    sign = -1 if first.lower_is_better else 1
    top = max((sign * mean for mean in means.values()), default=None)
    leaders = [part for part, mean in means.items() if sign * mean == top]
    asked = first.settings.get("label_column") if first.protocol != "segmentation" else None
    metric = metric_name(first.metric.partition("@")[0])
    return PartLine(
        protocol=protocol_name(first.protocol),
        metric=f"{metric} of {clean(asked, 40)}" if asked else metric,
        cells=tuple(
            _cell(group.get(part), leaders == [part] and len(means) > 1) for part in (*parts, "")
        ),
        chance=figure(first.chance),
    )


def _cell(line: Comparison | None, higher: bool) -> Cell:
    trained: Spread | None = line.trained if line is not None else None
    untrained: Spread | None = line.untrained if line is not None else None
    return Cell(
        trained=spread_text(trained),
        untrained=spread_text(untrained) if untrained is not None else DASH,
        higher=higher,
    )
