"""Metric rows -> the curves of the page: grouped, thinned, with gaps where values fail."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rhyme.report.data import Row
from rhyme.report.rows import mapping, number
from rhyme.report.text import words

POINTS = 240
COHERENCE = "Temporal coherence S"


def drawable(value: float) -> bool:
    """Whether a value can stand on an axis: finite, and not beyond all measure."""
    return abs(value) < 1e30  # False for NaN


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity over the steps.

    Attributes:
        name: what is drawn, for the legend.
        steps: positions, rising.
        values: values; not finite where the run logged such a value.
        style: colour and dashes, from 1 to 5; 0 takes those of its place in the chart.
    """

    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    style: int = 0

    @property
    def last(self) -> float | None:
        """The last value that can be drawn."""
        return next((v for v in reversed(self.values) if drawable(v)), None)

    @property
    def lost(self) -> int:
        """Number of values that cannot be drawn."""
        return sum(not drawable(v) for v in self.values)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves on common axes.

    Attributes:
        title: heading of the chart.
        unit: unit or meaning of the vertical axis.
        curves: at most five.
        dots: draw the single measurements (for values that are seldom taken).
        note: how to read it, one sentence.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    dots: bool = False
    note: str = ""


# (pattern on the name, title, unit, how to read it); the first match decides. Curves that share a
# title share a chart.
_KINDS: tuple[tuple[str, str, str, str], ...] = (
    (
        r"^tc/\w*cosine",
        COHERENCE,
        "product of means",
        "S is the product of the means of two clips' segment vectors. A mean of unit vectors is "
        "shorter than 1, so S is no cosine: its ceiling falls as segments are told apart.",
    ),
    (
        r"pos\w*(cos|sim)|(cos|sim)\w*pos|(neg|hard)\w*(cos|sim)|(cos|sim)\w*neg",
        "Similarity of positives and negatives",
        "cosine",
        "A widening gap means that views of one thing are told apart from the rest.",
    ),
    (
        r"effective_neigh|perplexity",
        "Effective neighbours",
        "frames",
        "Exponential of the entropy: among how many frames the attention is spread.",
    ),
    (
        r"entropy",
        "Entropy of the attention",
        "nats",
        "How widely a soft nearest neighbour spreads over its support.",
    ),
    (
        r"(^|/|_)rank|effective_rank",
        "Effective rank of the embedding",
        "dimensions",
        "A fall towards one is a collapse.",
    ),
    (
        r"(^|/|_)std",
        "Spread of the embedding",
        "std · √d",
        "About 1 is an even spread over all directions; a fall to 0 is a collapse.",
    ),
    (
        r"(^|/|_)sine",
        "Median angle between embeddings",
        "sine",
        "Near 0 while the spread is not: all but a few embeddings have collapsed.",
    ),
    (r"accuracy|top1|hit", "Accuracy of the training task", "share", ""),
    (r"masked_(frac|share)", "Negatives masked out", "share", "Keys of the query's own group."),
    (r"masked|valid|fallback|skipped", "Rows masked out", "as logged", ""),
)


def charts(rows: Sequence[Row]) -> list[Chart]:
    """All charts that the metric rows give, in reading order; none without rows.

    Args:
        rows: rows of ``metrics.jsonl``. After a resume a step may appear twice: the later row
            counts.
    """
    ordered = _by_step(rows)
    found: list[Chart] = []
    loss = _curve(ordered, "loss", "loss")
    if loss:
        found.append(Chart(title="Loss", unit="loss", curves=(loss,)))
    parts = [
        curve
        for name in _names(ordered, "parts")
        if (curve := _curve(ordered, words(name), name, "parts"))
    ]
    # A single part that equals the loss would be the same chart again.
    if len(parts) > 1 or (parts and loss and parts[0].values != loss.values):
        found += _chunks(Chart(title="Parts of the loss", unit="loss", curves=tuple(parts)))
    found += _diagnostics(ordered)
    for name in _names(ordered, "probes"):
        if curve := _curve(ordered, words(name), name, "probes"):
            found.append(
                Chart(title=f"Probe: {words(name)}", unit="value", curves=(curve,), dots=True)
            )
    plain = (
        ("grad_norm", "Norm of the gradient", "L2 norm"),
        ("lr", "Learning rate", "rate"),
        ("items_per_s", "Throughput", "items per second"),
        ("wait_share", "Share of time spent waiting for data", "share"),
    )
    for key, title, unit in plain:
        if curve := _curve(ordered, title.lower(), key):
            found.append(Chart(title=title, unit=unit, curves=(curve,)))
    return found


def thin(curve: Curve, points: int = POINTS) -> Curve:
    """At most about ``points`` points that keep the extremes, the ends and one gap a bucket.

    Args:
        curve: any curve.
        points: points aimed at, at least 8.
    """
    n = len(curve.steps)
    if n <= points:
        return curve
    buckets = max(2, points // 4)
    kept: list[int] = []
    for b in range(buckets):
        start, stop = b * n // buckets, (b + 1) * n // buckets
        index = range(start, stop)
        finite = [i for i in index if drawable(curve.values[i])]
        chosen = {start, stop - 1}
        if finite:
            chosen |= {
                min(finite, key=lambda i: curve.values[i]),
                max(finite, key=lambda i: curve.values[i]),
            }
        if len(finite) < len(index):
            chosen.add(next(i for i in index if not drawable(curve.values[i])))
        kept += sorted(chosen)
    return replace(
        curve,
        steps=tuple(curve.steps[i] for i in kept),
        values=tuple(curve.values[i] for i in kept),
    )


def smooth(curve: Curve) -> Curve | None:
    """Running mean over a twenty-fifth of the curve, its outer quarters left out in each window.

    Returns:
        The smoothed curve, or None for fewer than 60 points that can be drawn.
    """
    finite = [i for i, v in enumerate(curve.values) if drawable(v)]
    if len(finite) < 60:
        return None
    half = max(2, len(finite) // 50)
    values = [curve.values[i] for i in finite]
    stride = max(1, len(finite) // 400)
    at = sorted({*range(0, len(finite), stride), len(finite) - 1})
    means: list[float] = []
    for i in at:
        # Windows shrink towards the ends, where lopsided ones would bend the curve.
        reach = max(min(half, i, len(finite) - 1 - i), half // 2)
        window = sorted(values[max(0, i - reach) : i + reach + 1])
        cut = len(window) // 4
        means.append(statistics.fmean(window[cut : len(window) - cut]))
    steps = tuple(curve.steps[finite[i]] for i in at)
    return replace(curve, steps=steps, values=tuple(means))


def _by_step(rows: Sequence[Row]) -> list[tuple[float, Row]]:
    latest: dict[float, Row] = {}
    for row in rows:
        step = number(row.get("step"))
        if step is not None and drawable(step):
            latest[step] = {**latest.get(step, {}), **row}
    return sorted(latest.items(), key=lambda pair: pair[0])


def _names(rows: Sequence[tuple[float, Row]], field: str) -> list[str]:
    names: dict[str, None] = {}
    for _, row in rows:
        names.update(dict.fromkeys(_entries(row, field)))
    return list(names)


def _entries(row: Row, field: str) -> dict[str, object]:
    """The figures of a field by name, those of a nested table as ``table/name``."""
    found: dict[str, object] = {}
    for name, value in mapping(row.get(field)).items():
        nested = mapping(value)
        found.update({f"{name}/{key}": inner for key, inner in nested.items()})
        if not nested:
            found[str(name)] = value
    return found


def _curve(
    rows: Sequence[tuple[float, Row]], name: str, key: str, field: str | None = None
) -> Curve | None:
    points = [
        (step, value)
        for step, row in rows
        if (value := number((row if field is None else _entries(row, field)).get(key))) is not None
    ]
    if not points:
        return None
    steps, values = zip(*points, strict=True)
    return Curve(name=name, steps=steps, values=values)


def _diagnostics(rows: Sequence[tuple[float, Row]]) -> list[Chart]:
    grouped: dict[str, Chart] = {}
    named = [(name, field) for field in ("diagnostics", "monitors") for name in _names(rows, field)]
    for name, field in named:
        curve = _curve(rows, words(name), name, field)
        if curve is None:
            continue
        title, unit, note = words(name).capitalize(), "value", ""
        for pattern, known, its_unit, its_note in _KINDS:
            if re.search(pattern, name.lower()):
                title, unit, note = known, its_unit, its_note
                if title == COHERENCE:
                    curve = replace(curve, name=curve.name.replace("cosine", "S"))
                break
        chart = grouped.get(title, Chart(title=title, unit=unit, curves=(), note=note))
        grouped[title] = replace(chart, curves=(*chart.curves, curve))
    order = [known for _, known, _, _ in _KINDS]
    rank = {title: order.index(title) if title in order else len(order) for title in grouped}
    ordered = sorted(grouped.values(), key=lambda chart: rank[chart.title])
    return [chart for group in ordered for chart in _chunks(group)]


def _chunks(chart: Chart, size: int = 5) -> Iterator[Chart]:
    """The chart, cut where it has more curves than can be told apart."""
    total = -(-len(chart.curves) // size)
    for part in range(total):
        title = chart.title if total == 1 else f"{chart.title} ({part + 1} of {total})"
        curves = chart.curves[part * size : (part + 1) * size]
        yield replace(chart, title=title, curves=curves)
