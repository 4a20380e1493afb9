"""Frames -> data URIs, small enough that a whole page of them can be sent by mail."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rhyme.report.data import Frame


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How frames are stored in the page.

    Attributes:
        side: longest side in pixels; larger frames are scaled down.
        level: WebP quality in [1, 100].
    """

    side: int
    level: int


# Tried in this order until the page is small enough.
QUALITIES = (Quality(side=288, level=82), Quality(side=208, level=74), Quality(side=128, level=60))


def data_uri(frame: Frame, quality: Quality) -> tuple[str, int, int] | None:
    """A frame's picture as (data URI, width, height); None when it has no pixels.

    Args:
        frame: pixels uint8 ``[h, w, 3]``.
        quality: size and compression.
    """
    if frame.pixels is None:
        return None
    from PIL import Image

    picture = Image.fromarray(frame.pixels)
    longest = max(picture.size)
    if longest > quality.side:
        scale = quality.side / longest
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Compression blocks show on tiny pictures, which cost little without loss.
    lossless = longest <= 48
    picture.save(stream, "WEBP", quality=quality.level, method=4, lossless=lossless)
    code = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{code}", *picture.size


def common_aspect(frames: Sequence[Frame]) -> float:
    """Width by height of the box that all frames are fitted into: their median, in [0.6, 1.8]."""
    ratios = [f.pixels.shape[1] / f.pixels.shape[0] for f in frames if f.pixels is not None]
    return min(1.8, max(0.6, statistics.median(ratios))) if ratios else 4 / 3
