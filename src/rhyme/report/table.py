"""The evaluation table and its dot plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rhyme.report.charts import tick_text, ticks
from rhyme.report.summary import Comparison, Spread, leading
from rhyme.report.text import DASH, clean, count, figure, metric_name, protocol_name


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table, as printed.

    Attributes:
        protocol: name of the protocol.
        metric: name of the metric, with what sets it apart from its like.
        trained: value and spread.
        untrained: value and spread.
        others: values of further encoders, in the order of ``Table.others``.
        chance: value of a guess.
        gain: trained minus untrained, with its spread.
        seeds: number of values of the trained and of the untrained encoder, where above one.
        encoder: the encoders of the run that the trained value is of, where lines differ in them.
        how: ``"paired"`` where that spread is of paired differences.
        better: ``"up"`` or ``"down"`` where training helped or harmed by more than the spread of
            the difference and twice its error from the test items, else empty.
        items: number of items.
        lead: whether it is shown at once where there is little room.
    """

    protocol: str
    metric: str
    trained: str
    untrained: str
    others: tuple[str, ...]
    chance: str
    gain: str
    seeds: tuple[str, str]
    encoder: str
    how: str
    better: str
    items: str
    lead: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """The whole table; a column without any value is left out."""

    lines: tuple[Line, ...]
    others: tuple[str, ...]
    chance: bool
    items: bool


def table(comparisons: Sequence[Comparison], top: Comparison | None = None) -> Table:
    """The evaluation table.

    Args:
        comparisons: as :func:`rhyme.report.summary.compare` gives them.
        top: the one among them that the page has on top.
    """
    lead = _leading(comparisons, top)
    others = tuple(dict.fromkeys(name for c in comparisons for name in c.others))
    told = len({name for c in comparisons for name in c.encoders}) > 1
    return Table(
        lines=tuple(
            _line(c, others, told, first) for c, first in zip(comparisons, lead, strict=True)
        ),
        others=tuple(clean(name, 40) for name in others),
        chance=any(c.chance is not None for c in comparisons),
        items=any(c.items is not None for c in comparisons),
    )


def spread_text(spread: Spread | None, *, sign: bool = False) -> str:
    """Mean and standard deviation, e.g. ``0.412 ± 0.011``."""
    if spread is None:
        return DASH
    text = figure(spread.mean, sign=sign)
    return text if spread.sd is None else f"{text} ± {figure(spread.sd)}"


def _leading(comparisons: Sequence[Comparison], top: Comparison | None) -> list[bool]:
    place = next((k for k, line in enumerate(comparisons) if line is top), None)
    return leading([line.protocol for line in comparisons], place)


def dot_plot(comparisons: Sequence[Comparison], top: Comparison | None = None) -> str:
    """Trained and untrained values as dots on one axis; empty without a line that fits on it.

    Lines stand on a common axis from 0, so only those within [0, 1] take part. Positions are
    percentages of the row: dots and text keep their size at every width.

    Args:
        comparisons: lines of the table.
        top: the one among them that the page has on top.
    """
    lead = _leading(comparisons, top)
    fitting = [(c, first) for c, first in zip(comparisons, lead, strict=True) if _fits(c)]
    if not fitting:
        return ""
    most = max(v for c, _ in fitting for v in _values(c))
    high = next(limit for limit in (0.1, 0.2, 0.25, 0.5, 0.75, 1.0) if most <= limit)
    at = ticks(0.0, high, 5)
    rows = [_dots(c, high, at, first) for c, first in fitting]
    axis = "".join(
        f'<text x="{100 * t / high:.2f}%" y="13" class="mid">{tick_text(t)}</text>' for t in at
    )
    rows.append(f'<span></span><svg class="dots-axis" height="18" aria-hidden="true">{axis}</svg>')
    return f'<div class="dots">{"".join(rows)}</div>'


def _line(c: Comparison, others: Sequence[str], told: bool, lead: bool) -> Line:
    how = "paired" if c.paired else ""
    metric = metric_name(c.metric) + (" (lower is better)" if c.lower_is_better else "")
    return Line(
        protocol=protocol_name(c.protocol),
        metric=f"{metric}, {c.variant}" if c.variant else metric,
        trained=spread_text(c.trained),
        untrained=spread_text(c.untrained),
        seeds=(_count(c.trained), _count(c.untrained)),
        encoder=", ".join(c.encoders) if told else "",
        others=tuple(spread_text(c.others.get(name)) for name in others),
        chance=figure(c.chance),
        gain=spread_text(c.gain, sign=True),
        how=how,
        better=("up" if c.better else "down") if c.clear else "",
        items=count(c.items),
        lead=lead,
    )


def _count(spread: Spread | None) -> str:
    return f"n = {spread.n}" if spread is not None and spread.n > 1 else ""


def _values(c: Comparison) -> list[float]:
    means = [s.mean for s in (c.trained, c.untrained, *c.others.values()) if s is not None]
    return means if c.chance is None else [*means, c.chance]


def _fits(c: Comparison) -> bool:
    values = _values(c)
    return bool(values) and all(0.0 <= v <= 1.0 for v in values)


def _dots(c: Comparison, high: float, at: Sequence[float], lead: bool) -> str:
    def x(value: float) -> str:
        return f"{100 * min(max(value, 0.0), high) / high:.2f}%"

    parts = [f'<line class="grid" x1="{x(t)}" x2="{x(t)}" y1="-20%" y2="120%"/>' for t in at]
    said: list[str] = []
    if c.chance is not None:
        parts.append(f'<line class="chance" x1="{x(c.chance)}" x2="{x(c.chance)}" y1="4" y2="24"/>')
        said.append(f"chance {figure(c.chance)}")
    if c.trained is not None and c.untrained is not None:
        one, other = x(c.untrained.mean), x(c.trained.mean)
        parts.append(f'<line class="gain" x1="{one}" x2="{other}" y1="14" y2="14"/>')
    for spread, kind in ((c.untrained, "untrained"), (c.trained, "trained")):
        if spread is None:
            continue
        if spread.sd:
            low, up = x(spread.mean - spread.sd), x(spread.mean + spread.sd)
            parts.append(f'<line class="bar {kind}" x1="{low}" x2="{up}" y1="14" y2="14"/>')
        parts.append(f'<circle class="{kind}" cx="{x(spread.mean)}" cy="14" r="5"/>')
        said.append(f"{kind} {spread_text(spread)}")
    for name, spread in c.others.items():
        parts.append(f'<circle class="other" cx="{x(spread.mean)}" cy="14" r="3.5"/>')
        said.append(f"{clean(name, 40)} {figure(spread.mean)}")
    title = f"{c.title}, {c.variant}" if c.variant else c.title
    label = escape(f"{title}: {', '.join(said)}", quote=True)
    rest = ("", "") if lead else (" rest", ' class="rest"')
    return (
        f'<span class="dots-name{rest[0]}">{escape(title)}</span>'
        f'<svg{rest[1]} height="28" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )
