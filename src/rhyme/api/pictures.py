"""Pictures for a report: rhymes and retrieval strips, drawn from held-out videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage
from rhyme.errors import DataError, RhymeError
from rhyme.report import Frame, Rhyme, Strip
from rhyme.tasks import FeatureTable, cycle_return, extract_features, nearest_rows, rhymes
from rhyme.tasks import Rhyme as Way

QUERIES = 8
NEIGHBOURS = 5
RETURNS = 3


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What a report draws.

    Attributes:
        rhymes: queries, their neighbours in other videos, and the frames they return to.
        strips: queries and the nearest frames of other videos.
        measured: (came home, queries) over all held-out frames.
        notes: what could not be drawn, and why.
    """

    rhymes: list[Rhyme]
    strips: list[Strip]
    measured: tuple[int, int] | None
    notes: list[str]


def draw_pictures(
    package: EncoderPackage,
    catalog: Catalog,
    *,
    seed: int = 0,
    frames_per_item: int = 4,
    max_items: int = 400,
    device: str = "cpu",
) -> Pictures:
    """Rhymes and strips of an encoder on held-out items.

    Args:
        package: the encoder.
        catalog: held-out items.
        seed: picks the queries and the items of a large collection.
        frames_per_item: frames of each item.
        max_items: more are left out, chosen by seed.
        device: where the encoder runs.
    """
    notes: list[str] = []
    if len(catalog) > max_items:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(catalog))[:max_items])
        notes.append(f"pictures are drawn from {max_items} of {len(catalog)} held-out items")
        catalog = catalog.select(indices=chosen)
    table = extract_features(
        package.module, package.plan, catalog, frames_per_item=frames_per_item, device=device
    )
    album = _Album(catalog, table)
    frames, groups = table.frames(), np.repeat(table.group, table.frames_per_item)
    drawn: list[Rhyme] = []
    measured: tuple[int, int] | None = None
    try:
        found = cycle_return(frames, groups, seed=seed)
        measured = (round(found.rate * found.queries), found.queries)
        for way in _ways(frames, groups, seed):
            drawn.append(
                Rhyme(
                    query=album.frame(way.query),
                    neighbours=[
                        (album.frame(row, way.query), weight)
                        for row, weight in zip(way.neighbours, way.weights, strict=True)
                    ],
                    returns=[
                        (album.frame(row, way.query), score)
                        for row, score in zip(way.returns, way.scores, strict=True)
                    ],
                    returned=way.returned,
                    entropy=float(np.log(way.effective_neighbours)),
                    support=found.support,
                )
            )
    except DataError as error:
        notes.append(f"no rhymes: {error.cause}")
    return Pictures(
        rhymes=drawn, strips=_strips(album, frames, groups, seed), measured=measured, notes=notes
    )


def _ways(frames: NDArray[np.float32], groups: NDArray[Any], seed: int) -> list[Way]:
    """Ways to draw: of those that came home and of those that did not, as many of each.

    One way a group is asked, in an order that the seed decides.
    """
    asked = rhymes(frames, groups, n=len(groups), neighbours=NEIGHBOURS, returns=RETURNS, seed=seed)
    home = [way for way in asked if way.returned]
    astray = [way for way in asked if not way.returned]
    return home[: QUERIES // 2] + astray[: QUERIES - min(len(home), QUERIES // 2)]


def _strips(
    album: _Album, frames: NDArray[np.float32], groups: NDArray[Any], seed: int
) -> list[Strip]:
    if len(np.unique(groups)) < 2:
        return []
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(frames))[:QUERIES])
    found = nearest_rows(
        frames, frames[rows], NEIGHBOURS, bank_groups=groups, query_groups=groups[rows]
    )
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
    """Frames by their row in a feature table, decoded when they are drawn."""

    def __init__(self, catalog: Catalog, table: FeatureTable) -> None:
        self._catalog, self._table = catalog, table
        self._codes, self._names = (
            catalog.labels() if catalog.label_column is not None else (None, [])
        )
        self._pixels: dict[int, NDArray[np.uint8] | None] = {}

    def frame(self, row: int, query: int | None = None, score: float | None = None) -> Frame:
        per_item = self._table.frames_per_item
        place = int(self._table.index[row // per_item])
        item = self._catalog.item(place)
        time = float(self._table.times[row // per_item, row % per_item])
        label = self._label(place)
        same = None
        if query is not None and label is not None:
            same = label == self._label(int(self._table.index[query // per_item]))
        if row not in self._pixels:
            self._pixels[row] = self._decode(place, time)
        return Frame(
            pixels=self._pixels[row],
            label=label or "",
            file=item.path,
            time=time,
            group=item.group,
            score=score,
            same_class=same,
        )

    def _label(self, place: int) -> str | None:
        if self._codes is None or self._codes[place] < 0:
            return None
        return self._names[int(self._codes[place])]

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
