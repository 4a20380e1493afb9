"""Curves of several runs on common axes, and dots of paired differences, for the page of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from rhyme.report.arms import Arm
from rhyme.report.beside import Beside, Gap
from rhyme.report.charts import tick_text, ticks
from rhyme.report.data import ReportData
from rhyme.report.series import Chart, Curve, charts
from rhyme.report.text import clean, figure

STYLES = 5
_NICE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A chart of all runs.

    Attributes:
        chart: its curves carry the style of their arm.
        last: mean last value of each arm, None where it has no such curve.
    """

    chart: Chart
    last: tuple[float | None, ...]


def overlays(arms: Sequence[Arm], most: int = 20) -> list[Overlay]:
    """A chart for every quantity that runs of two arms logged (of one where one alone logged any).

    Args:
        arms: what is compared; curves of one arm share colour and dashes, which come again after
            five arms.
        most: runs of an arm that are drawn, and counted in its mean; 0 for no charts.
    """
    drawn: dict[tuple[str, str], Chart] = {}
    last: dict[tuple[str, str], list[list[float]]] = {}
    met: dict[tuple[str, str], set[int]] = {}
    for place, arm in enumerate(arms):
        for run in arm.runs[:most]:
            seed = run.facts.seed
            name = arm.name if seed is None else f"{arm.name}, seed {seed}"
            for key, chart, curve in _curves(run):
                before = drawn.get(key, replace(chart, curves=()))
                own = replace(curve, name=name, style=place % STYLES + 1)
                drawn[key] = replace(before, curves=(*before.curves, own))
                met.setdefault(key, set()).add(place)
                values = last.setdefault(key, [[] for _ in arms])[place]
                values += [] if curve.last is None else [curve.last]
    trained = sum(any(run.metrics for run in arm.runs) for arm in arms)
    return [
        Overlay(
            chart=chart,
            last=tuple(sum(values) / len(values) if values else None for values in last[key]),
        )
        for key, chart in drawn.items()
        if len(chart.curves) > 1 and len(met[key]) >= min(2, trained)
    ]


def _curves(run: ReportData) -> list[tuple[tuple[str, str], Chart, Curve]]:
    found: list[tuple[tuple[str, str], Chart, Curve]] = []
    for chart in charts(run.metrics):
        for curve in chart.curves:
            alone = len(chart.curves) == 1
            title = chart.title if alone else f"{chart.title}: {curve.name}"
            key = (chart.title.partition(" (")[0], "" if alone else curve.name)
            found.append((key, replace(chart, title=title), curve))
    return found


def difference_plot(lines: Sequence[Beside], arms: Sequence[Arm]) -> str:
    """Every pair's difference as a dot, their mean as a bar; empty where nothing is paired."""
    rows = [
        (line, place, gap)
        for line in lines
        for place, gap in enumerate(line.gaps)
        if gap is not None and gap.values
    ]
    if not rows:
        return ""
    reach = max(abs(v) for _, _, gap in rows for v in gap.values)
    high = next((limit for limit in _NICE if reach <= limit), None)
    if high is None:  # a metric beyond 1, such as a rank: axes differ, so none is drawn
        rows = [row for row in rows if max(abs(v) for v in row[2].values) <= 1]
        high = 1.0
    at = ticks(-high, high, 4)
    parts: list[str] = []
    shown: Beside | None = None
    for line, place, gap in rows:
        if line is not shown:
            parts.append(f'<span class="dots-head">{escape(clean(line.title, 200))}</span>')
            shown = line
        parts.append(_gap_row(line, clean(arms[place].name, 80), place, gap, high, at))
    axis = "".join(
        f'<text x="{_x(t, high)}" y="13" class="mid">{"+" if t > 0 else ""}{tick_text(t)}</text>'
        for t in at
    )
    parts.append(f'<span></span><svg class="dots-axis" height="18" aria-hidden="true">{axis}</svg>')
    return f'<div class="dots">{"".join(parts)}</div>' if rows else ""


def _x(value: float, high: float) -> str:
    return f"{50 + 50 * min(max(value / high, -1.0), 1.0):.2f}%"


def _gap_row(
    line: Beside, name: str, place: int, gap: Gap, high: float, at: Sequence[float]
) -> str:
    style = place % STYLES + 1
    parts = [
        f'<line class="grid" x1="{_x(t, high)}" x2="{_x(t, high)}" y1="0" y2="100%"/>' for t in at
    ]
    parts.append('<line class="zero" x1="50%" x2="50%" y1="0" y2="100%"/>')
    for value in gap.values:
        parts.append(f'<circle class="pair p{style}" cx="{_x(value, high)}" cy="12" r="4"/>')
    mean = _x(gap.spread.mean, high)
    parts.append(f'<line class="mean" x1="{mean}" x2="{mean}" y1="3" y2="21"/>')
    told = ", ".join(figure(v, sign=True) for v in gap.values)
    label = escape(
        f"{clean(line.title, 200)}, {name} minus the first: {told}; mean "
        f"{figure(gap.spread.mean, sign=True)}",
        quote=True,
    )
    return (
        f'<span class="dots-name">{escape(name)}</span>'
        f'<svg height="24" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )
