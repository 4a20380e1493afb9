"""Gaussian blur of rows of pictures, each row with its own width.

Two passes over whole-number levels with whole-number weights: every partial sum is a whole number
that float32 holds exactly, so slices that are added up, a matrix product and any device give the
same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rhyme.transfer import sent

__all__ = ["Blur", "blur", "blur_batch", "gaussian_taps"]

Blur = Callable[[Tensor, NDArray[np.float64], NDArray[np.int64]], Tensor]
"""Levels, standard deviations and radii to blurred levels."""

_TAPS = 2**14  # weights add up to this
_QUARTERS = 4.0  # sub-levels kept between the two passes: 255 * 4 * 2**14 < 2**24
_SMALL = 64  # side up to which a matrix product is faster than slices


def gaussian_taps(sigma: NDArray[np.float64], radius: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole-number weights of Gaussians, from the centre outwards; each row makes up 2**14.

    Args:
        sigma: ``[m]`` standard deviations in pixels, above 0.
        radius: ``[m]`` pixels on each side; weights further out are left away.

    Returns:
        ``int64 [m, reach + 1]``, padded by zeros; the last column is not all zero.
    """
    steps = np.arange(int(radius.max()) + 1)
    weights = np.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    weights[steps > radius[:, None]] = 0.0
    total = weights[:, 0].copy()
    for k in steps[1:]:  # one after another, so that a row's sum does not depend on the others
        total += 2.0 * weights[:, k]
    taps = np.rint(weights / total[:, None] * _TAPS).astype(np.int64)
    taps[:, 0] = _TAPS - 2 * taps[:, 1:].sum(axis=1)
    used = np.flatnonzero(taps.any(axis=0))
    return taps[:, : used[-1] + 1]


def blur(levels: Tensor, sigma: NDArray[np.float64], radius: NDArray[np.int64]) -> Tensor:
    """Gaussian blur on the CPU, levels first rounded to whole numbers.

    Args:
        levels: ``float32 [m, c, h, w]``.
        sigma: ``[m]`` standard deviations in pixels.
        radius: ``[m]`` half widths of the kernels in pixels; borders are mirrored.
    """
    if max(levels.shape[-2:]) <= _SMALL:
        return _by_product(levels, gaussian_taps(sigma, radius))
    out = torch.empty_like(levels)
    # Frames of a clip have one kernel, which then is a number in each operation and no tensor.
    alike = (sigma[1:] == sigma[:-1]) & (radius[1:] == radius[:-1])
    ends = [*(np.flatnonzero(~alike) + 1).tolist(), len(levels)]
    for first, last in zip([0, *ends], ends, strict=False):
        taps = gaussian_taps(sigma[first : first + 1], radius[first : first + 1])[0]
        out[first:last] = _twice(levels[first:last], [float(w) for w in taps])
    return out


def blur_batch(levels: Tensor, sigma: NDArray[np.float64], radius: NDArray[np.int64]) -> Tensor:
    """:func:`blur` in as many operations as the widest kernel needs, on any device."""
    taps = sent(torch.from_numpy(gaussian_taps(sigma, radius).astype(np.float32)), levels.device)
    return _twice(levels, list(taps.reshape(*taps.shape, 1, 1, 1).unbind(1)))


def _twice(levels: Tensor, taps: list[float] | list[Tensor]) -> Tensor:
    tall = _smooth(levels.round(), taps[: levels.shape[-2]], dim=-2)
    tall.mul_(_QUARTERS / _TAPS).round_()
    return _smooth(tall, taps[: levels.shape[-1]], dim=-1).mul_(1.0 / (_QUARTERS * _TAPS))


def _smooth(levels: Tensor, taps: list[float] | list[Tensor], dim: int) -> Tensor:
    """The sum of shifted slices times whole-number weights along one dimension."""
    size, reach = levels.shape[dim], len(taps) - 1
    centre = _TAPS - 2.0 * sum(taps[1:])  # what lies beyond the picture, too
    total = levels * centre
    if reach == 0:
        return total
    pad = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
    padded = functional.pad(levels, pad, mode="reflect")
    for step, weight in enumerate(taps[1:], start=1):
        for shift in (reach - step, reach + step):
            part = padded.narrow(dim, shift, size)
            if isinstance(weight, Tensor):
                total.addcmul_(part, weight)
            else:
                total.add_(part, alpha=weight)
    return total


def _by_product(levels: Tensor, taps: NDArray[np.int64]) -> Tensor:
    """Both passes as products with band matrices; NumPy's never lower the precision."""
    height, width = levels.shape[-2:]
    down = _bands(taps[:, :height], height)
    across = down if width == height else _bands(taps[:, :width], width)
    tall = np.matmul(down[:, None], levels.round().numpy())
    tall *= np.float32(_QUARTERS / _TAPS)
    np.rint(tall, out=tall)
    wide = np.matmul(tall, across.transpose(0, 2, 1)[:, None])
    wide *= np.float32(1.0 / (_QUARTERS * _TAPS))
    return torch.from_numpy(wide)


def _bands(taps: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """``float32 [m, size, size]``: row i holds the weights of what pixel i is made of."""
    bands = np.zeros((len(taps), size, size), dtype=np.float32)
    here = np.arange(size)
    bands[:, here, here] = (_TAPS - 2 * taps[:, 1:].sum(axis=1))[:, None]
    for step in range(1, taps.shape[1]):
        for there in (np.abs(here - step), size - 1 - np.abs(size - 1 - here - step)):
            bands[:, here, there] += taps[:, step, None]
    return bands
