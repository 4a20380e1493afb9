"""What all transforms share, and the one without randomness.

A transform is a frozen configuration that draws its parameters and applies them.

Drawing and applying are two steps. ``draw`` makes the parameters of a whole batch from the items'
keys, as NumPy arrays ``[b, t, ...]`` (or ``[b, 1, ...]``, one draw for all frames of a clip);
``apply`` is a deterministic function of 8-bit frames and parameters and returns float pixels with
the map from view pixels to frame pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError
from rhyme.transfer import sent
from rhyme.views.crops import Frames, Interpolation, centre_square
from rhyme.views.keys import Keys

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "EvalTransform", "Parameters"]

Parameters = Mapping[str, NDArray[Any]]
"""Drawn parameters by name, each ``[b, t, ...]`` or ``[b, 1, ...]``."""

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

CHUNK = 2**18  # elements worked on at a time: small enough to stay in the cache


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """No randomness: scale the shorter side, cut the central square, normalise.

    Attributes:
        size: side of the square in pixels.
        resize: shorter side before the cut; None is ``size`` (nothing is cut from the short side).
        interpolation: of the resize, which is antialiased.
        mean: mean a channel, on the [0, 1] scale.
        std: standard deviation a channel, on the [0, 1] scale.
        aspect: width by height that every frame is scaled to before the cut, whatever its own;
            None keeps its own.
    """

    size: int = 224
    resize: int | None = 256
    interpolation: Interpolation = "bilinear"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    aspect: float | None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        check_std(self.std)
        if self.resize is not None and self.resize < self.size:
            raise ConfigError(
                "the resized side is smaller than the crop",
                value=self.resize,
                remedy=f"give resize >= {self.size}",
            )

    def draw(
        self, keys: Keys, frames: int, width: NDArray[np.int64], height: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Nothing is drawn."""
        return {}

    def apply(
        self, frames: Frames, draw: Parameters, sizes: NDArray[np.int64]
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """Views ``float32 [b, t, 3, size, size]`` and maps ``float64 [b, t, 2, 3]``.

        Args:
            frames: 8-bit frames.
            draw: empty.
            sizes: ``int64 [b, 2]`` rows and columns of the originals, where frames may be smaller
                copies; maps lead to their pixels. ``[0, 2]`` where frames are the originals.
        """
        b, t = len(frames), frames[0].shape[0]
        levels = torch.empty(b, t, 3, self.size, self.size)
        maps = np.empty((b, t, 2, 3))
        for i in range(b):
            crop, maps[i] = centre_square(
                frames[i],
                self.resize or self.size,
                self.size,
                self.interpolation,
                display_of(sizes, i),
                self.aspect,
            )
            levels[i] = crop
        flat = levels.flatten(0, 1)
        for rows in chunks(len(flat), flat[0].numel()):
            flat[rows] = normalise(flat[rows], self.mean, self.std)
        return levels, maps


def display_of(sizes: NDArray[np.int64], item: int) -> tuple[int, int] | None:
    """Rows and columns of an item's original from ``sizes [b, 2]``; None where there are none."""
    return (int(sizes[item, 0]), int(sizes[item, 1])) if len(sizes) else None


@lru_cache(maxsize=64)
def _affine(mean: Triple, std: Triple, device: torch.device) -> tuple[Tensor, Tensor]:
    scale = torch.tensor([1.0 / (255.0 * s) for s in std]).reshape(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).reshape(3, 1, 1)
    return scale.to(device), shift.to(device)


def normalise(levels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """``(levels / 255 - mean) / std`` a channel, in place."""
    scale, shift = _affine(mean, std, levels.device)
    return levels.mul_(scale).add_(shift)


def on_rows(levels: Tensor, rows: NDArray[np.bool_], operation: Any) -> Tensor:
    """Apply ``operation(levels, row numbers)`` to the rows that are marked; may work in place."""
    found = np.flatnonzero(rows)
    if not len(found):
        return levels
    numbers = sent(torch.from_numpy(found), levels.device)
    if len(found) == len(levels):
        return operation(levels, numbers)
    return levels.index_copy_(0, numbers, operation(levels.index_select(0, numbers), numbers))


def chunks(rows: int, elements: int, limit: int = CHUNK, *, together: int = 1) -> Iterator[slice]:
    """Slices of rows of ``elements`` each that stay in the processor's cache, or under a limit.

    Args:
        rows: how many there are.
        elements: of each row.
        limit: elements of a slice; one row is taken in any case.
        together: rows of one clip. Where a slice cannot hold a clip, none holds parts of two: what
            is drawn once a clip is then the same in all its rows.
    """
    step = max(1, limit // elements)
    span = together if step < together else rows
    for start in range(0, rows, span):
        for first in range(start, min(start + span, rows), step):
            yield slice(first, min(first + step, start + span, rows))


def per_row(values: NDArray[Any], b: int, t: int) -> NDArray[Any]:
    """``[b, 1 or t, ...]`` as ``[b * t, ...]``, contiguous."""
    if values.shape[1] != t:
        values = np.repeat(values, t, axis=1)
    return values.reshape(b * t, *values.shape[2:])


def check_size(size: int) -> None:
    """Refuse a side below one pixel."""
    if size < 1:
        raise ConfigError("the size of a view must be at least 1 pixel", value=size)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside [low, high], NaN included."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie between {low:g} and {high:g}", value=value)


def check_bounds(name: str, bounds: tuple[float, float], high: float = float("inf")) -> None:
    """Refuse bounds that are not ordered, not above 0, or above ``high``."""
    if not 0 < bounds[0] <= bounds[1] <= high:
        raise ConfigError(f"{name} must be two ordered numbers above 0", value=bounds)


def check_std(std: Triple) -> None:
    """Refuse a standard deviation of 0 or less."""
    if not all(s > 0 for s in std):
        raise ConfigError("every std must be above 0", value=std)
