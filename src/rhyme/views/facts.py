"""What a draw may know of the items: when they run, how many frames they hold, how large they are.

Frames are addressed on a *nominal grid*: an item that starts at ``start`` and holds ``n`` frames at
``fps`` frames a second has its frame ``k`` (0 .. n-1) at ``start + (k + 0.5) / fps``, the middle of
the time for which it is shown. A reader that is asked for that time returns frame ``k``, also where
the file's own time stamps are a little off.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Facts(Protocol):
    """Facts of ``b`` items, one array a column (``rhyme.catalog.ItemFacts`` has them)."""

    @property
    def id(self) -> NDArray[np.uint64]:
        """``uint64 [b]`` stable item ids."""
        ...

    @property
    def start(self) -> NDArray[np.float64]:
        """``float64 [b]`` seconds at which the item starts in its file."""
        ...

    @property
    def stop(self) -> NDArray[np.float64]:
        """``float64 [b]`` seconds at which it ends."""
        ...

    @property
    def fps(self) -> NDArray[np.float64]:
        """``float64 [b]`` nominal frames a second; 0 for a still picture."""
        ...

    @property
    def frames(self) -> NDArray[np.int64]:
        """``int64 [b]`` frames of the item; 0 where unknown."""
        ...

    @property
    def width(self) -> NDArray[np.int64]:
        """``int64 [b]`` display pixels."""
        ...

    @property
    def height(self) -> NDArray[np.int64]:
        """``int64 [b]`` display pixels."""
        ...

    @property
    def group(self) -> NDArray[np.int64]:
        """``int64 [b]`` group code."""
        ...


def frame_counts(facts: Facts) -> NDArray[np.int64]:
    """``int64 [b]`` frames of each item, at least 1; from duration and rate where not counted."""
    fps = np.asarray(facts.fps, dtype=np.float64)
    length = np.asarray(facts.stop, dtype=np.float64) - np.asarray(facts.start, dtype=np.float64)
    nominal = np.nan_to_num(np.rint(length * fps), nan=0.0, posinf=0.0, neginf=0.0)
    counted = np.asarray(facts.frames, dtype=np.int64)
    counts = np.where(counted > 0, counted, nominal.astype(np.int64))
    return np.where(fps > 0, np.maximum(counts, 1), 1)


def frame_times(facts: Facts, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """``float64 [b, t]`` seconds at the middle of frames ``index [b, t]`` on the nominal grid."""
    fps = np.asarray(facts.fps, dtype=np.float64)[:, None]
    start = np.asarray(facts.start, dtype=np.float64)[:, None]
    steps = np.where(fps > 0, index + 0.5, 0.0)
    return start + steps / np.where(fps > 0, fps, 1.0)


def equally_spaced(counts: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """``int64 [b, frames]`` frame numbers equally spaced from the first frame to the last.

    Of 16 frames, four are 0, 5, 10, 15. One frame alone is the middle one; an item with fewer
    frames than asked repeats some.
    """
    last = (np.asarray(counts, dtype=np.int64) - 1)[:, None]
    if frames == 1:
        return last // 2
    position = last * np.arange(frames)[None, :] / (frames - 1)
    return np.floor(position + 0.5).astype(np.int64)


def moments_every(
    length: NDArray[np.float64], every: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Moments of items ``every`` so many seconds, the first after half of that.

    Args:
        length: seconds of each item ``[b]``; one that is shorter has one moment all the same.
        every: seconds.

    Returns:
        The item of each moment, ``int64 [m]``, and its seconds after the item's start, ``[m]``.
    """
    length = np.maximum(np.asarray(length, dtype=np.float64), 0.0)
    counts = np.maximum(np.floor(length / every + 0.5).astype(np.int64), 1)
    rows = np.repeat(np.arange(len(length)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    alone = np.repeat(counts == 1, counts)
    offsets = np.where(alone, np.minimum(length[rows], every) / 2, (number + 0.5) * every)
    return rows, offsets


def clip_times(
    centres: NDArray[np.float64],
    *,
    frames: int,
    spacing: float,
    stride: int,
    fps: NDArray[np.float64],
    start: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """``float64 [b, frames]`` seconds of the frames of clips around moments, inside their items.

    At the ends of an item its first and last frame repeat.

    Args:
        centres: seconds of the middle frame of each clip ``[b]``.
        frames: of a clip.
        spacing: seconds between them; 0 goes by ``stride``.
        stride: native frames between them, at least 1.
        fps: native frames a second of each item ``[b]``; 0 for a still picture.
        start: seconds at which each item starts ``[b]``.
        counts: frames of each item ``[b]``.
    """
    fps = np.asarray(fps, dtype=np.float64)
    rate = np.where(fps > 0, fps, 1.0)
    apart = np.full(len(rate), spacing) if spacing > 0 else max(stride, 1) / rate
    times = centres[:, None] + (np.arange(frames) - frames // 2)[None, :] * apart[:, None]
    first = np.where(fps > 0, start + 0.5 / rate, start)
    last = np.where(fps > 0, start + (counts - 0.5) / rate, start)
    return np.clip(times, first[:, None], last[:, None])
