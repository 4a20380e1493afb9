"""Clips in segments as the template wants them: reels of pictures, matrices as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhyme.report.data import ReportData, SegmentStrip
from rhyme.report.pictures import Quality, data_uri
from rhyme.report.text import clean, count, figure, short_path

STRIPS, COLOURS = 12, 5
CELL, SIDE = 46, 18  # a cell of a matrix and the margin for its numbers, in CSS pixels


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A stored picture with its size and what it shows in words."""

    uri: Any
    width: int
    height: int
    alt: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A segment for the template: its number from 1, its colour from 1 to 5, some frames."""

    number: int
    colour: int
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class SegmentsCard:
    """A clip for the template; reels and maps are (title, content)."""

    name: str
    path: str
    verdict: str
    reels: Sequence[tuple[str, Sequence[Part]]]
    maps: Sequence[tuple[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SegmentsView:
    """All clips for the template."""

    shown: Sequence[SegmentsCard]
    tally: str


def segment_views(data: ReportData, quality: Quality | None) -> SegmentsView:
    """The clips in segments that the page shows, and how many segments found themselves."""
    strips = list(data.segments)[:STRIPS]
    total = sum(len(s.order) for s in strips)
    trained, untrained = (
        sum(found_themselves(m) for m in ms)
        for ms in ([s.trained for s in strips], [s.untrained for s in strips])
    )
    return SegmentsView(
        shown=[_card(s, quality) for s in strips],
        tally=f"Trained, {trained} of the {count(total, 'segment')} shown found themselves; "
        f"untrained, {untrained}.",
    )


def found_themselves(similarity: NDArray[np.float32]) -> int:
    """Rows whose largest entry stands on the diagonal alone; a tie is no hit."""
    others = np.where(np.eye(len(similarity), dtype=bool), -np.inf, similarity)
    return int((np.diagonal(similarity) > others.max(axis=1)).sum())


def matrix(similarity: NDArray[np.float32], what: str) -> str:
    """A matrix of cosines as one ``<svg>`` element.

    Args:
        similarity: ``[s, s]`` in [-1, 1].
        what: whose it is, for the description.
    """
    s = len(similarity)
    size = SIDE + s * CELL + 2
    rows = "; ".join(
        f"segment {i + 1}: " + ", ".join(figure(float(v)) for v in row)
        for i, row in enumerate(similarity)
    )
    parts = [
        f'<svg class="map" width="{size}" height="{size}" viewBox="0 0 {size} {size}" role="img" '
        f'aria-label="Cosines {what}, {rows}">'
    ]
    for i in range(s):
        middle = SIDE + i * CELL + CELL / 2
        parts.append(f'<text class="side mid" x="{middle:g}" y="12">{i + 1}</text>')
        parts.append(f'<text class="side mid" x="7" y="{middle + 4:g}">{i + 1}</text>')
        for j in range(s):
            value = float(similarity[i, j])
            x, y = SIDE + j * CELL, SIDE + i * CELL
            # at most half covered, so that the number on it can be read in either scheme
            cover = 0.5 * min(max(value, 0.0), 1.0)
            box = f"M{x + 1} {y + 1}h{CELL - 2}v{CELL - 2}h-{CELL - 2}Z"
            parts.append(f'<path class="cell" fill-opacity="{cover:.3f}" d="{box}"/>')
            middle_x, middle_y = x + CELL / 2, y + CELL / 2 + 4
            parts.append(
                f'<text class="mid" x="{middle_x:g}" y="{middle_y:g}">{figure(value)}</text>'
            )
        best = int(np.argmax(similarity[i]))
        kind = "right" if best == i else "wrong"
        x, y = SIDE + best * CELL, SIDE + i * CELL
        ring = f"M{x + 2} {y + 2}h{CELL - 4}v{CELL - 4}h-{CELL - 4}Z"
        parts.append(f'<path class="ring {kind}" d="{ring}"/>')
    return "".join(parts) + "</svg>"


def _card(strip: SegmentStrip, quality: Quality | None) -> SegmentsCard:
    from markupsafe import Markup

    s = len(strip.order)
    each = len(strip.clip) // s
    parts: list[Part] = []
    for i in range(s):
        pictures: list[Picture] = []
        for k, frame in enumerate(strip.clip[i * each : (i + 1) * each]):
            stored = None if quality is None else data_uri(frame, quality)
            if stored is not None:
                alt = f"Segment {i + 1}, frame {k + 1} of {each}"
                uri, width, height = stored
                pictures.append(Picture(uri=Markup(uri), width=width, height=height, alt=alt))
        parts.append(Part(number=i + 1, colour=i % COLOURS + 1, pictures=pictures))
    first = strip.clip[0] if strip.clip else None
    path = "" if first is None else clean(first.file, 1000)
    label = "" if first is None or not first.label else f"{clean(first.label, 90)} · "
    return SegmentsCard(
        name=label + short_path(path),
        path=path,
        verdict=f"{found_themselves(strip.trained)} of {s} found themselves, untrained "
        f"{found_themselves(strip.untrained)}",
        reels=(("Clip", parts), ("Shuffled copy", [parts[k] for k in strip.order])),
        maps=(
            ("Untrained", Markup(matrix(strip.untrained, "of the untrained encoder"))),
            ("Trained", Markup(matrix(strip.trained, "of the trained encoder"))),
        ),
    )
