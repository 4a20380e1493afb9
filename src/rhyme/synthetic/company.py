"""Several creatures in one video: how many, who they are, and where each has its place."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rhyme.synthetic.draw import COMPANY, VideoSpec, draw_video, generator

__all__ = ["accompany"]

_STREAMS = 4
"""Streams of the first creatures; those of the second follow, and so on."""

_SWAY = 0.2
"""How far a creature may stand beside its place's centre, in halves of the place's side."""


def accompany(first: VideoSpec, creatures: tuple[int, int], *, palette_keep: float) -> VideoSpec:
    """Put further creatures beside the one of a clip.

    The frame is divided into 2 x 2 places for up to four creatures and 3 x 3 for more; each has
    one by itself, drawn without repetition, and is as much smaller. Movements keep their length,
    so now and then one hides a part of another; the first is in front of all.

    Args:
        first: the clip, whose looks, movements, background and sound stay.
        creatures: least and most creatures, the first included.
        palette_keep: PK, of the further ones.

    Returns:
        The clip with its company; a clip of one creature is returned as it is.
    """
    seed, stream, index = first.key
    rng = generator(seed, stream, COMPANY, index)
    count = int(rng.integers(creatures[0], creatures[1] + 1))
    if count == 1:
        return first
    others = [
        draw_video(
            seed, stream + _STREAMS * k, index, frames=first.frames, fps=first.fps,
            palette_keep=palette_keep,
        )
        for k in range(1, count)
    ]  # fmt: skip
    side = math.isqrt(count - 1) + 1
    places = rng.permutation(side * side)[:count]
    sway = rng.uniform(-_SWAY, _SWAY, (count, 2))
    centres = (2 * np.stack([places % side, places // side], 1) + 1 + sway) / side - 1
    placed = [
        replace(spec, radius=spec.radius / side, offset=(x, y))
        for spec, (x, y) in zip([first, *others], centres.tolist(), strict=True)
    ]
    return replace(placed[0], company=tuple(placed[1:]))
