"""Crops of a whole batch scaled with antialiasing in a few operations, on any device.

Each row has its own box, and the same filters as :func:`rhyme.views.crops.resized`: a triangle or a
cubic, widened by the scale, first along rows of pixels, then along columns, whole levels after
each. Weights are whole numbers and levels are 8-bit, so every partial sum is a whole number that
float32 holds exactly, and all devices agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.transfer import sent
from rhyme.views.crops import Interpolation

__all__ = ["Axis", "resample", "upload"]

_BITS = 14  # weights are counted in 2**-14, and as torch does finer where a row's are all small,
_FINER = {"bilinear": 2, "bicubic": 1}  # by so many bits, so that sums stay below 2**24
_FULL = 255.0
_REACH = {"bilinear": 1.0, "bicubic": 2.0}
_CUBIC = -0.5  # the coefficient of antialiased cubics


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """What is taken along one axis, for each of the rows of a batch.

    Attributes:
        start: ``int64 [rows]`` first pixel of the box.
        extent: ``int64 [rows]`` pixels of the box.
        full: ``int64 [rows]`` pixels that the box is scaled to.
        first: ``int64 [rows]`` the first of them that is kept.
        flip: ``bool [rows]`` whether those kept are mirrored.
    """

    start: NDArray[np.int64]
    extent: NDArray[np.int64]
    full: NDArray[np.int64]
    first: NDArray[np.int64]
    flip: NDArray[np.bool_]

    def part(self, rows: slice) -> Axis:
        """The axis of some of the rows."""
        return Axis(
            start=self.start[rows],
            extent=self.extent[rows],
            full=self.full[rows],
            first=self.first[rows],
            flip=self.flip[rows],
        )


def upload(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """A small array on the device, without waiting for it."""
    return sent(torch.from_numpy(np.ascontiguousarray(values)), device)


def resample(
    frames: Tensor, rows: Axis, columns: Axis, side: int, interpolation: Interpolation
) -> Tensor:
    """Cut one box out of each frame and scale it.

    Args:
        frames: ``uint8 [m, 3, h, w]`` on any device.
        rows: boxes from top to bottom.
        columns: boxes from left to right.
        side: pixels that are kept along both axes.
        interpolation: with antialiasing in either case.

    Returns:
        ``float32 [m, 3, side, side]``, whole levels 0 .. 255.
    """
    wide = _along(frames, columns, side, interpolation, dim=3)
    return _along(wide, rows, side, interpolation, dim=2)


def _along(levels: Tensor, axis: Axis, side: int, interpolation: Interpolation, dim: int) -> Tensor:
    if (axis.extent == axis.full).all():  # only cut and mirrored
        index, _, _ = _taps(axis, side, "bilinear", 1, levels.device)
        return _pick(levels, index[:, 0], dim).float()
    scale = np.maximum(axis.extent / axis.full, 1.0)
    count = int(np.ceil(2 * _REACH[interpolation] * scale.max()))
    index, weights, unit = _taps(axis, side, interpolation, count, levels.device)
    shape = (-1, 1, 1, side) if dim == 3 else (-1, 1, side, 1)
    total = _pick(levels, index[:, 0], dim) * weights[:, 0].reshape(shape)
    for k in range(1, count):
        total += _pick(levels, index[:, k], dim) * weights[:, k].reshape(shape)
    return total.mul_(unit.reshape(-1, 1, 1, 1)).add_(0.5).floor_().clamp_(0.0, _FULL)


def _pick(levels: Tensor, index: Tensor, dim: int) -> Tensor:
    """Pixels ``[m, 3, ...]`` at ``index [m, side]`` along one dimension."""
    m, side = index.shape
    if dim == 3:
        return levels.gather(3, index.reshape(m, 1, 1, side).expand(m, 3, levels.shape[2], side))
    return levels.gather(2, index.reshape(m, 1, side, 1).expand(m, 3, side, levels.shape[3]))


def _taps(
    axis: Axis, side: int, interpolation: Interpolation, count: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels ``int64 [m, count, side]``, whole-number weights of them, and their unit ``[m]``."""
    table = np.stack([axis.start, axis.extent, axis.full, axis.first, axis.flip])
    numbers = upload(table.astype(np.float64), device)
    start, extent, full, first, flip = (v.reshape(-1, 1, 1) for v in numbers)
    steps = torch.arange(side, device=device, dtype=torch.float64)
    place = first + torch.where(flip > 0, side - 1 - steps, steps)
    # The heaviest weight of all decides on the unit; where not all is kept, it is at an end.
    place = torch.cat([place, torch.zeros_like(full), full - 1.0], dim=2)
    scale = extent / full
    stretch = scale.clamp(min=1.0)
    centre = scale * (place + 0.5)
    reach = stretch * _REACH[interpolation]
    low = (centre - reach + 0.5).floor().clamp_(min=0.0)
    high = torch.minimum((centre + reach + 0.5).floor(), extent)
    pixel = low + torch.arange(count, device=device, dtype=torch.float64)[:, None]
    share = _filter((pixel - centre + 0.5) / stretch, interpolation)
    share = torch.where(pixel < high, share, 0.0)
    share = share / share.sum(dim=1, keepdim=True)
    peak = share.amax(dim=(1, 2), keepdim=True)
    unit = torch.full_like(peak, 2.0**_BITS)
    for finer in range(1, _FINER[interpolation] + 1):
        unit = torch.where(peak * 2.0 ** (_BITS + finer) + 0.5 < 2.0**15, 2.0 * unit, unit)
    index = (start + torch.minimum(pixel, extent - 1.0)).long()
    weights = (share * unit).round_().float()
    return index[..., :side], weights[..., :side], unit.reciprocal().float()


def _filter(distance: Tensor, interpolation: Interpolation) -> Tensor:
    x = distance.abs()
    if interpolation == "bilinear":
        return (1.0 - x).clamp_(min=0.0)
    near = ((_CUBIC + 2.0) * x - (_CUBIC + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * _CUBIC
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
