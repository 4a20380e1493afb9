"""Frames, strips and rhymes as the template wants them: pictures stored, words chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rhyme.report.cycles import cycle
from rhyme.report.data import Frame, ReportData, Rhyme, Strip
from rhyme.report.pictures import Quality, common_aspect, data_uri
from rhyme.report.text import clean, count, figure, short_path

RHYMES, NEIGHBOURS, RETURNS = 12, 6, 3
STRIPS, HITS = 12, 8


@dataclass(frozen=True, kw_only=True)
class FrameView:
    """A frame for the template.

    Attributes:
        uri: data URI (as markup, for it is long and safe), empty without picture.
        width: width of the stored picture in pixels.
        height: its height.
        alt: the picture in words.
        name: end of the file's path.
        at: the time in it.
        path: the whole path and the time.
        label: class or caption.
        value: score or weight as printed.
        bar: length of the weight's bar in percent of the longest; None without bar.
        mark: ``"yes"`` or ``"no"`` for a frame that does or does not fit the query, else empty.
        said: the mark in words.
        badge: its number in the drawing of the cycle.
    """

    uri: Any
    width: int
    height: int
    alt: str
    name: str
    at: str
    path: str
    label: str
    value: str = ""
    bar: float | None = None
    mark: str = ""
    said: str = ""
    badge: str = ""


@dataclass(frozen=True, kw_only=True)
class RhymeView:
    """A rhyme for the template.

    Attributes:
        query: the frame that is sent out.
        neighbours: its neighbours, strongest first.
        returns: the frames it returns to.
        returned: whether it came home.
        facts: how widely its attention spreads.
        cycle: the way over the time lines, as markup; empty where times are not known.
        why: why it is shown.
    """

    query: FrameView
    neighbours: tuple[FrameView, ...]
    returns: tuple[FrameView, ...]
    returned: bool
    facts: str
    cycle: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class RhymesView:
    """All rhymes for the template, with how many of how many came home.

    Attributes:
        shown: the rhymes.
        tally: how many came home.
        aspect: of their pictures.
        apart: whether the evaluation has a return rate of its own, measured on other queries.
    """

    shown: tuple[RhymeView, ...]
    tally: str
    aspect: float
    apart: bool


@dataclass(frozen=True, kw_only=True)
class StripView:
    """A strip for the template."""

    query: FrameView
    hits: tuple[FrameView, ...]
    facts: str
    why: str


@dataclass(frozen=True, kw_only=True)
class StripsView:
    """All strips for the template."""

    shown: tuple[StripView, ...]
    labelled: bool
    columns: str
    aspect: float
    tally: str


def chosen(rhymes: Sequence[Rhyme], most: int = RHYMES) -> list[Rhyme]:
    """Up to ``most`` rhymes, the given order kept, failures in their true share where any fit.

    At least a third of the places (or all there are) go to the rarer of the two outcomes, so that
    a reader sees what failure looks like in a good run, and success in a bad one.
    """
    if len(rhymes) <= most:
        kept = list(rhymes)
    else:
        home = [r for r in rhymes if r.returned]
        lost = [r for r in rhymes if not r.returned]
        fewer, more = sorted((home, lost), key=len)
        share = max(round(most * len(fewer) / len(rhymes)), most // 3)
        places = min(len(fewer), share)
        kept = [*fewer[:places], *more[: most - places]]
    home = [r for r in kept if r.returned]
    lost = [r for r in kept if not r.returned]
    # Spread the failures evenly between the successes instead of hiding them at the end.
    places = [((i + 0.5) / len(group), r) for group in (home, lost) for i, r in enumerate(group)]
    return [r for _, r in sorted(places, key=lambda place: place[0])]


def rhyme_views(data: ReportData, quality: Quality | None) -> RhymesView:
    """The rhymes that the page shows."""
    shown = chosen(data.rhymes)
    views = tuple(_rhyme(r, quality) for r in shown)
    frames = [f for r in shown for f in (r.query, *(n for n, _ in r.neighbours))]
    return RhymesView(
        shown=views,
        tally=_tally(data, shown),
        aspect=round(common_aspect(frames), 3),
        apart=data.rhymes_measured is not None
        and any(row.get("metric") == "return_rate" for row in data.results),
    )


def strip_views(strips: Sequence[Strip], quality: Quality | None) -> StripsView:
    """The retrieval strips that the page shows."""
    shown = list(strips)[:STRIPS]
    views = tuple(_strip(s, quality) for s in shown)
    frames = [f for s in shown for f in (s.query, *s.hits)]
    most = max((len(v.hits) for v in views), default=1)
    marks = [h.same_class for s in shown for h in list(s.hits)[:HITS] if h.same_class is not None]
    tally = f"{sum(marks)} of the {len(marks)} frames found share the query's class. "
    return StripsView(
        shown=views,
        labelled=bool(marks),
        columns=f"1fr {max(most, 1)}fr",
        aspect=round(common_aspect(frames), 3),
        tally=tally if marks else "",
    )


def _tally(data: ReportData, shown: Sequence[Rhyme]) -> str:
    home = sum(r.returned for r in shown)
    text = f"{home} of the {len(shown)} shown came home"
    came, queries = sum(r.returned for r in data.rhymes), len(data.rhymes)
    if data.rhymes_measured is not None:
        came, queries = data.rhymes_measured
    if queries > len(shown):
        text += f"; of all {count(queries, 'query', 'queries')} {came:,} did"
        text += f" ({100 * came / queries:.1f}%)"
    return text + "."


def _rhyme(rhyme: Rhyme, quality: Quality | None) -> RhymeView:
    from markupsafe import Markup

    neighbours = sorted(rhyme.neighbours, key=lambda pair: -_safe(pair[1]))[:NEIGHBOURS]
    longest = max((_safe(w) for _, w in neighbours), default=0.0)
    out = [
        _frame(
            frame,
            "Neighbour",
            quality,
            value=figure(weight),
            bar=100 * max(0.0, _safe(weight)) / longest if longest > 0 else 0.0,
            badge=str(number),
        )
        for number, (frame, weight) in enumerate(neighbours, 1)
    ]
    back: list[FrameView] = []
    for place, (frame, score) in enumerate(list(rhyme.returns)[:RETURNS]):
        home = _home(rhyme, frame, place)
        said = {True: "the query's own video", False: "another video", None: ""}[home]
        back.append(_frame(frame, "Return", quality, value=figure(score), fits=home, said=said))
    return RhymeView(
        query=_frame(rhyme.query, "Query", quality),
        neighbours=tuple(out),
        returns=tuple(back),
        returned=rhyme.returned,
        facts=_attention(rhyme, sum(_safe(w) for _, w in neighbours), len(neighbours)),
        cycle=Markup(cycle(rhyme, neighbours)),
        why=clean(rhyme.why, 200),
    )


def _home(rhyme: Rhyme, frame: Frame, place: int) -> bool | None:
    if place == 0:
        return rhyme.returned
    if frame.group is None or rhyme.query.group is None:
        return None
    return frame.group == rhyme.query.group


def _attention(rhyme: Rhyme, mass: float, shown: int) -> str:
    parts = [f"{100 * mass:.0f}% of the weight shown"] * (shown > 0)
    if rhyme.entropy is not None and math.isfinite(rhyme.entropy):
        text = f"entropy {rhyme.entropy:.2f} nats"
        if rhyme.entropy < 30:
            text += f" ≈ {math.exp(rhyme.entropy):,.1f}"
            text += f" of {count(rhyme.support, 'frame')}" if rhyme.support else " frames"
        parts.append(text)
    return ", ".join(parts)


def _strip(strip: Strip, quality: Quality | None) -> StripView:
    hits = list(strip.hits)[:HITS]
    known = [h.same_class for h in hits if h.same_class is not None]
    views = [
        _frame(
            hit,
            f"Hit {rank}",
            quality,
            value="" if hit.score is None else figure(hit.score),
            fits=hit.same_class,
            said={True: "same class", False: "another class", None: ""}[hit.same_class],
        )
        for rank, hit in enumerate(hits, 1)
    ]
    facts = f"{sum(known)} of {len(known)} of the query's class" if known else ""
    return StripView(
        query=_frame(strip.query, "Query", quality),
        hits=tuple(views),
        facts=facts,
        why=clean(strip.why, 200),
    )


def _frame(
    frame: Frame,
    role: str,
    quality: Quality | None,
    *,
    value: str = "",
    bar: float | None = None,
    fits: bool | None = None,
    said: str = "",
    badge: str = "",
) -> FrameView:
    from markupsafe import Markup

    stored = data_uri(frame, quality) if quality is not None else None
    uri, width, height = stored or ("", 0, 0)
    at = f"{frame.time:.1f} s" if frame.time is not None and math.isfinite(frame.time) else ""
    alt = f"{role} frame" + (f", {clean(frame.label, 80)}" if frame.label else "")
    alt += f", from {clean(frame.file, 120)}" if frame.file else ""
    alt += f" at {at}" if at else ""
    return FrameView(
        uri=Markup(uri),
        width=width,
        height=height,
        alt=alt,
        name=short_path(frame.file),
        at=at,
        path=f"{clean(frame.file, 1000)} {at}".strip(),
        label=clean(frame.label, 90),
        value=value,
        bar=None if bar is None else round(bar, 1),
        mark={True: "yes", False: "no", None: ""}[fits],
        said=said,
        badge=badge,
    )


def _safe(value: float) -> float:
    return value if math.isfinite(value) else 0.0
