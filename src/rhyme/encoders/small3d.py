"""A small clip encoder that trains within minutes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from rhyme.encoders.backbone import (
    ClipBackbone,
    cell_geometry,
    initialise_convolutions,
    refuse_options,
)
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.norm import GroupBatchNorm3d

Chain = list[tuple[int, int, int, int]]


class SmallClipEncoder(ClipBackbone):
    """Four (2+1)-D layers; stages ``layer1`` to ``layer4``.

    Each is a 1x3x3 and a 3x1x1 convolution, both with batch norm and ReLU (after R(2+1)D, arXiv
    1711.11248, without its residual connections), with channels last: on a CPU that takes no longer
    than one 3x3x3 convolution. With the default strides a 16x24x24 clip becomes 4x3x3 cells,
    each of which sees 11 frames.

    Args:
        config: ``widths``, ``strides`` and ``temporal_strides`` of the four layers.

    Raises:
        ConfigError: an option that it does not have.
    """

    channels_last_on_cpu: ClassVar = True
    own: ClassVar = {
        "strides": (2, 2, 2, 1),
        "temporal_strides": (1, 1, 2, 2),
        "widths": (16, 32, 64, 128),
    }

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        config = self.config
        refuse_options(config, ["stem", "dilations", "zero_init_residual"])
        channels, space, time = config.in_channels, Chain(), Chain()
        self.geometry, self.temporal_geometry = {}, {}
        shape = zip(config.widths, config.strides, config.temporal_strides, strict=True)
        for i, (width, stride, step) in enumerate(shape):
            layer = nn.Sequential()
            layer.add_module("spatial", _norm_relu(config, nn.Conv3d(
                channels, width, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False
            )))  # fmt: skip
            layer.add_module("temporal", _norm_relu(config, nn.Conv3d(
                width, width, (3, 1, 1), (step, 1, 1), (1, 0, 0), bias=False
            )))  # fmt: skip
            name = f"layer{i + 1}"
            self.add_module(name, layer)
            space.append((3, stride, 1, 1))
            time.append((3, step, 1, 1))
            self.geometry[name] = cell_geometry(space)
            self.temporal_geometry[name] = cell_geometry(time)
            channels = width
        self.feature_dim = channels
        initialise_convolutions(self)

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the four layers."""
        x = pixels
        for name in self.geometry:
            x = self.get_submodule(name)(x)
            yield name, x


def _norm_relu(config: BackboneConfig, convolution: nn.Conv3d) -> nn.Sequential:
    norm = GroupBatchNorm3d(convolution.out_channels, norm_groups=config.norm_groups)
    layer = nn.Sequential()
    layer.add_module("conv", convolution)
    layer.add_module("bn", norm)
    layer.add_module("relu", nn.ReLU(inplace=True))
    return layer
