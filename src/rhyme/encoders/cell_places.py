"""Where the cells of a network's maps lie, found by following its layers with empty tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rhyme.encoders.backbone import Backbone, cell_geometry


def map_channels(backbone: Backbone, side: int) -> int | None:
    """Channels of the map that a backbone of frames makes, found without numbers.

    Args:
        backbone: stays as it is.
        side: of square frames, in pixels.

    Returns:
        Channels, or None where it makes no map.

    Raises:
        DataError: it reads no frames, or none of this size.
    """
    empty = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad():
        pixels = torch.empty(2, backbone.config.in_channels, side, side, device="meta")
        found = empty(pixels).map
    return None if found is None else int(found.shape[1])


class CellPlaces:
    """Geometry by the side of a map, of a network that reads squares.

    Layers that make maps smaller are followed in the order in which they run. Where a map became
    smaller in another way (patches merged by slicing), its cells are taken for blocks of cells.

    Args:
        net: the network, on the meta device.
        side: side of the input, in pixels.
        run: runs the network on pixels ``[b, 3, side, side]``.

    Attributes:
        output: what ``run`` returned.
    """

    def __init__(self, net: nn.Module, side: int, run: Callable[[Tensor], Any]) -> None:
        self._at = {side: (1.0, 0.0)}
        kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
        hooks = [
            m.register_forward_hook(self._follow) for m in net.modules() if isinstance(m, kinds)
        ]
        try:
            with torch.no_grad():
                self.output = run(torch.empty(2, 3, side, side, device="meta"))
        finally:
            for hook in hooks:
                hook.remove()

    def of(self, side: int) -> tuple[float, float]:
        """(stride, offset) of a map of ``side`` x ``side`` cells, in pixels."""
        if side not in self._at:
            larger = min((s for s in self._at if s > side), default=side)
            stride, offset = self._at.get(larger, (1.0, 0.0))
            blocks = max(round(larger / side), 1)
            self._at[side] = (stride * blocks, offset + stride * (blocks - 1) / 2)
        return self._at[side]

    def _follow(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before, after = inputs[0].shape[-1], output.shape[-1]
        if before == after or after in self._at or before not in self._at:
            return
        values = [getattr(layer, n, 1) for n in ("kernel_size", "stride", "padding", "dilation")]
        kernel, step, padding, dilation = (_first(v) for v in values)
        if not padding and not getattr(layer, "ceil_mode", False):
            # TensorFlow's kind pads within its pass: as much as its cells need, the less in front
            padding = max((after - 1) * step + dilation * (kernel - 1) + 1 - before, 0) // 2
        stride, offset = self._at[before]
        own_stride, own_offset = cell_geometry([(kernel, step, padding, dilation)])
        self._at[after] = (stride * own_stride, offset + stride * own_offset)


def _first(value: Any) -> int:
    """An option of a layer along one side; padding may be a word."""
    if isinstance(value, tuple | list):
        value = value[0]
    return value if isinstance(value, int) else 0
