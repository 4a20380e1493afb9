"""Two clips of an item that overlap in time and in space by known rates (CSTP).

One joint draw decides on the pace of both clips, on how much they share of time and of the frame,
and on a quarter turn of each; what was drawn are the labels of four pretext tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError
from rhyme.views.clips import FrameDraws
from rhyme.views.facts import Facts, frame_counts, frame_times
from rhyme.views.keys import Keys
from rhyme.views.overlap_boxes import label_first_boxes, released_boxes
from rhyme.views.plan import Draws, ViewPlan
from rhyme.views.transforms import check_bounds
from rhyme.views.turn import TurnTransform

__all__ = ["Overlap", "OverlapPlan", "PairDraws"]

_ATTEMPTS = 64  # of the released sampler in time: label 0 always fits, .8**64 is nothing


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How two clips of one item lie to each other.

    Attributes:
        rates: overlaps from 1 downwards, in time and, drawn apart, in space; the label is the
            number of the rate. In time it is the share of a clip's span that both cover, in space
            that of a crop's *area* (not intersection over union).
        paces: native frames between neighbouring frames, the same for both clips; rising.
        scale: bounds of a crop's share of the frame's area, before it is shrunk to fit.
        ratio: bounds of its width / height.
        turn: turn each clip by 0 to 3 quarters.
        sampler: ``"label_first"`` draws each label uniformly and then a geometry for it;
            ``"released"`` draws anew until it fits, as the published code does, which makes large
            overlaps the rule, and lays the crops into the turned frames.
        level_zoom: size the crops for the smallest rate, whatever the label: else small overlaps
            need smaller crops, and the zoom of a clip alone tells something of the spatial label.
        second: ``"drawn"``, or ``"first"``: the second clip is read from where the first begins, as
            the published loaders of packed data do; its temporal label then means nothing.
        labels: ``"drawn"``, or ``"shuffled"``: all labels come from a second draw of the same kind,
            which has nothing to do with the clips; a control.
    """

    rates: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)
    paces: tuple[int, ...] = (1, 2, 4, 8)
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    turn: bool = True
    sampler: Literal["label_first", "released"] = "label_first"
    level_zoom: bool = False
    second: Literal["drawn", "first"] = "drawn"
    labels: Literal["drawn", "shuffled"] = "drawn"

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in pairwise((*self.rates, 0.0)))
        if not falling or self.rates[:1] != (1.0,):
            raise ConfigError(
                "overlap.rates must fall from 1 and stay above 0",
                value=self.rates,
                remedy="give for example 1.0 0.8 0.6 0.4 0.2",
            )
        if not self.paces or any(a >= b for a, b in pairwise((0, *self.paces))):
            raise ConfigError(
                "overlap.paces must rise, from 1 or more",
                value=self.paces,
                remedy="give for example 1 2 4 8",
            )
        check_bounds("overlap.scale", self.scale, 1.0)
        check_bounds("overlap.ratio", self.ratio)
        for name, known in (
            ("sampler", ("label_first", "released")),
            ("second", ("drawn", "first")),
            ("labels", ("drawn", "shuffled")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"unknown overlap.{name}",
                    value=getattr(self, name),
                    remedy=f"choose {' or '.join(known)}",
                )

    def draw(self, facts: Facts, keys: Keys, frames: int) -> PairDraws:
        """Draw both clips of ``b`` items.

        Args:
            facts: facts of the items.
            keys: their keys.
            frames: frames of a clip, T.
        """
        drawn = self._draw(facts, keys.within("drawn"), frames)
        if self.labels == "drawn":
            return drawn
        return replace(drawn, targets=self._draw(facts, keys.within("shuffled"), frames).targets)

    def shifts(self, frames: int) -> NDArray[np.int64]:
        """``int64 [paces, rates]`` frames between the starts of the two clips."""
        # Some products, such as (1 - .8) * 15, end just below the whole number that they are.
        share = 1.0 - np.array(self.rates)
        return np.floor(np.outer(self._spans(frames), share) + 1e-9).astype(np.int64)

    def _spans(self, frames: int) -> NDArray[np.int64]:
        return (frames - 1) * np.array(self.paces)

    def _draw(self, facts: Facts, keys: Keys, frames: int) -> PairDraws:
        counts = frame_counts(facts)
        pick = self._times if self.sampler == "label_first" else self._released_times
        pace, temporal, starts = pick(counts, keys, frames)
        if self.second == "first":
            starts[:, 1] = starts[:, 0]
        offsets = np.arange(frames)[None, :] * np.array(self.paces)[pace][:, None]
        quarters = keys.integers("turn", 4 if self.turn else 1, 2)
        make = label_first_boxes if self.sampler == "label_first" else released_boxes
        spatial, boxes = make(self, facts, keys, quarters)
        return PairDraws(
            clips=tuple(_taken(facts, counts, starts[:, [k]] + offsets) for k in (0, 1)),
            parameters=tuple(
                {"box": boxes[:, k, None], "turn": quarters[:, k, None]} for k in (0, 1)
            ),
            targets={
                "spatial": spatial,
                "temporal": temporal,
                "pace": pace,
                "rotation": quarters,
            },
        )

    def _times(
        self, counts: NDArray[np.int64], keys: Keys, frames: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Pace, temporal label and both starts: the label first, then a pace that holds it."""
        spans, shifts = self._spans(frames), self.shifts(frames)
        needed = spans[:, None] + shifts + 1
        fits = counts[:, None, None] >= needed
        # Both directions grow in need, so what fits are the first ones. Nothing fits an item that
        # is shorter than a clip: it goes round, and both clips are the same.
        temporal = keys.integers("temporal", np.maximum(fits.any(axis=1).sum(axis=1), 1))
        rows = np.arange(len(counts))
        pace = keys.integers("pace", np.maximum(fits[rows, :, temporal].sum(axis=1), 1))
        room = np.maximum(counts - needed[pace, temporal] + 1, 1)
        first = keys.integers("start", room)
        late = keys.uniform("side") < 0.5  # whether the first clip is the later one
        shift = shifts[pace, temporal]
        starts = np.stack([first + shift * late, first + shift * ~late], axis=1)
        return pace, temporal, starts

    def _released_times(
        self, counts: NDArray[np.int64], keys: Keys, frames: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The same as published: pace and first start, then label and side until it fits."""
        spans, shifts = self._spans(frames), self.shifts(frames)
        able = (counts[:, None] > spans).sum(axis=1)
        pace = keys.integers("pace", np.maximum(able, 1))
        room = np.maximum(counts - spans[pace], 1)
        first = keys.integers("start", room)
        label = keys.integers("temporal", len(self.rates), _ATTEMPTS)
        side = np.where(keys.uniform("side", _ATTEMPTS) < 0.5, -1, 1)
        second = first[:, None] + side * shifts[pace[:, None], label]
        inside = (second >= 0) & (second < room[:, None])
        found = inside.argmax(axis=1)[:, None]
        good = inside.any(axis=1) & (able > 0)
        temporal = np.where(good, np.take_along_axis(label, found, axis=1)[:, 0], 0)
        other = np.where(good, np.take_along_axis(second, found, axis=1)[:, 0], first)
        return pace, temporal, np.stack([first, other], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairDraws:
    """What was drawn for the two clips of ``b`` items.

    Attributes:
        clips: frames of the first and of the second.
        parameters: of each: ``box``, ``int64 [b, 1, 4]`` (top, left, rows, columns), and ``turn``,
            ``int64 [b, 1]`` quarter turns counter-clockwise.
        targets: labels ``spatial``, ``temporal`` and ``pace``, ``int64 [b]``, and ``rotation``,
            ``int64 [b, 2]``.
    """

    clips: tuple[FrameDraws, ...]
    parameters: tuple[Mapping[str, NDArray[Any]], ...]
    targets: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class OverlapPlan(ViewPlan):
    """A view plan of two clips whose frames, boxes and turns are drawn together.

    Its two clips say how many frames they take, and nothing else; each is seen by views through a
    :class:`~rhyme.views.TurnTransform`, one draw a clip.

    Attributes:
        overlap: the joint draw. Its labels are in ``targets``: ``spatial``, ``temporal``, ``pace``
            and ``rotation``.
    """

    overlap: Overlap

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = {self.frames(name) for name in self.clips}
        if len(self.clips) != 2 or len(lengths) != 1:
            raise ConfigError(
                "overlapping clips are two of equal length",
                stage="views",
                value={name: self.frames(name) for name in self.clips},
            )
        for name, spec in self.views.items():
            if not isinstance(spec.transform, TurnTransform) or spec.consistent != "clip":
                raise ConfigError(
                    f"view '{name}' of an overlapping clip needs a TurnTransform, one draw a clip",
                    stage="views",
                    value=type(spec.transform).__name__,
                    remedy='give transform=TurnTransform(...), consistent="clip"',
                )

    def draw(self, facts: Facts, keys: Keys) -> Draws:
        """Draw both clips, their crops and turns together; then what each view draws alone."""
        drawn = super().draw(facts, keys)
        frames = self.frames(next(iter(self.clips)))
        pair = self.overlap.draw(facts, keys.within("overlap"), frames)
        clips = dict(zip(self.clips, pair.clips, strict=True))
        parameters = dict(zip(self.clips, pair.parameters, strict=True))
        views = {
            name: replace(
                draw,
                frames=clips[self.views[name].clip],
                parameters={**draw.parameters, **parameters[self.views[name].clip]},
            )
            for name, draw in drawn.views.items()
        }
        return Draws(clips=clips, views=views, targets={**drawn.targets, **pair.targets})


def _taken(facts: Facts, counts: NDArray[np.int64], index: NDArray[np.int64]) -> FrameDraws:
    """Frames of an item; one that is too short begins again."""
    index = index % counts[:, None]
    return FrameDraws(
        index=index,
        times=frame_times(facts, index),
        valid=np.ones(index.shape, dtype=np.bool_),
        coincides=np.zeros(len(index), dtype=np.bool_),
    )
