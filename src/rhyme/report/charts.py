"""Small line charts as inline SVG.

They are written by hand instead of by a plotting library because the page follows the reader's
light or dark scheme: every colour is a CSS class here, no font is embedded, and a chart of 240
points takes a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from rhyme.report.series import Chart, Curve, drawable, smooth, thin
from rhyme.report.text import figure

WIDTH, HEIGHT = 340, 208
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 24, 38


def ticks(low: float, high: float, aim: int = 4) -> list[float]:
    """Round values within [low, high], about ``aim`` of them.

    Args:
        low: smallest value.
        high: largest value, above ``low``.
        aim: number of intervals aimed at.
    """
    raw = (high - low) / aim
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's label: short, thousands as k and millions as M."""
    size = abs(value)
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    if size >= 1e6:
        return f"{sign}{size / 1e6:.3g}M"
    if size >= 1e4:
        return f"{sign}{size / 1e3:.3g}k"
    if size and size < 1e-3:
        mantissa, exponent = f"{size:.1e}".split("e")
        return f"{sign}{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{sign}{size:.4g}"


def line_chart(chart: Chart) -> str:
    """A chart as one ``<svg>`` element with axes, labels and a description.

    A curve of many points is drawn twice: its thinned values faintly and their running mean.

    Args:
        chart: curves on common axes; values that are not finite leave gaps.
    """
    x_low, x_high = _range([s for c in chart.curves for s in c.steps], pad=0.0)
    if 0 < x_low < 0.2 * x_high:
        x_low = 0.0  # a run that logs from its 10th step on still began at 0
    values = [v for c in chart.curves for v in c.values if drawable(v)]
    y_low, y_high = _range(values, pad=0.06)
    if values and min(values) >= 0:
        y_low = max(y_low, 0.0)

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(describe(chart), quote=True)}">'
    ]
    for tick in ticks(y_low, y_high):
        y = place(x_low, tick)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="end">{tick_text(tick)}</text>')
    base = HEIGHT - BOTTOM
    for tick in ticks(x_low, x_high):
        x = place(tick, y_low)[0]
        parts.append(f'<path class="axis" d="M{x} {base}v4"/>')
        parts.append(f'<text x="{x}" y="{base + 16}" class="mid">{tick_text(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" class="end name">step</text>')
    parts.append(f'<text x="2" y="12" class="name">{escape(chart.unit)}</text>')
    for number, curve in enumerate(chart.curves, 1):
        parts.append(_drawn(curve, curve.style or number, place, dots=chart.dots))
    parts.append("</svg>")
    return "".join(parts)


def describe(chart: Chart) -> str:
    """The chart in one sentence, for those who do not see it."""
    said: list[str] = []
    for curve in chart.curves:
        finite = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if drawable(v)]
        if not finite:
            said.append(f"{curve.name} has no finite value")
            continue
        (s0, v0), (s1, v1) = finite[0], finite[-1]
        said.append(f"{curve.name} from {figure(v0)} at step {s0:g} to {figure(v1)} at step {s1:g}")
    return f"{chart.title}, {chart.unit} over steps: {'; '.join(said)}."


def _range(values: Sequence[float], pad: float) -> tuple[float, float]:
    """Limits of an axis, never of zero width."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = (high - low) * pad
    return low - room, high + room


def _drawn(
    curve: Curve, number: int, place: Callable[[float, float], tuple[float, float]], *, dots: bool
) -> str:
    thinned = thin(curve)
    middle = None if dots else smooth(curve)
    runs: list[list[str]] = [[]]
    for step, value in zip(thinned.steps, thinned.values, strict=True):
        if drawable(value):
            x, y = place(step, value)
            runs[-1].append(f"{x:g} {y:g}")
        elif runs[-1]:
            runs.append([])
    runs = [run for run in runs if run]
    path = "".join("M" + "L".join(run) for run in runs if len(run) > 1)
    faint = " faint" if middle else ""
    drawn = f'<path class="line c{number}{faint}" d="{path}"/>' if path else ""
    # A value between two gaps has no line to stand on.
    lone = [point for run in runs if dots or len(run) == 1 for point in run]
    for point in lone:
        x, y = point.split()
        drawn += f'<circle class="dot c{number}" cx="{x}" cy="{y}" r="2.6"/>'
    if middle:
        points = [place(s, v) for s, v in zip(middle.steps, middle.values, strict=True)]
        text = "L".join(f"{x:g} {y:g}" for x, y in points)
        drawn += f'<path class="line c{number}" d="M{text}"/>'
    return drawn
