"""Pairs of overlapping clips as the template wants them: crops in a frame, bars on a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rhyme.report.data import ClipPair, Frame, ReportData, SeenClip, Told
from rhyme.report.pictures import Quality, data_uri
from rhyme.report.text import clean, figure, short_path

PAIRS, FRAMES = 12, 6
LINE, LANE = 600, 22  # the time line in units of its picture: width, height of a clip's lane


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A clip for the template.

    Attributes:
        uris: stored pictures of its frames.
        size: (width, height) of them.
        alt: the frames in words.
        crop: corners in a picture of 100 x 100, as SVG has them.
        top: a line from the middle of the crop to that of the view's upper edge, as SVG has it.
        bar: (start, width) on the time line.
        ticks: where its frames are on the time line.
    """

    uris: Sequence[Any]
    size: tuple[int, int]
    alt: str
    crop: str
    top: str
    bar: tuple[float, float]
    ticks: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class PairView:
    """A pair for the template; times are given in seconds of the item."""

    uri: Any
    width: int
    height: int
    name: str
    path: str
    stop: str
    said: str
    clips: Sequence[Seen]
    labels: Sequence[Told]
    right: int


@dataclass(frozen=True, kw_only=True)
class PairsView:
    """All pairs for the template."""

    shown: Sequence[PairView]
    tally: str
    line: int = LINE
    lane: int = LANE


def pair_views(data: ReportData, quality: Quality | None) -> PairsView:
    """The pairs of clips that the page shows, and how well labels are told over all of them."""
    told = [
        f"{clean(name, 60)} {figure(value)} (chance {figure(chance)})"
        for name, value, chance in data.pairs_measured
    ]
    return PairsView(
        shown=tuple(_pair(pair, quality) for pair in list(data.pairs)[:PAIRS]),
        tally=f"Balanced accuracy on held-out items: {', '.join(told)}." if told else "",
    )


def _pair(pair: ClipPair, quality: Quality | None) -> PairView:
    uri, width, height = _stored(pair.frame, quality)
    length = max(pair.stop - pair.start, 1e-9)
    spans = [
        f"{min(c.times, default=0):.2f} to {max(c.times, default=0):.2f} s" for c in pair.clips
    ]
    return PairView(
        uri=uri,
        width=width,
        height=height,
        name=short_path(pair.frame.file),
        path=clean(pair.frame.file, 1000),
        stop=f"{length:.1f} s",
        said=f"clip 1 from {spans[0]}, clip 2 from {spans[1]} of the file",
        clips=tuple(
            _seen(clip, number, pair.start, length, quality)
            for number, clip in enumerate(pair.clips, 1)
        ),
        labels=tuple(
            Told(
                name=clean(label.name, 80),
                drawn=clean(label.drawn, 40),
                told=clean(label.told, 40),
                right=label.right,
            )
            for label in pair.labels
        ),
        right=sum(label.right for label in pair.labels),
    )


def _seen(
    clip: SeenClip, number: int, start: float, length: float, quality: Quality | None
) -> Seen:
    stored = [_stored(frame, quality) for frame in list(clip.frames)[:FRAMES]]
    at = [LINE * min(max((time - start) / length, 0.0), 1.0) for time in clip.times]
    corners = [(100 * x, 100 * y) for x, y in clip.outline]
    middle = [sum(values) / max(len(corners), 1) for values in zip(*corners, strict=True)]
    x, y = 100 * clip.top[0], 100 * clip.top[1]
    return Seen(
        uris=[uri for uri, _, _ in stored if uri],
        size=stored[0][1:] if stored else (0, 0),
        alt=f"Frame of clip {number} as the encoder sees it",
        crop=" ".join(f"{a:.2f},{b:.2f}" for a, b in corners),
        top=f"M{middle[0]:.2f} {middle[1]:.2f}L{x:.2f} {y:.2f}" if middle else "",
        bar=(round(min(at), 1), round(max(max(at) - min(at), 1.0), 1)) if at else (0.0, 0.0),
        ticks=[round(place, 1) for place in at],
    )


def _stored(frame: Frame, quality: Quality | None) -> tuple[Any, int, int]:
    from markupsafe import Markup

    stored = data_uri(frame, quality) if quality is not None else None
    uri, width, height = stored or ("", 0, 0)
    return Markup(uri), width, height
