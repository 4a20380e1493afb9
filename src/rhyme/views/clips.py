"""Which frames of an item a clip takes.

A clip is drawn on the nominal frame grid of :mod:`rhyme.views.facts`, for a whole batch in a few
NumPy calls, and each item's frames depend on that item's facts and key alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError
from rhyme.views.facts import Facts, equally_spaced, frame_counts, frame_times
from rhyme.views.keys import Keys

__all__ = ["Clip", "FrameDraws", "draw_clip", "feasible"]

Place = Literal["random", "centre", "uniform", "grid", "sample"]
Short = Literal["repeat", "loop", "pad", "drop"]

_SPACED = ("random", "centre")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A rule for the frames of a clip.

    Attributes:
        frames: number of frames.
        spacing: seconds between neighbouring frames (rounded to the item's frames).
        stride: native frames between neighbouring frames; 1 if neither is given.
        place: ``"random"`` places the clip anywhere inside the item, ``"centre"`` in its middle;
            ``"uniform"`` cuts the item into as many equal segments as frames and takes a random
            frame of each, in order; ``"grid"`` takes equally spaced frames with the first and the
            last; ``"sample"`` draws different frames from anywhere, in random order. The last three
            have no spacing.
        same_as: name of an earlier clip whose frames are taken again; nothing else is given then.
        exclude: name of an earlier clip of one frame that must not be drawn again. One frame at
            ``"random"``, or ``"sample"``. Where the item has no other frame it is drawn all the
            same, and ``FrameDraws.coincides`` says so.
        short: what to do with an item that has too few frames: ``"repeat"`` holds the last one,
            ``"loop"`` begins again, ``"pad"`` gives empty frames marked as not valid, and
            ``"drop"`` leaves the item out of the training set.
    """

    frames: int = 1
    spacing: float | None = None
    stride: int | None = None
    place: Place = "random"
    same_as: str | None = None
    exclude: str | None = None
    short: Short = "repeat"

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError("a clip has at least one frame", value=self.frames)
        if self.spacing is not None and self.stride is not None:
            raise ConfigError("a clip has a spacing or a stride, not both", remedy="drop one")
        for name, value in (("spacing", self.spacing), ("stride", self.stride)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"the {name} of a clip must be above 0", value=value)
            if value is not None and self.place not in _SPACED:
                raise ConfigError(f"a clip placed '{self.place}' has no {name}", value=value)
        if self.exclude is not None and not (
            self.place == "sample" or (self.place == "random" and self.frames == 1)
        ):
            raise ConfigError(
                "only single frames can exclude another clip's frame",
                value=self.exclude,
                remedy='set frames=1 with place="random", or place="sample"',
            )
        others = (self.frames, self.spacing, self.stride, self.place, self.exclude, self.short)
        if self.same_as is not None and others != (1, None, None, "random", None, "repeat"):
            raise ConfigError(
                "a clip that is the same as another has no options of its own",
                value=self.same_as,
                remedy="give same_as alone",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameDraws:
    """The frames drawn for one clip of ``b`` items.

    Attributes:
        index: ``int64 [b, t]`` frame numbers within the item.
        times: ``float64 [b, t]`` seconds in the file, on the nominal grid.
        valid: ``bool [b, t]``; False for frames that only fill up a short item (``"pad"``).
        coincides: ``bool [b]``; True where an excluded frame had to be drawn again.
    """

    index: NDArray[np.int64]
    times: NDArray[np.float64]
    valid: NDArray[np.bool_]
    coincides: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


def draw_clip(
    clip: Clip, facts: Facts, keys: Keys, excluded: NDArray[np.int64] | None = None
) -> FrameDraws:
    """Draw the frames of one clip for every item.

    Args:
        clip: the rule (its ``same_as`` and ``exclude`` are resolved by the plan).
        facts: facts of ``b`` items.
        keys: their keys, within the scope of this clip.
        excluded: ``int64 [b]`` frame of each item that must not be drawn.
    """
    counts = frame_counts(facts)
    coincides = np.zeros(len(counts), dtype=bool)
    if clip.place == "uniform":
        index = _segments(clip, counts, keys)
    elif clip.place == "grid":
        steps = np.arange(clip.frames)[None, :]
        full = equally_spaced(np.maximum(counts, clip.frames), clip.frames)
        index = np.where((counts >= clip.frames)[:, None], full, steps)
    elif clip.place == "sample" or excluded is not None:
        index, coincides = _distinct(clip, counts, keys, excluded)
    else:
        index = _spaced(clip, facts, counts, keys)
    index, valid = _fill(index, counts, clip.short)
    return FrameDraws(
        index=index, times=frame_times(facts, index), valid=valid, coincides=coincides
    )


def feasible(clip: Clip, facts: Facts) -> NDArray[np.bool_]:
    """``bool [b]``: whether the item can be used; False only for short items to be dropped."""
    counts = frame_counts(facts)
    if clip.short != "drop" or clip.same_as is not None:
        return np.ones(len(counts), dtype=bool)
    if clip.place not in _SPACED:
        return counts >= clip.frames
    return counts > _offsets(clip, facts)[:, -1]


def _offsets(clip: Clip, facts: Facts) -> NDArray[np.int64]:
    """``int64 [b, t]`` frame numbers relative to the first frame of the clip."""
    fps = np.asarray(facts.fps, dtype=np.float64)[:, None]
    steps = np.arange(clip.frames)[None, :]
    if clip.spacing is None:
        return np.broadcast_to(steps * (clip.stride or 1), (len(fps), clip.frames))
    return np.floor(steps * clip.spacing * np.maximum(fps, 0.0) + 0.5).astype(np.int64)


def _spaced(clip: Clip, facts: Facts, counts: NDArray[np.int64], keys: Keys) -> NDArray[np.int64]:
    offsets = _offsets(clip, facts)
    room = np.maximum(counts - offsets[:, -1], 1)
    first = keys.integers("start", room) if clip.place == "random" else (room - 1) // 2
    return first[:, None] + offsets


def _segments(clip: Clip, counts: NDArray[np.int64], keys: Keys) -> NDArray[np.int64]:
    steps = np.arange(clip.frames)[None, :]
    position = steps + keys.uniform("segments", clip.frames)
    drawn = np.floor(position * counts[:, None] / clip.frames).astype(np.int64)
    drawn = np.minimum(drawn, counts[:, None] - 1)
    return np.where((counts >= clip.frames)[:, None], drawn, steps)


def _distinct(
    clip: Clip, counts: NDArray[np.int64], keys: Keys, excluded: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Different frames in random order, by drawing among those that are left."""
    taken = np.empty((len(counts), 0), dtype=np.int64)
    coincides = np.zeros(len(counts), dtype=bool)
    if excluded is not None:
        # An item without enough other frames gives up the exclusion before it gives up a frame.
        coincides = counts <= clip.frames
        taken = np.where(coincides, counts, excluded)[:, None]
    skip = taken.shape[1]
    left = counts - (0 if excluded is None else (~coincides).astype(np.int64))
    unit = keys.uniform("sample", clip.frames)
    for step in range(clip.frames):
        room = left - step
        pick = np.floor(unit[:, step] * np.maximum(room, 1)).astype(np.int64)
        for place in np.sort(taken, axis=1).T:
            pick += pick >= place
        pick = np.where(room > 0, pick, step)  # beyond the item: filled up below
        taken = np.concatenate([taken, pick[:, None]], axis=1)
    return taken[:, skip:], coincides


def _fill(
    index: NDArray[np.int64], counts: NDArray[np.int64], short: Short
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Frame numbers inside the item, and which of them are real."""
    last = counts[:, None] - 1
    valid = np.ones(index.shape, dtype=bool)
    if short == "pad":
        valid = index <= last
    if short == "loop":
        return index % counts[:, None], valid
    return np.minimum(index, last), valid
