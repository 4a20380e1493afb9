"""A small encoder that trains within minutes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from rhyme.encoders.backbone import Backbone, cell_geometry, initialise_convolutions, refuse_options
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.norm import GroupBatchNorm2d


class SmallEncoder(Backbone):
    """Four 3x3 convolutions, each with batch norm and ReLU; stages ``layer1`` to ``layer4``.

    With the default strides its map has stride 8; a 64-pixel view gives 8 x 8 cells.

    Args:
        config: ``widths`` and ``strides`` of the four layers.

    Raises:
        ConfigError: an option that only residual networks have.
    """

    own: ClassVar = {"strides": (1, 2, 2, 2), "widths": (32, 64, 96, 128)}

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        config = self.config
        refuse_options(config, ["stem", "dilations", "zero_init_residual"])
        channels, chain = config.in_channels, list[tuple[int, int, int, int]]()
        self.geometry = {}
        for i, (width, stride) in enumerate(zip(config.widths, config.strides, strict=True)):
            layer = nn.Sequential()
            layer.add_module("conv", nn.Conv2d(channels, width, 3, stride, 1, bias=False))
            layer.add_module("bn", GroupBatchNorm2d(width, norm_groups=config.norm_groups))
            layer.add_module("relu", nn.ReLU(inplace=True))
            self.add_module(f"layer{i + 1}", layer)
            chain.append((3, stride, 1, 1))
            self.geometry[f"layer{i + 1}"] = cell_geometry(chain)
            channels = width
        self.feature_dim = channels
        initialise_convolutions(self)

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the four layers."""
        x = pixels
        for name in self.geometry:
            x = self.get_submodule(name)(x)
            yield name, x
