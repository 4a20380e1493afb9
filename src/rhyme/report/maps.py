"""Maps of features as inline SVG: a form and a colour a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rhyme.report.findings import EmbeddingMaps, FeatureMap
from rhyme.report.text import clean, count, figure

SIDE, EDGE = 320, 10
COLOURS, CLASSES = 5, 12
# Forms of about one area around a point, as relative SVG paths; the last two are strokes.
_FORMS = (
    "m-2.7 0a2.7 2.7 0 1 0 5.4 0a2.7 2.7 0 1 0 -5.4 0",
    "m-2.4 -2.4h4.8v4.8h-4.8Z",
    "m0 -3.3l3.1 5.4h-6.2Z",
    "m0 -3.5l3.5 3.5l-3.5 3.5l-3.5 -3.5Z",
    "m0 3.3l3.1 -5.4h-6.2Z",
    "m-3 0h6m-3 -3v6",
    "m-2.4 -2.4l4.8 4.8m0 -4.8l-4.8 4.8",
)
_STROKES = 5
_OTHERS = "m-1.4 0a1.4 1.4 0 1 0 2.8 0a1.4 1.4 0 1 0 -2.8 0"


@dataclass(frozen=True, kw_only=True)
class MapKey:
    """A class in the legend."""

    name: str
    frames: int
    icon: Any


@dataclass(frozen=True, kw_only=True)
class MapsView:
    """Maps for the template: (title, figures, picture) each, a legend, how they were made."""

    shown: Sequence[tuple[str, str, Any]]
    keys: Sequence[MapKey]
    made: str


def map_views(maps: EmbeddingMaps | None) -> MapsView:
    """The maps that the page shows; none without data."""
    from markupsafe import Markup

    if maps is None:
        return MapsView(shown=(), keys=(), made="")
    names = [name for name, _ in Counter(label for label in maps.labels if label).most_common()]
    marked, rest = names[:CLASSES], len(names) - CLASSES
    labels = np.array([marked.index(x) if x in marked else -1 for x in maps.labels])
    keys = [
        MapKey(name=clean(name, 60), frames=int((labels == i).sum()), icon=Markup(_icon(i)))
        for i, name in enumerate(marked)
    ]
    if others := int((labels < 0).sum()):
        what = count(rest, "further class", "further classes") if rest > 0 else "no label"
        keys.append(MapKey(name=what, frames=others, icon=Markup(_icon(-1))))
    return MapsView(
        shown=[(clean(m.name, 60), _figures(m), Markup(_drawn(m, labels))) for m in maps.maps],
        keys=keys,
        made=f"{count(len(labels), 'frame')} of {count(maps.videos, 'held-out video')}; "
        f"{count(maps.components, 'principal component')}, then t-SNE, "
        f"perplexity {maps.perplexity:g}, seed {maps.seed}.",
    )


def _figures(m: FeatureMap) -> str:
    said = [f"trustworthiness {figure(m.faithful)}", f"{100 * m.kept:.0f}% of the variance kept"]
    if m.same_class is not None:
        said.insert(0, f"nearest frame of another video of the same class: {figure(m.same_class)}")
    return "; ".join(said)


def _drawn(m: FeatureMap, labels: NDArray[np.integer]) -> str:
    # One scale for both axes: a map has no directions of its own.
    low, high = m.points.min(axis=0), m.points.max(axis=0)
    scale = (SIDE - 2 * EDGE) / max(float((high - low).max()), 1e-12)
    at = SIDE / 2 + (m.points - (low + high) / 2) * scale
    parts: list[str] = []
    for kind in np.unique(labels):
        form = _OTHERS if kind < 0 else _FORMS[kind % len(_FORMS)]
        path = "".join(f"M{x:.1f} {y:.1f}{form}" for x, y in at[labels == kind])
        parts.append(f'<path class="{_class(int(kind))}" d="{path}"/>')
    said = escape(f"Map of features, {m.name}: {_figures(m)}", quote=True)
    return (
        f'<svg class="scatter" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{said}">'
        f"{''.join(parts)}</svg>"
    )


def _class(kind: int) -> str:
    if kind < 0:
        return "point other"
    style = "stroke" if kind % len(_FORMS) >= _STROKES else "point"
    return f"{style} m{kind % COLOURS + 1}"


def _icon(kind: int) -> str:
    form = _OTHERS if kind < 0 else _FORMS[kind % len(_FORMS)]
    return (
        '<svg width="12" height="12" aria-hidden="true">'
        f'<path class="{_class(kind)}" d="M6 6{form}"/></svg>'
    )
