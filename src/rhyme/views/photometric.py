"""Colour operations on rows of pictures, each row with its own parameters.

Pictures are ``float32 [m, 3, h, w]`` on the scale of 8-bit levels, 0 .. 255, RGB; parameters are
``float32 [m]``. Results agree with torchvision's ``transforms.v2.functional`` on 8-bit pictures to
about one level.

They are the same bits for any number of threads and any grouping of the rows: an operation is
either a chain of correctly rounded elementwise steps (no fused ones, whose vector and scalar forms
differ), or a sum whose every partial sum is a whole number that float32 holds exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "add_brightness",
    "brightness",
    "contrast",
    "grayscale",
    "hue",
    "luma",
    "one_channel",
    "saturation",
    "solarize",
]

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision has them
_FULL = 255.0


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
    # Whole numbers add up exactly in any order: in float32 up to 2**24, in float64 up to 2**53.
    exact = torch.float32 if gray[0].numel() * _FULL <= 2**24 else torch.float64
    mean = gray.sum(dim=(1, 2, 3), dtype=exact).double() / gray[0].numel()
    offset = mean.float() * (1.0 - factor)
    return (levels * _rows(factor)).add_(_rows(offset)).clamp_(0.0, _FULL)


def saturation(levels: Tensor, factor: Tensor) -> Tensor:
    """Distance of every level from its pixel's luma times the row's factor."""
    gray = luma(levels).mul_(_rows(1.0 - factor))
    return (levels * _rows(factor)).add_(gray).clamp_(0.0, _FULL)


def hue(levels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by the row's ``shift`` in turns (-0.5 .. 0.5), value and saturation kept."""
    red, green, blue = levels.unbind(1)
    top = torch.maximum(red, green)
    bottom = torch.minimum(red, green)
    top, bottom = torch.maximum(top, blue), torch.minimum(bottom, blue)
    chroma = top - bottom
    is_red, is_green = top == red, top == green
    # Position on the hexagon, 0 .. 6: red 0, green 2, blue 4.
    angle = torch.where(is_green, blue - red, red - green)
    angle = torch.where(is_red, green - blue, angle).div_(chroma.clamp(min=1e-6))
    angle += torch.where(is_green, 2.0, 4.0).masked_fill_(is_red, 0.0)
    angle += (shift * 6.0).reshape(-1, 1, 1)
    angle -= (angle / 6.0).floor_().mul_(6.0)
    out = torch.empty_like(levels)
    shares = (
        (angle - 3.0).abs_().sub_(1.0),
        (angle - 2.0).abs_().neg_().add_(2.0),
        (angle - 4.0).abs_().neg_().add_(2.0),
    )
    for channel, share in enumerate(shares):
        torch.add(share.clamp_(0.0, 1.0).mul_(chroma), bottom, out=out[:, channel])
    return out


def grayscale(levels: Tensor) -> Tensor:
    """The luma in all three channels."""
    return luma(levels).expand(-1, 3, -1, -1).contiguous()


def one_channel(levels: Tensor, channel: Tensor) -> Tensor:
    """The row's ``channel`` (int64, 0 .. 2) in place of all three."""
    index = channel.reshape(-1, 1, 1, 1).expand(-1, 1, *levels.shape[-2:])
    return levels.gather(1, index).expand(-1, 3, -1, -1).contiguous()


def solarize(levels: Tensor, threshold: float) -> Tensor:
    """Invert the levels at or above ``threshold``."""
    return torch.where(levels >= threshold, _FULL - levels, levels)


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)
