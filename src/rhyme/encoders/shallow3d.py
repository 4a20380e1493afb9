"""The shallow clip encoders of video self-supervision: R(2+1)D, R3D and C3D.

One residual block a layer (Xu et al., "Clip order prediction", CVPR 2019; R(2+1)D and R3D are from
arXiv 1711.11248), or eight plain convolutions (C3D, arXiv 1412.0767, with batch norm). Parameters
keep the published names, so published state dicts load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from rhyme.encoders.backbone import (
    ClipBackbone,
    cell_geometry,
    initialise_convolutions,
    refuse_options,
)
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.norm import GroupBatchNorm3d

Norm = Callable[[int], nn.Module]
Chain = list[tuple[int, int, int, int]]
_WIDTHS = (64, 128, 256, 512)


class FactorisedConv(nn.Module):
    """A convolution over space and one over time, with batch norm and ReLU between them.

    Both together have about as many weights as the whole ``kernel`` (arXiv 1711.11248, section
    3.5).

    Args:
        channels: channels that come in.
        out: channels that go out.
        kernel: (time, side) of the convolution that it stands for, padded to keep the size.
        step: stride in time.
        stride: stride in space.
        norm: builds a normalisation.
    """

    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int], step: int, stride: int, norm: Norm
    ) -> None:
        super().__init__()
        time, side = kernel
        between = time * side**2 * channels * out // (side**2 * channels + time * out)
        space = ((1, side, side), (1, stride, stride), (0, side // 2, side // 2))
        self.spatial_conv = nn.Conv3d(channels, between, *space, bias=False)
        self.bn = norm(between)
        self.relu = nn.ReLU(inplace=True)
        along = ((time, 1, 1), (step, 1, 1), (time // 2, 0, 0))
        self.temporal_conv = nn.Conv3d(between, out, *along, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, c, t, h, w]`` to ``[b, out, t', h', w']``."""
        return self.temporal_conv(self.relu(self.bn(self.spatial_conv(x))))


class WholeConv(nn.Module):
    """One convolution over time and space; arguments of :class:`FactorisedConv`."""

    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int], step: int, stride: int, norm: Norm
    ) -> None:
        super().__init__()
        time, side = kernel
        self.temporal_spatial_conv = nn.Conv3d(
            channels,
            out,
            (time, side, side),
            (step, stride, stride),
            (time // 2, side // 2, side // 2),
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[b, c, t, h, w]`` to ``[b, out, t', h', w']``."""
        return self.temporal_spatial_conv(x)


Convolution = type[FactorisedConv] | type[WholeConv]


class _Block(nn.Module):
    """Two convolutions and a shortcut, which is a convolution where the shape changes."""

    def __init__(
        self, build: Convolution, channels: int, out: int, step: int, stride: int, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1 = build(channels, out, (3, 3), step, stride, norm)
        self.bn1 = norm(out)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = build(out, out, (3, 3), 1, 1, norm)
        self.bn2 = norm(out)
        self.outrelu = nn.ReLU(inplace=True)
        self.reshapes = channels != out or step > 1 or stride > 1
        if self.reshapes:
            self.downsampleconv = build(channels, out, (1, 1), step, stride, norm)
            self.downsamplebn = norm(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.reshapes:
            x = self.downsamplebn(self.downsampleconv(x))
        return self.outrelu(x + y)


class ShallowVideoResNet(ClipBackbone):
    """The shallow R(2+1)D (``r21d``) and R3D (``r3d``); stages ``stem``, ``layer1`` to ``layer4``.

    16x112x112 becomes 2x7x7 cells of 512 channels.

    Args:
        config: ``name``, ``strides`` and ``temporal_strides`` of the four layers.

    Raises:
        ConfigError: an option that they do not have.
    """

    own: ClassVar = {"strides": (1, 2, 2, 2), "temporal_strides": (1, 2, 2, 2)}

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        config = self.config
        refuse_options(config, ["stem", "dilations", "zero_init_residual"])
        build = FactorisedConv if config.name == "r21d" else WholeConv
        norm = partial(GroupBatchNorm3d, norm_groups=config.norm_groups)
        self.conv1 = build(config.in_channels, 64, (3, 7), 1, 2, norm)
        self.bn1 = norm(64)
        self.relu1 = nn.ReLU(inplace=True)
        space, time = Chain([(7, 2, 3, 1)]), Chain([(3, 1, 1, 1)])
        self.geometry = {"stem": cell_geometry(space)}
        self.temporal_geometry = {"stem": cell_geometry(time)}
        channels = 64
        shape = zip(_WIDTHS, config.strides, config.temporal_strides, strict=True)
        for i, (width, stride, step) in enumerate(shape):
            layer = nn.Module()
            layer.add_module("block1", _Block(build, channels, width, step, stride, norm))
            self.add_module(f"conv{i + 2}", layer)
            space.append((3, stride, 1, 1))
            time.append((3, step, 1, 1))
            self.geometry[f"layer{i + 1}"] = cell_geometry(space)
            self.temporal_geometry[f"layer{i + 1}"] = cell_geometry(time)
            channels = width
        self.feature_dim = channels
        initialise_convolutions(self)

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the stem and the four layers."""
        x = self.relu1(self.bn1(self.conv1(pixels)))
        yield "stem", x
        for i in range(4):
            x = self.get_submodule(f"conv{i + 2}.block1")(x)
            yield f"layer{i + 1}", x


class C3D(ClipBackbone):
    """Eight 3x3x3 convolutions with batch norm, and max-pools; stages ``layer1`` to ``layer5``.

    A stage ends before its pool. 16x112x112 becomes 2x7x7 cells of 512 channels. The convolutions
    have offsets, which the norms behind them take away again: so it was published.

    Args:
        config: it has no options of its own.

    Raises:
        ConfigError: an option that it does not have.
    """

    smallest: ClassVar = (8, 16)
    _names: ClassVar = (("1",), ("2",), ("3a", "3b"), ("4a", "4b"), ("5a", "5b"))

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        refuse_options(config, ["stem", "dilations", "zero_init_residual"])
        channels, self.geometry, self.temporal_geometry = config.in_channels, {}, {}
        space, time = Chain(), Chain()
        for i, (names, width) in enumerate(zip(self._names, (*_WIDTHS, 512), strict=True)):
            for name in names:
                self.add_module(f"conv{name}", nn.Conv3d(channels, width, 3, padding=1))
                norm = GroupBatchNorm3d(width, norm_groups=config.norm_groups)
                self.add_module(f"bn{name}", norm)
                channels = width
            self.geometry[f"layer{i + 1}"] = cell_geometry(space)
            self.temporal_geometry[f"layer{i + 1}"] = cell_geometry(time)
            space.append((2, 2, 0, 1))
            if i > 0:
                time.append((2, 2, 0, 1))
        self.feature_dim = channels
        initialise_convolutions(self)

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the five layers."""
        x = pixels
        for i, names in enumerate(self._names):
            if i > 0:
                x = nn.functional.max_pool3d(x, (1 if i == 1 else 2, 2, 2))
            for name in names:
                x = self.get_submodule(f"bn{name}")(self.get_submodule(f"conv{name}")(x))
                x = torch.relu_(x)
            yield f"layer{i + 1}", x
