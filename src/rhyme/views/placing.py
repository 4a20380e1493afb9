"""Which frames of an item a clip takes.

A clip is drawn on the nominal frame grid of :mod:`rhyme.views.facts`, for a whole batch in a few
NumPy calls, and each item's frames depend on that item's facts and key alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rhyme.views.clips import SPACED, Clip, FrameDraws, Short
from rhyme.views.facts import Facts, equally_spaced, frame_counts, frame_times
from rhyme.views.keys import Keys

__all__ = ["draw_clip", "feasible"]


def draw_clip(
    clip: Clip,
    facts: Facts,
    keys: Keys,
    excluded: NDArray[np.int64] | None = None,
    *,
    backwards: NDArray[np.bool_] | None = None,
    parts: int = 1,
) -> FrameDraws:
    """Draw the frames of one clip for every item.

    Args:
        clip: the rule (what it says of other clips is resolved by the plan).
        facts: facts of ``b`` items.
        keys: their keys, within the scope of this clip.
        excluded: ``int64 [b]`` frame of each item that must not be drawn.
        backwards: ``bool [b]`` items whose clip runs backwards.
        parts: take so many times as many frames, closer by this factor. The clip itself is every
            ``parts``-th of them; so other clips can be parts of it.
    """
    counts = frame_counts(facts)
    coincides = np.zeros(len(counts), dtype=bool)
    targets: dict[str, NDArray[np.int64]] = {}
    if clip.place == "uniform":
        index = _segments(clip, counts, keys)
    elif clip.place == "grid":
        steps = np.arange(clip.frames)[None, :]
        full = equally_spaced(np.maximum(counts, clip.frames), clip.frames)
        index = np.where((counts >= clip.frames)[:, None], full, steps)
    elif clip.place == "sample" or excluded is not None:
        index, coincides = _distinct(clip, counts, keys, excluded)
    else:
        stride = _strides(clip, counts, keys, parts)
        index = _spaced(clip, _offsets(clip, facts, stride, parts), counts, keys, parts)
        if clip.strides is not None:
            targets["stride"] = stride
    index, valid = _fill(index, counts, clip.short)
    if backwards is not None:
        index, valid = (np.where(backwards[:, None], x[:, ::-1], x) for x in (index, valid))
    times = frame_times(facts, index)
    return FrameDraws(index=index, times=times, valid=valid, coincides=coincides, targets=targets)


def feasible(clip: Clip, facts: Facts, parts: int = 1) -> NDArray[np.bool_]:
    """``bool [b]``: whether the item can be used; False only for short items to be dropped."""
    counts = frame_counts(facts)
    if clip.short != "drop" or clip.takes is not None:
        return counts >= clip.least
    if clip.place not in SPACED:
        return counts >= clip.frames
    slowest = np.full(len(counts), clip.strides[0] if clip.strides else clip.stride or 1)
    return counts > _offsets(clip, facts, slowest, parts)[:, -1]


def _strides(clip: Clip, counts: NDArray[np.int64], keys: Keys, parts: int) -> NDArray[np.int64]:
    """``int64 [b]`` native frames between two of the clip; not used by a clip with a spacing."""
    if clip.strides is None:
        return np.full(len(counts), clip.stride or 1, dtype=np.int64)
    known = np.array(clip.strides, dtype=np.int64)
    last = (clip.frames * parts - 1) * known // parts
    fitting = (last[None, :] < counts[:, None]).sum(axis=1)
    return known[keys.integers("stride", np.maximum(fitting, 1))]


def _offsets(clip: Clip, facts: Facts, stride: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """``int64 [b, parts * t]`` frame numbers relative to the first frame of the clip."""
    steps = np.arange(clip.frames * parts)[None, :]
    if clip.spacing is None:
        return steps * stride[:, None] // parts
    fps = np.maximum(np.asarray(facts.fps, dtype=np.float64), 0.0)[:, None]
    return np.floor(steps / parts * clip.spacing * fps + 0.5).astype(np.int64)


def _spaced(
    clip: Clip, offsets: NDArray[np.int64], counts: NDArray[np.int64], keys: Keys, parts: int
) -> NDArray[np.int64]:
    if clip.place == "edges":
        middle = offsets[:, clip.frames // 2 * parts]
        return (keys.integers("middle", counts) - middle)[:, None] + offsets
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
    inside = np.clip(index, 0, last)
    valid = inside == index if short == "pad" else np.ones(index.shape, dtype=bool)
    return (index % counts[:, None] if short == "loop" else inside), valid
