"""torchvision's convolutional clip encoders, and S3D-G, with batch norm over the global batch.

The networks are built by torchvision and taken apart, so their official state dicts load without
renaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torchvision.models import video
from torchvision.models.video.s3d import S3D, SepInceptionBlock3D

from rhyme.encoders.backbone import ClipBackbone, cell_geometry, refuse_options
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.norm import GroupBatchNorm3d

_OPTIONS = ("stem", "dilations", "zero_init_residual")


class VideoResNet(ClipBackbone):
    """R3D-18, R(2+1)D-18 and MC3-18 (arXiv 1711.11248); stages ``stem``, ``layer1`` to ``layer4``.

    Args:
        config: ``name`` is one of ``r3d_18``, ``r2plus1d_18``, ``mc3_18``.

    Raises:
        ConfigError: an option that they do not have.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        refuse_options(config, _OPTIONS)
        net = cast(nn.Module, getattr(video, config.name)(weights=None))
        read_channels(net, config.in_channels)
        for parent in list(net.modules()):
            for name, part in list(parent.named_children()):
                if isinstance(part, nn.BatchNorm3d):
                    norm = GroupBatchNorm3d(part.num_features, norm_groups=config.norm_groups)
                    parent.add_module(name, norm)
        space, time = [(7, 2, 3, 1)], [(3, 1, 1, 1)]
        self.geometry, self.temporal_geometry = {}, {}
        for i, name in enumerate(("stem", "layer1", "layer2", "layer3", "layer4")):
            self.add_module(name, net.get_submodule(name))
            if i > 1:
                space.append((3, 2, 1, 1))
                if config.name != "mc3_18":  # its later layers leave time alone
                    time.append((3, 2, 1, 1))
            self.geometry[name] = cell_geometry(space)
            self.temporal_geometry[name] = cell_geometry(time)
        self.feature_dim = 512

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the stem and the four layers."""
        x = pixels
        for name in self.geometry:
            x = self.get_submodule(name)(x)
            yield name, x


class SelfGating(nn.Module):
    """Channels weighed by what the whole clip shows (S3D-G, arXiv 1712.04851, section 4.3).

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gated maps ``[b, c, t, h, w]``."""
        gates = torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))
        return x * gates[:, :, None, None, None]


class SeparableInception(ClipBackbone):
    """S3D and S3D-G (arXiv 1712.04851); stages ``stem``, ``layer1`` to ``layer4``.

    Running statistics move by 0.1 a batch, not by torchvision's 0.001, which takes thousands of
    steps until evaluation sees what training saw.

    Args:
        config: ``name`` is ``s3d`` or ``s3dg``; the latter gates every branch of its blocks.

    Raises:
        ConfigError: an option that they do not have.
    """

    smallest: ClassVar = (5, 17)
    _stages: ClassVar = {"stem": 1, "layer1": 4, "layer2": 7, "layer3": 13, "layer4": 16}

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        refuse_options(config, _OPTIONS)
        norm = partial(GroupBatchNorm3d, norm_groups=config.norm_groups, eps=1e-3)
        net = S3D(norm_layer=norm)
        read_channels(net, config.in_channels)
        self.features = net.features
        if config.name == "s3dg":
            for block in self.features:
                if isinstance(block, SepInceptionBlock3D):
                    for branch in block.children():
                        norms = [m for m in branch.modules() if isinstance(m, GroupBatchNorm3d)]
                        branch.add_module("gating", SelfGating(norms[-1].num_features))
        wide, open_ = (3, 2, 1, 1), (2, 2, 0, 1)
        space = [(7, 2, 3, 1), wide, wide, wide, open_]
        time = [(7, 2, 3, 1), (1, 1, 0, 1), (1, 1, 0, 1), wide, open_]
        names = list(self._stages)
        self.geometry = {n: cell_geometry(space[: i + 1]) for i, n in enumerate(names)}
        self.temporal_geometry = {n: cell_geometry(time[: i + 1]) for i, n in enumerate(names)}
        self.feature_dim = 1024

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the stem and the four groups of blocks."""
        x, first = pixels, 0
        for name, last in self._stages.items():
            for part in self.features[first:last]:
                x = part(x)
            first = last
            yield name, x


def read_channels(net: nn.Module, channels: int) -> None:
    """Let the first convolution of a network read another number of channels."""
    name, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv3d))
    if channels == first.in_channels:
        return
    options: dict[str, Any] = {"bias": first.bias is not None}
    fresh = nn.Conv3d(
        channels,
        first.out_channels,
        cast(tuple[int, int, int], first.kernel_size),
        cast(tuple[int, int, int], first.stride),
        cast(tuple[int, int, int], first.padding),
        **options,
    )
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    parent, _, last = name.rpartition(".")
    net.get_submodule(parent).add_module(last, fresh)
