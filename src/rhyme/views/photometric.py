"""Colour and sharpness operations on rows of pictures, each row with its own parameters.

Pictures are ``float32 [m, 3, h, w]`` on the scale of 8-bit levels, 0 .. 255, RGB; parameters are
``float32 [m]``. Results agree with torchvision's ``transforms.v2.functional`` on 8-bit pictures to
about one level.

They are the same bits for any number of threads and any grouping of the rows: an operation is
either a chain of correctly rounded elementwise steps (no fused ones, whose vector and scalar forms
differ), or a sum whose every partial sum is a whole number that float32 holds exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "add_brightness",
    "blur",
    "brightness",
    "contrast",
    "gaussian_taps",
    "grayscale",
    "hue",
    "luma",
    "saturation",
    "solarize",
]

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision has them
_FULL = 255.0
_TAPS = 2**14  # whole-number weights of the blur add up to this
_QUARTERS = 4.0  # sub-levels kept between the two passes of the blur: 255 * 4 * 2**14 < 2**24


def luma(levels: Tensor) -> Tensor:
    """Brightness of each pixel, ``[m, 1, h, w]``, not rounded."""
    gray = levels[:, 0:1] * _LUMA[0]
    gray += levels[:, 1:2] * _LUMA[1]
    gray += levels[:, 2:3] * _LUMA[2]
    return gray


def brightness(levels: Tensor, factor: Tensor) -> Tensor:
    """Every level times the row's factor."""
    return (levels * _rows(factor)).clamp_(0.0, _FULL)


def add_brightness(levels: Tensor, delta: Tensor) -> Tensor:
    """Every level plus the row's ``delta``, which is a share of the full range."""
    return (levels + _rows(delta * _FULL)).clamp_(0.0, _FULL)


def contrast(levels: Tensor, factor: Tensor) -> Tensor:
    """Distance of every level from the picture's mean luma times the row's factor."""
    gray = luma(levels).round_()
    # Whole numbers below 2**53 add up exactly in any order.
    mean = gray.sum(dim=(1, 2, 3), dtype=torch.float64) / gray[0].numel()
    offset = mean.float() * (1.0 - factor)
    return (levels * _rows(factor)).add_(_rows(offset)).clamp_(0.0, _FULL)


def saturation(levels: Tensor, factor: Tensor) -> Tensor:
    """Distance of every level from its pixel's luma times the row's factor."""
    gray = luma(levels).mul_(_rows(1.0 - factor))
    return (levels * _rows(factor)).add_(gray).clamp_(0.0, _FULL)


def hue(levels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by the row's ``shift`` in turns (-0.5 .. 0.5), value and saturation kept."""
    red, green, blue = levels.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    bottom = torch.minimum(torch.minimum(red, green), blue)
    chroma = top - bottom
    safe = chroma.clamp(min=1e-6)
    # Position on the hexagon, 0 .. 6: red 0, green 2, blue 4.
    angle = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    angle += (shift * 6.0).reshape(-1, 1, 1)
    angle -= (angle / 6.0).floor_() * 6.0
    out = torch.empty_like(levels)
    shares = (
        (angle - 3.0).abs_().sub_(1.0),
        2.0 - (angle - 2.0).abs_(),
        2.0 - (angle - 4.0).abs_(),
    )
    for channel, share in enumerate(shares):
        torch.mul(share.clamp_(0.0, 1.0), chroma, out=out[:, channel])
        out[:, channel] += bottom
    return out


def grayscale(levels: Tensor) -> Tensor:
    """The luma in all three channels."""
    return luma(levels).expand(-1, 3, -1, -1).contiguous()


def solarize(levels: Tensor, threshold: float) -> Tensor:
    """Invert the levels at or above ``threshold``."""
    return torch.where(levels >= threshold, _FULL - levels, levels)


def gaussian_taps(sigma: float, radius: int) -> list[int]:
    """Whole-number weights of a Gaussian, from the centre outwards, that add up to 2**14.

    Args:
        sigma: standard deviation in pixels, above 0.
        radius: pixels on each side; weights further out are left away.
    """
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights /= weights[0] + 2.0 * weights[1:].sum()
    side = np.rint(weights[1:] * _TAPS).astype(int).tolist()
    while side and side[-1] == 0:
        side.pop()
    return [_TAPS - 2 * sum(side), *side]


def blur(levels: Tensor, sigma: float, radius: int) -> Tensor:
    """Gaussian blur of the rows with one ``sigma``, levels first rounded to whole numbers.

    Args:
        levels: ``[m, c, h, w]``.
        sigma: standard deviation in pixels.
        radius: half width of the kernel in pixels; borders are mirrored.
    """
    height, width = levels.shape[-2:]
    taps = gaussian_taps(sigma, radius)
    tall = _smooth(levels.round(), taps[:height], dim=-2)
    tall.mul_(_QUARTERS / _TAPS).round_()
    return _smooth(tall, taps[:width], dim=-1).mul_(1.0 / (_QUARTERS * _TAPS))


def _smooth(levels: Tensor, taps: list[int], dim: int) -> Tensor:
    """The sum of shifted slices times whole-number weights along one dimension."""
    size, reach = levels.shape[dim], len(taps) - 1
    if reach == 0:
        return levels * float(_TAPS)
    pad = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
    padded = functional.pad(levels, pad, mode="reflect")
    total = levels * float(_TAPS - 2 * sum(taps[1:]))  # what lies beyond the picture, too
    for step, weight in enumerate(taps[1:], start=1):
        total.add_(padded.narrow(dim, reach - step, size), alpha=float(weight))
        total.add_(padded.narrow(dim, reach + step, size), alpha=float(weight))
    return total


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)
