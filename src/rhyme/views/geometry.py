"""Maps between pixel grids: one convention, one place.

A map is a ``[..., 2, 3]`` array that takes a point ``(x, y)`` of one picture to a point of another:
``m[..., :2] @ (x, y) + m[..., 2]``. Pixel *centres* lie at whole numbers, so the picture itself
reaches from -0.5 to width - 0.5. All maps of a view lead from view pixels to source pixels, which
is the way in which a view is filled.

The functions take NumPy arrays and torch tensors alike and return what they were given.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Array = TypeVar("Array", NDArray[Any], Tensor)


def identity(*shape: int) -> NDArray[np.float64]:
    """``float64 [*shape, 2, 3]`` maps that leave every point where it is."""
    return np.tile(np.eye(2, 3), (*shape, 1, 1))


def crop_resize_map(
    top: ArrayLike,
    left: ArrayLike,
    height: ArrayLike,
    width: ArrayLike,
    out_height: ArrayLike,
    out_width: ArrayLike,
) -> NDArray[np.float64]:
    """The map of a crop that is scaled to ``out_height x out_width``.

    Args:
        top: first row of the crop, in source pixels; all arguments broadcast to ``[...]``.
        left: first column of the crop.
        height: rows of the crop.
        width: columns of the crop.
        out_height: rows of the view.
        out_width: columns of the view.

    Returns:
        ``float64 [..., 2, 3]``.
    """
    y0, x0, h, w, oh, ow = np.broadcast_arrays(
        *(
            np.asarray(v, dtype=np.float64)
            for v in (top, left, height, width, out_height, out_width)
        )
    )
    out = np.zeros((*y0.shape, 2, 3))
    out[..., 0, 0] = w / ow
    out[..., 1, 1] = h / oh
    out[..., 0, 2] = x0 + 0.5 * w / ow - 0.5
    out[..., 1, 2] = y0 + 0.5 * h / oh - 0.5
    return out


def flip_map(flip: ArrayLike, width: ArrayLike) -> NDArray[np.float64]:
    """The map of a view of ``width`` columns that is mirrored left to right where ``flip`` is true.

    Returns:
        ``float64 [..., 2, 3]``, the identity where ``flip`` is false.
    """
    mirrored, columns = np.broadcast_arrays(np.asarray(flip, dtype=bool), np.asarray(width))
    out = identity(*mirrored.shape)
    out[..., 0, 0] = np.where(mirrored, -1.0, 1.0)
    out[..., 0, 2] = np.where(mirrored, columns - 1.0, 0.0)
    return out


def compose(outer: Array, inner: Array) -> Array:
    """The map that applies ``inner`` first and ``outer`` after it."""
    linear = outer[..., :2] @ inner[..., :2]
    offset = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return _join(linear, offset)


def invert(map_: Array) -> Array:
    """The map back. A map without inverse (zero area) gives infinite or NaN entries."""
    a, b = map_[..., 0, 0], map_[..., 0, 1]
    c, d = map_[..., 1, 0], map_[..., 1, 1]
    rows = (_stack(d, -b), _stack(-c, a))
    linear = _stack(*rows, axis=-2) / (a * d - b * c)[..., None, None]
    return _join(linear, -(linear @ map_[..., 2:]))


def apply_points(map_: Array, points: Array) -> Array:
    """Points ``[..., k, 2]`` (x, y) carried by maps ``[..., 2, 3]``."""
    transposed = map_[..., :2].swapaxes(-1, -2)
    return points @ transposed + map_[..., None, :, 2]


def _join(linear: Any, offset: Any) -> Any:
    if isinstance(linear, Tensor):
        return torch.cat([linear, offset], dim=-1)
    return np.concatenate([linear, offset], axis=-1)


def _stack(*parts: Any, axis: int = -1) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.stack(parts, dim=axis)
    return np.stack(parts, axis=axis)
