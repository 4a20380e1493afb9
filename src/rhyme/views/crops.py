"""From frames of any size to square 8-bit crops, and the map back to the frame's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rhyme.views.geometry import crop_resize_map

__all__ = [
    "ATTEMPTS",
    "Frames",
    "Interpolation",
    "box_map",
    "centre_square",
    "cut_boxes",
    "draw_boxes",
    "fit_boxes",
    "frame_sizes",
    "resize_boxes",
    "resized",
    "shorter_side",
    "square_map",
]

Frames = Tensor | Sequence[Tensor]
"""``uint8 [b, t, 3, h, w]``, or for each item ``uint8 [t, 3, h_i, w_i]``."""

Interpolation = Literal["bilinear", "bicubic"]

ATTEMPTS = 10
"""Proposals of a random crop."""


def draw_boxes(
    area: NDArray[np.float64],
    log_ratio: NDArray[np.float64],
    place: NDArray[np.float64],
    width: NDArray[np.int64],
    height: NDArray[np.int64],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Boxes of random area and aspect: the first of ten proposals that fits into the frame.

    Args:
        area: ``[b, t, 10]`` proposed shares of the frame's area.
        log_ratio: ``[b, t, 10]`` proposed logarithms of width / height.
        place: ``[b, t, 2]`` in [0, 1): where the box lies within the room left (y, x).
        width: ``[b]`` columns of the frame.
        height: ``[b]`` rows of the frame.
        ratio: bounds of width / height, for the central box taken when no proposal fits.

    Returns:
        ``int64 [b, t, 4]``: top, left, rows, columns.
    """
    w, h = width[:, None, None].astype(np.float64), height[:, None, None].astype(np.float64)
    target, aspect = area * (w * h), np.exp(log_ratio)
    wide = np.rint(np.sqrt(target * aspect))
    tall = np.rint(np.sqrt(target / aspect))
    fits = (wide >= 1) & (wide <= w) & (tall >= 1) & (tall <= h)
    first = fits.argmax(axis=-1)[..., None]
    wide = np.take_along_axis(wide, first, axis=-1)[..., 0]
    tall = np.take_along_axis(tall, first, axis=-1)[..., 0]
    w, h = w[..., 0], h[..., 0]
    central_wide = np.clip(np.where(w / h > ratio[1], np.rint(h * ratio[1]), w), 1, w)
    central_tall = np.clip(np.where(w / h < ratio[0], np.rint(w / ratio[0]), h), 1, h)
    found = fits.any(axis=-1)
    wide, tall = np.where(found, wide, central_wide), np.where(found, tall, central_tall)
    top = np.where(found, np.floor(place[..., 0] * (h - tall + 1)), np.floor((h - tall) / 2))
    left = np.where(found, np.floor(place[..., 1] * (w - wide + 1)), np.floor((w - wide) / 2))
    return np.stack([top, left, tall, wide], axis=-1).astype(np.int64)


def frame_sizes(frames: Frames) -> NDArray[np.int64]:
    """``int64 [b, 2]`` rows and columns of each item's frames."""
    return np.array([clip.shape[-2:] for clip in frames], dtype=np.int64)


def fit_boxes(
    boxes: NDArray[np.int64], drawn_for: NDArray[np.int64], actual: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Boxes ``[b, t, 4]`` drawn for frames of (rows, columns) ``[b, 2]``, carried to others.

    They are rounded to whole pixels there, so a crop lies at most half a pixel beside its box.
    """
    if np.array_equal(drawn_for, actual):
        return boxes
    limit = actual[:, None]
    scaled = np.rint(boxes * np.tile(actual / drawn_for, 2)[:, None]).astype(np.int64)
    size = np.clip(scaled[..., 2:], 1, limit)
    return np.concatenate([np.clip(scaled[..., :2], 0, limit - size), size], axis=-1)


def box_map(boxes: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Maps ``[..., 2, 3]`` of boxes ``[..., 4]`` scaled to ``side x side``."""
    top, left, tall, wide = (boxes[..., k] for k in range(4))
    return crop_resize_map(top, left, tall, wide, side, side)


def resize_boxes(
    frames: Tensor, boxes: NDArray[np.int64], side: int, interpolation: Interpolation
) -> Tensor:
    """Cut the boxes out of one item's frames and scale them to ``side x side``.

    Args:
        frames: ``uint8 [t, 3, h, w]``.
        boxes: ``int64 [1 or t, 4]``; one box serves all frames.
        side: side of the crops.
        interpolation: with antialiasing in either case.

    Returns:
        ``uint8 [t, 3, side, side]``.
    """
    if len(boxes) == 1:
        top, left, tall, wide = (int(v) for v in boxes[0])
        return resized(frames[..., top : top + tall, left : left + wide], side, side, interpolation)
    single = [
        resize_boxes(frames[k : k + 1], boxes[k : k + 1], side, interpolation)
        for k in range(len(boxes))
    ]
    return torch.cat(single)


def cut_boxes(frames: Tensor, corners: NDArray[np.int64], side: int) -> Tensor:
    """Cut squares out of one item's frames as they are.

    Args:
        frames: ``uint8 [t, 3, h, w]``.
        corners: ``int64 [1 or t, 2]`` top and left; one serves all frames.
        side: side of the squares.

    Returns:
        ``uint8 [t, 3, side, side]``.
    """
    if len(corners) == 1:
        top, left = corners[0].tolist()
        return frames[..., top : top + side, left : left + side]
    return torch.cat(
        [cut_boxes(frames[k : k + 1], corners[k : k + 1], side) for k in range(len(corners))]
    )


def resized(frames: Tensor, rows: int, columns: int, interpolation: Interpolation) -> Tensor:
    """``uint8 [t, 3, h, w]`` scaled to ``rows x columns`` with antialiasing; 8-bit arithmetic."""
    if frames.shape[-2:] == (rows, columns):
        return frames
    # Frames of videos keep a pixel's values together, which is fast here and slow afterwards.
    return functional.interpolate(
        frames, size=(rows, columns), mode=interpolation, align_corners=False, antialias=True
    ).contiguous()


def shorter_side(
    rows: int, columns: int, side: int, aspect: float | None = None
) -> tuple[int, int]:
    """Rows and columns after scaling the shorter side to ``side``.

    Args:
        rows: of the frame.
        columns: of the frame.
        side: length of the shorter side afterwards.
        aspect: columns by rows afterwards, whatever they are; None keeps the frame's.
    """
    if aspect is not None:
        return (side, round(side * aspect)) if aspect >= 1 else (round(side / aspect), side)
    if rows <= columns:
        return side, max(side, int(side * columns / rows))
    return max(side, int(side * rows / columns)), side


def centre_square(
    frames: Tensor,
    resize: int,
    side: int,
    interpolation: Interpolation,
    display: tuple[int, int] | None = None,
    aspect: float | None = None,
) -> tuple[Tensor, NDArray[np.float64]]:
    """Scale the shorter side to ``resize``, then cut the central square of ``side``.

    Args:
        frames: ``uint8 [t, 3, h, w]``.
        resize: shorter side after scaling, at least ``side``.
        side: side of the square.
        interpolation: with antialiasing in either case.
        display: rows and columns of the original, where the frames are a smaller copy of it; the
            cut is the one that would be made there.
        aspect: columns by rows that the frames are scaled to before the cut; None keeps theirs.

    Returns:
        ``uint8 [t, 3, side, side]`` and the map ``float64 [2, 3]`` from its pixels to the frame's,
        or to the original's.
    """
    size = display or (int(frames.shape[-2]), int(frames.shape[-1]))
    tall, wide = shorter_side(*size, resize, aspect)
    small = resized(frames, tall, wide, interpolation)
    top, left = (tall - side) // 2, (wide - side) // 2
    cut = small[..., top : top + side, left : left + side]
    return cut, square_map(size, (tall, wide), side)


def square_map(size: tuple[int, int], scaled: tuple[int, int], side: int) -> NDArray[np.float64]:
    """The map of the central square of ``side``, cut from a frame of ``size`` after scaling."""
    (rows, columns), (tall, wide) = size, scaled
    top, left = (tall - side) // 2, (wide - side) // 2
    y, x = rows / tall, columns / wide
    return crop_resize_map(top * y, left * x, side * y, side * x, side, side)
