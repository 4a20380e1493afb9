"""Where cells of maps lie, against what a cell's value depends on."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rhyme.encoders.cell_places import CellPlaces


def padded(layer: Any, x: Tensor) -> Tensor:
    """Zeros around a map so that there is a cell for every ``step`` pixels: TensorFlow's way."""
    values = (layer.kernel_size, layer.stride, getattr(layer, "dilation", 1))
    kernel, step, dilation = (v if isinstance(v, int) else v[0] for v in values)
    cells = math.ceil(x.shape[-1] / step)
    whole = max((cells - 1) * step + dilation * (kernel - 1) + 1 - x.shape[-1], 0)
    sides = (whole // 2, whole - whole // 2)
    return functional.pad(x, (*sides, *sides))


class SameConv(nn.Conv2d):
    """A convolution that pads within its pass, while its ``padding`` is 0."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(padded(self, input))


class SamePool(nn.AvgPool2d):
    """A pooling of that kind."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(padded(self, input))


NETS: dict[str, list[nn.Module]] = {
    "5x5, then 5x5, then 3x3": [SameConv(3, 2, 5, 2), SameConv(2, 2, 5, 2), SameConv(2, 2, 3, 2)],
    "spread taps": [SameConv(3, 2, 3, 2, dilation=3), nn.Conv2d(2, 2, 2, 2)],
    "a pooling": [SameConv(3, 2, 7, 2), SamePool(3, 2)],
    "no padding at all": [nn.Conv2d(3, 2, 5, 2), nn.Conv2d(2, 2, 3, 2)],
    "own padding": [nn.Conv2d(3, 2, 5, 2, padding=2), nn.AvgPool2d(3, 2, padding=1)],
    "an incomplete cell at the end": [nn.Conv2d(3, 2, 2, 2), nn.AvgPool2d(3, 2, ceil_mode=True)],
}


@pytest.mark.parametrize("side", [64, 70])
@pytest.mark.parametrize("name", NETS)
def test_a_cell_lies_in_the_middle_of_what_it_depends_on(name: str, side: int) -> None:
    net = nn.Sequential(*copy.deepcopy(NETS[name]))
    for weights in net.parameters():
        nn.init.ones_(weights)
    pixels = torch.zeros(1, 3, side, side, requires_grad=True)
    found = net(pixels)
    cell = found.shape[-1] // 2
    (slope,) = torch.autograd.grad(found[0, 0, cell, cell], pixels)
    row = slope.sum(dim=(0, 1, 2))
    middle = float((row * torch.arange(side)).sum() / row.sum())
    empty = net.to("meta")
    stride, offset = CellPlaces(empty, side, empty).of(found.shape[-1])
    assert offset + stride * cell == pytest.approx(middle, abs=1e-3)
