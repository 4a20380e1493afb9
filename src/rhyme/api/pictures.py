"""Pictures for a report: rhymes, searches, failures and maps, drawn from held-out videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rhyme.api.feature_maps import feature_maps
from rhyme.api.worst import K, failures
from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage, untrained
from rhyme.errors import DataError, RhymeError
from rhyme.report import ClassShare, EmbeddingMaps, Frame, Rhyme, Strip
from rhyme.tasks import FeatureTable, cycle_return, extract_many, nearest_rows, rhymes
from rhyme.tasks import Rhyme as Way

QUERIES, WORST = 8, 6
NEIGHBOURS = 5
RETURNS = 3
SUREST = "among the surest of all failures"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What a report draws; the fields are those of :class:`rhyme.report.ReportData`.

    Attributes:
        rhymes: queries, their neighbours in other videos, and the frames they return to.
        rhymes_measured: (came home, queries) over all held-out frames.
        strips: queries drawn by seed and the nearest frames of other videos.
        worst: the surest searches that find nothing of the query's class.
        classes: how often each class is found, the worst first.
        classes_k: found frames that count.
        maps: features in the plane, trained and untrained.
        absent: sections that cannot be drawn: why, and what helps.
        notes: what was left out.
    """

    rhymes: Sequence[Rhyme] = ()
    rhymes_measured: tuple[int, int] | None = None
    strips: Sequence[Strip] = ()
    worst: Sequence[Strip] = ()
    classes: Sequence[ClassShare] = ()
    classes_k: int = K
    maps: EmbeddingMaps | None = None
    absent: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    notes: Sequence[str] = ()


def draw_pictures(
    package: EncoderPackage,
    catalog: Catalog,
    *,
    seed: int = 0,
    frames_per_item: int = 4,
    max_items: int = 400,
    points: int = 600,
    device: str = "cpu",
) -> Pictures:
    """Rhymes, searches, failures and maps of an encoder on held-out items.

    Args:
        package: the encoder.
        catalog: held-out items.
        seed: picks the queries, the items of a large collection, and the fresh weights.
        frames_per_item: frames of each item.
        max_items: more are left out, chosen by seed.
        points: most frames of the maps; 0 draws none.
        device: where the encoders run.
    """
    notes: list[str] = []
    absent: dict[str, tuple[str, str]] = {}
    if len(catalog) > max_items:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(catalog))[:max_items])
        notes.append(f"pictures are drawn from {max_items} of {len(catalog)} held-out items")
        catalog = catalog.select(indices=chosen)
    tables = extract_many(
        {"trained": package.module, "untrained": untrained(package, seed)},
        package.plan,
        catalog,
        frames_per_item=frames_per_item,
        device=device,
    )
    table = tables["trained"]
    album = _Album(catalog, table)
    moments = table.moments
    frames = table.frames()[moments]
    groups, places = (
        np.repeat(v, table.frames_per_item)[moments] for v in (table.group, table.index)
    )
    drawn: list[Rhyme] = []
    measured: tuple[int, int] | None = None
    try:
        found = cycle_return(frames, groups, seed=seed)
        measured = (round(found.rate * found.queries), found.queries)
        drawn = [album.rhyme(way, found.support, why) for way, why in _ways(frames, groups, seed)]
    except DataError as error:
        absent["rhymes"] = (f"No frame can be sent out and back: {error.cause}.", _more(error))
    maps: EmbeddingMaps | None = None
    if points:
        try:
            named = [album.label(place) or "" for place in table.index.tolist()]
            both = {"Trained": table, "Untrained": tables["untrained"]}
            maps = feature_maps(both, named, seed=seed, points=points)
        except DataError as error:
            absent["map"] = (f"No map can be drawn: {error.cause}.", _more(error))
    strips = _strips(album, frames, groups, seed)
    if not strips:
        absent["retrieval"] = ("There is one video only, and none to find others in.", _more())
    worst: list[Strip] = []
    classes: list[ClassShare] = []
    codes = album.codes(places)
    if (codes < 0).all():
        absent["worst"] = (
            "Which classes and searches fail is not known: the held-out items have no labels.",
            "Say where their classes stand: rhyme report RUN with --labels folder or --labels "
            "FILE.csv --label-column NAME; labels measure only, no system trains on them.",
        )
    elif strips:
        both = {name: t.frames()[moments] for name, t in tables.items()}
        failed = failures(both, groups, codes, album.names)
        classes = failed.classes
        worst = _strips_of(album, frames, groups, failed.queries[:WORST])
    return Pictures(
        rhymes=drawn,
        rhymes_measured=measured,
        strips=strips,
        worst=worst,
        classes=classes,
        maps=maps,
        absent=absent,
        notes=notes,
    )


def _more(error: DataError | None = None) -> str:
    given = error.remedy if error is not None else None
    return given or "Hold out more videos, or give others: rhyme report RUN --data VIDEOS"


def _ways(frames: NDArray[np.float32], groups: NDArray[Any], seed: int) -> list[tuple[Way, str]]:
    """Ways to draw, and why: of those that came home and those that did not, as many of each.

    One way a group is asked, in an order that the seed decides. Half of the failures are the
    surest of all: those whose weighted mean lies nearest to the wrong frame.
    """
    asked = rhymes(frames, groups, n=len(groups), neighbours=NEIGHBOURS, returns=RETURNS, seed=seed)
    home = [way for way in asked if way.returned]
    astray = [way for way in asked if not way.returned]
    failed = QUERIES - min(len(home), QUERIES // 2)
    surest = sorted(astray, key=lambda way: -way.scores[0])[: failed // 2]
    drawn = [way for way in astray if way not in surest][: failed - len(surest)]
    return [
        *((way, "") for way in home[: QUERIES - len(surest) - len(drawn)]),
        *((way, SUREST) for way in surest),
        *((way, "") for way in drawn),
    ]


def _strips(
    album: _Album, frames: NDArray[np.float32], groups: NDArray[Any], seed: int
) -> list[Strip]:
    if len(np.unique(groups)) < 2:
        return []
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(frames))[:QUERIES])
    return _strips_of(album, frames, groups, rows.tolist())


def _strips_of(
    album: _Album, frames: NDArray[np.float32], groups: NDArray[Any], rows: Sequence[int]
) -> list[Strip]:
    if not rows:
        return []
    found = nearest_rows(frames, frames[rows], K, bank_groups=groups, query_groups=groups[rows])
    return [
        Strip(
            query=album.frame(int(row)),
            hits=[
                album.frame(int(hit), int(row), float(score))
                for hit, score in zip(hits, scores, strict=True)
                if hit >= 0
            ],
        )
        for row, hits, scores in zip(rows, found.rows, found.scores, strict=True)
    ]


class _Album:
    """Frames by their row among a table's moments, decoded when they are drawn."""

    def __init__(self, catalog: Catalog, table: FeatureTable) -> None:
        self._catalog = catalog
        moments = table.moments
        self._places = np.repeat(table.index, table.frames_per_item)[moments]
        self._times = table.times.reshape(-1)[moments]
        self._codes, self.names = (
            catalog.labels() if catalog.label_column is not None else (None, [])
        )
        self._pixels: dict[int, NDArray[np.uint8] | None] = {}

    def codes(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class codes of items, -1 where they have none."""
        if self._codes is None:
            return np.full(len(places), -1)
        return np.asarray(self._codes, dtype=np.int64)[places]

    def rhyme(self, way: Way, support: int, why: str) -> Rhyme:
        return Rhyme(
            query=self.frame(way.query),
            neighbours=[
                (self.frame(row, way.query), weight)
                for row, weight in zip(way.neighbours, way.weights, strict=True)
            ],
            returns=[
                (self.frame(row, way.query), score)
                for row, score in zip(way.returns, way.scores, strict=True)
            ],
            returned=way.returned,
            entropy=float(np.log(way.effective_neighbours)),
            support=support,
            why=why,
        )

    def frame(self, row: int, query: int | None = None, score: float | None = None) -> Frame:
        place, time = int(self._places[row]), float(self._times[row])
        item = self._catalog.item(place)
        label = self.label(place)
        same = None
        if query is not None and label is not None:
            same = label == self.label(int(self._places[query]))
        if row not in self._pixels:
            self._pixels[row] = self._decode(place, time)
        return Frame(
            pixels=self._pixels[row],
            label=label or "",
            file=item.path,
            time=time,
            span=(item.start, item.stop),
            group=item.group,
            score=score,
            same_class=same,
        )

    def label(self, place: int) -> str | None:
        if self._codes is None or self._codes[place] < 0:
            return None
        return self.names[int(self._codes[place])]

    def _decode(self, place: int, time: float) -> NDArray[np.uint8] | None:
        try:
            reader = self._catalog.reader(place)
            try:
                pixels, _ = reader.read([time])
            finally:
                reader.close()
        except RhymeError:
            return None
        return np.ascontiguousarray(torch.as_tensor(pixels)[0].permute(1, 2, 0).numpy())
