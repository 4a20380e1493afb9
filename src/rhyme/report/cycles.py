"""A rhyme as a cycle over the time lines of its videos, as inline SVG.

One line a video: that of the query on top, those of its neighbours below, and last the one that the
way ends in where it does not come home. What is written stands in a margin on the left, which no
arrow enters. The picture is 340 units wide, so that its text can be read on a phone; arrows are
drawn as plain paths, since a page may not refer to markers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from rhyme.report.data import Frame, Rhyme
from rhyme.report.text import clean, short_path

WIDTH, MARGIN, LEFT, RIGHT = 340, 104, 131, 313
TOP, ROW, GAP = 22, 44, 24
LEADING, NAME = 12, 15  # from one line of text to the next; characters of a file's name
RADIUS, BOW = 8.5, 26.0
THIN, THICK, GROWTH = 1.5, 5.5, 9.0  # of an arrow: least and most, and what a weight of 1 adds


@dataclass
class _Stop:
    """A frame on a line: ``x`` where its mark stands, ``true_x`` where its time is."""

    kind: str
    text: str
    true_x: float
    x: float = 0.0


@dataclass
class _Line:
    """The time line of a file."""

    name: str
    start: float
    stop: float
    stops: list[_Stop] = field(default_factory=list[_Stop])
    weights: list[str] = field(default_factory=list[str])

    def place(self, time: float) -> float:
        share = (time - self.start) / max(self.stop - self.start, 1e-9)
        return LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT)

    @property
    def told(self) -> list[str]:
        """What is written below the name: its length, and the weights of its neighbours."""
        pairs = [", ".join(self.weights[k : k + 2]) for k in range(0, len(self.weights), 2)]
        return [f"{self.stop - self.start:.1f} s", *pairs]


def percent(weight: float) -> str:
    """A weight in [0, 1] as a short percentage."""
    if not math.isfinite(weight):
        return "?"
    return "<1%" if 0 < weight < 0.005 else f"{100 * weight:.0f}%"


def cycle(rhyme: Rhyme, neighbours: Sequence[tuple[Frame, float]]) -> str:
    """The way out and back as one ``<svg>`` element; empty where frames have no time.

    Args:
        rhyme: the way.
        neighbours: its neighbours as the page numbers them, from 1.
    """
    ends = [frame for frame, _ in rhyme.returns][:1]
    frames = [rhyme.query, *(frame for frame, _ in neighbours), *ends]
    if not ends or not neighbours or any(f.time is None or not f.file for f in frames):
        return ""
    lines = _lines(frames)
    start = _add(lines, rhyme.query, "query", "Q")
    out: list[_Stop] = []
    for number, (frame, weight) in enumerate(neighbours, 1):
        out.append(_add(lines, frame, "near", str(number)))
        lines[frame.file].weights.append(f"{number}: {percent(weight)}")
    home = rhyme.returned
    end = _add(lines, ends[0], "right" if home else "wrong", "✓" if home else "✗")
    order = [*lines]
    for line in lines.values():
        _spread(line.stops)
    height, bottom = _heights(lines)
    at = {id(stop): height[name] for name in order for stop in lines[name].stops}
    parts = [_rail(lines[name], height[name], own=name == order[0]) for name in order]
    for stop, (_, weight) in zip(out, neighbours, strict=True):
        width = min(THIN + GROWTH * max(weight, 0.0), THICK) if math.isfinite(weight) else THIN
        a, b, c = ((s.x, at[id(s)]) for s in (start, stop, end))
        parts.append(_way(a, b, width, "out", bow=-1))
        parts.append(_way(b, c, width, "to right" if home else "to wrong", bow=1))
    parts += [_title(lines[name], height[name]) for name in order]
    parts += [_mark(stop, height[name]) for name in order for stop in lines[name].stops]
    said = escape(_said(rhyme, neighbours, ends[0]), quote=True)
    return (
        f'<svg class="cycle" viewBox="0 0 {WIDTH} {bottom}" role="img" aria-label="{said}">'
        f"{''.join(parts)}</svg>"
    )


def _lines(frames: Sequence[Frame]) -> dict[str, _Line]:
    """A line a file in the order in which they are met, long enough for all its frames."""
    lines: dict[str, _Line] = {}
    for frame in frames:
        time = frame.time or 0.0
        low, high = frame.span or (min(time, 0.0), time)
        line = lines.setdefault(frame.file, _Line(short_path(frame.file, NAME), low, high))
        line.start, line.stop = min(line.start, low, time), max(line.stop, high, time)
    return lines


def _heights(lines: dict[str, _Line]) -> tuple[dict[str, int], int]:
    """Where each line lies, with room for what is written beside it, and where the picture ends."""
    heights: dict[str, int] = {}
    y = TOP
    for name, line in lines.items():
        heights[name] = y
        y += max(ROW, LEADING * (len(line.told) + 1) + 8)
    return heights, y - 8


def _add(lines: dict[str, _Line], frame: Frame, kind: str, text: str) -> _Stop:
    line = lines[frame.file]
    stop = _Stop(kind, text, line.place(frame.time or 0.0))
    line.stops.append(stop)
    return stop


def _spread(stops: Sequence[_Stop]) -> None:
    """Marks of one line side by side, as near to their times as their size allows."""
    ordered = sorted(stops, key=lambda stop: stop.true_x)
    low = float(LEFT)
    for stop in ordered:
        stop.x = max(stop.true_x, low)
        low = stop.x + GAP
    high = float(RIGHT)
    for stop in reversed(ordered):
        stop.x = min(stop.x, high)
        high = stop.x - GAP


def _rail(line: _Line, y: float, *, own: bool) -> str:
    ticks = "".join(f"M{stop.true_x:.1f} {y - 6:.1f}v12" for stop in line.stops)
    kind = " own" if own else ""
    return f'<path class="rail{kind}" d="M{LEFT} {y}H{RIGHT}"/><path class="tick" d="{ticks}"/>'


def _title(line: _Line, y: float) -> str:
    y += 4  # the name stands level with its line
    rows = [f'<text class="strong" x="4" y="{y}">{escape(line.name)}</text>']
    for text in line.told:
        y += LEADING
        rows.append(f'<text x="4" y="{y}">{text}</text>')
    return "".join(rows)


def _way(
    one: tuple[float, float], other: tuple[float, float], width: float, kind: str, bow: int
) -> str:
    """A bent arrow from mark to mark; ``bow`` is the side that it bends to."""
    (x0, y0), (x1, y1) = one, other
    rise = y1 - y0
    # Within one line the arrow runs below it; between lines it leaves and arrives upright.
    bend = 0.45 * rise if rise else 0.0
    side = bow * min(BOW, 8 + 0.12 * abs(rise))
    below = 0.0 if rise else 30.0
    cx0, cy0 = x0 + side, y0 + bend + below
    cx1, cy1 = x1 + side, y1 - bend + below
    length = math.hypot(x1 - cx1, y1 - cy1) or 1.0
    ux, uy = (x1 - cx1) / length, (y1 - cy1) / length
    tip_x, tip_y = x1 - ux * (RADIUS + 1.5), y1 - uy * (RADIUS + 1.5)
    head = 4.0 + 0.8 * width
    base_x, base_y = tip_x - ux * head, tip_y - uy * head
    wing = head * 0.55
    return (
        f'<path class="{kind}" stroke-width="{width:.1f}" d="M{x0:.1f} {y0:.1f}'
        f'C{cx0:.1f} {cy0:.1f} {cx1:.1f} {cy1:.1f} {base_x:.1f} {base_y:.1f}"/>'
        f'<path class="tip {kind}" d="M{tip_x:.1f} {tip_y:.1f}'
        f"L{base_x - uy * wing:.1f} {base_y + ux * wing:.1f}"
        f'L{base_x + uy * wing:.1f} {base_y - ux * wing:.1f}Z"/>'
    )


def _mark(stop: _Stop, y: float) -> str:
    if stop.kind in ("query", "near"):
        shape = f'<circle class="stop {stop.kind}" cx="{stop.x:.1f}" cy="{y}" r="{RADIUS}"/>'
    else:
        # A diamond: where the way ends is told by form, sign and colour.
        r = RADIUS + 2.5
        shape = (
            f'<path class="stop {stop.kind}" d="M{stop.x:.1f} {y - r}'
            f'l{r} {r}l{-r} {r}l{-r} {-r}Z"/>'
        )
    return f'{shape}<text class="mid in" x="{stop.x:.1f}" y="{y + 3.8:.1f}">{stop.text}</text>'


def _said(rhyme: Rhyme, neighbours: Sequence[tuple[Frame, float]], end: Frame) -> str:
    """The picture in one sentence, for those who do not see it."""
    out = "; ".join(
        f"{number}, {_where(frame)}, weight {percent(weight)}"
        for number, (frame, weight) in enumerate(neighbours, 1)
    )
    verdict = "came home" if rhyme.returned else "went astray"
    return f"From {_where(rhyme.query)} out to {out}; back to {_where(end)}: {verdict}."


def _where(frame: Frame) -> str:
    return f"{clean(frame.file, 120)} at {frame.time or 0.0:.1f} s"
