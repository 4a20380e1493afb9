"""A picture of paired differences: a line a claim, a dot a repetition, a bar at their mean.

What a page says between ``<!-- gains NAME within LIMIT`` and ``-->`` is drawn, a line each:

    ## a heading
    STUDY PROTOCOL/METRIC | arm − other arm | what the line is called

Differences are those of :mod:`benchmarks.tables`. A dot beyond the limit is an arrow at the edge,
with its figure. The picture is an SVG with two sets of colours, for light and for dark.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from rhyme.report.charts import tick_text, ticks

CAPTION = (
    "A dot is the difference in one repetition, the bar their mean; at the right the mean, and in "
    "how many it is above 0. Drawn from the rows of the tables."
)
MINUS = "\N{MINUS SIGN}"
LEFT, PLOT, RIGHT, LINE, TOP, BOTTOM = 300, 330, 130, 24, 10, 34
WIDTH = LEFT + PLOT + RIGHT
STYLE = """
.page{fill:#fff}.axis{stroke:#999}.grid{stroke:#e4e4e4}.zero{stroke:#555}.mean{stroke:#111;stroke-width:3}
text{font:13px system-ui,sans-serif;fill:#222}.head{font-weight:600}.end{text-anchor:end}
.mid{text-anchor:middle}.small{font-size:11px;fill:#666}.dot{fill:#2b6cb0;fill-opacity:.45}
@media(prefers-color-scheme:dark){.page{fill:#16181c}.axis{stroke:#777}.grid{stroke:#2c2f36}
.zero{stroke:#aaa}.mean{stroke:#fff}text{fill:#ddd}.small{fill:#999}.dot{fill:#7db4f0;fill-opacity:.55}}
"""
ASKED = re.compile(
    r"(?P<study>\S+) (?P<metric>\S+/\S+) \| (?P<arm>.+) − (?P<other>.+) \| (?P<label>.+)"
)


@dataclass(frozen=True)
class Line:
    """One line of the picture.

    Attributes:
        label: what stands at the left.
        gains: a difference a repetition; None makes the line a heading.
    """

    label: str
    gains: Sequence[float] | None = None

    def told(self) -> str:
        """Mean and how many are above 0, as the tables say it."""
        if not self.gains:
            return "not measured yet"
        above = sum(g > 0 for g in self.gains)
        return f"{signed(fmean(self.gains))}, {above} of {len(self.gains)}"


def signed(value: float) -> str:
    """Three digits behind the point, and the sign that print has for it."""
    return f"{value:+.3f}".replace("-", MINUS)


def lines_of(asked: str, gains: Callable[[str, str, str, str], Sequence[float]]) -> list[Line]:
    """The lines that a page asks for.

    Args:
        asked: what stands in the comment, see the module.
        gains: differences of a study, a metric, an arm and another arm.

    Raises:
        ValueError: a line that says neither.
    """
    found: list[Line] = []
    for text in filter(None, map(str.strip, asked.splitlines())):
        if text.startswith("## "):
            found.append(Line(text[3:]))
        elif match := ASKED.fullmatch(text):
            study, metric, arm, other, label = match.groups()
            found.append(Line(label, gains(study, metric, arm, other)))
        else:
            raise ValueError(f"not 'STUDY PROTOCOL/METRIC | arm − other | label': {text!r}")
    return found


def words(lines: Sequence[Line]) -> str:
    """The picture for those who do not see it."""
    said = [f"{line.label}: {line.told()}" for line in lines if line.gains is not None]
    return "; ".join(said) + " higher"


def svg(lines: Sequence[Line], limit: float) -> str:
    """The picture; its horizontal axis goes from −limit to limit."""
    height = TOP + LINE * len(lines) + BOTTOM
    base = height - BOTTOM

    def at(value: float) -> float:
        inside = min(max(value, -limit), limit)
        return round(LEFT + PLOT * (inside + limit) / (2 * limit), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(words(lines), quote=True)}">',
        f'<style>{STYLE}</style><rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
    ]
    for tick in ticks(-limit, limit, 6):
        x = at(tick)
        parts.append(f'<path class="{"grid" if tick else "zero"}" d="M{x} {TOP}V{base}"/>')
        parts.append(f'<text class="mid small" x="{x}" y="{base + 16}">{tick_text(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {base}h{PLOT}"/>')
    for number, line in enumerate(lines):
        y = TOP + LINE * number + LINE // 2
        parts += _drawn(line, y, at, limit)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, y: int, at: Callable[[float], float], limit: float) -> list[str]:
    label = escape(line.label)
    if line.gains is None:
        return [f'<text class="head" x="10" y="{y + 5}">{label}</text>']
    parts = [
        f'<text class="end" x="{LEFT - 12}" y="{y + 4}">{label}</text>',
        f'<text x="{LEFT + PLOT + 12}" y="{y + 4}">{line.told()}</text>',
    ]
    for gain in line.gains:
        x = at(gain)
        if abs(gain) <= limit:
            parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="4.5"/>')
            continue
        side = 1 if gain > 0 else -1
        parts.append(f'<path class="dot" d="M{x} {y}l{-9 * side} -5v10z"/>')
        place = "end " if side > 0 else ""
        parts.append(
            f'<text class="{place}small" x="{x - 12 * side}" y="{y + 4}">{signed(gain)}</text>'
        )
    if line.gains:
        parts.append(f'<path class="mean" d="M{at(fmean(line.gains))} {y - 8}v16"/>')
    return parts
