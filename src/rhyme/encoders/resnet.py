"""Residual networks with torchvision's parameter names (He et al., arXiv 1512.03385).

The blocks are torchvision's own, so an official state dict loads without renaming. What they do
not offer is added here: strides and dilations a layer (dense features for tracking and
propagation), the stem for small pictures, and batch norm over groups of the global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rhyme.encoders.backbone import Backbone, cell_geometry, initialise_convolutions
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.norm import GroupBatchNorm2d

Block = type[BasicBlock] | type[Bottleneck]

_DEPTHS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(Backbone):
    """ResNet-18, -34 or -50 without its classifier; stages ``stem``, ``layer1`` to ``layer4``.

    Args:
        config: ``name`` is one of ``resnet18``, ``resnet34``, ``resnet50``.

    Raises:
        ConfigError: an option that residual networks do not have.
    """

    own: ClassVar = {"strides": (1, 2, 2, 2)}

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        config = self.config
        block, depths = _DEPTHS[config.name]
        norm = partial(GroupBatchNorm2d, norm_groups=config.norm_groups)
        kernel, step = (7, 2) if config.stem == "imagenet" else (3, 1)
        chain = [(kernel, step, kernel // 2, 1)]
        self.conv1 = nn.Conv2d(config.in_channels, 64, kernel, step, kernel // 2, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity()
        if config.stem == "imagenet":
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            chain.append((3, 2, 1, 1))
        self.geometry = {"stem": cell_geometry(chain)}
        channels, before = 64, 1
        for i, depth in enumerate(depths):
            stride, dilation = config.strides[i], config.dilations[i]
            layer: list[nn.Module] = []
            for index in range(depth):
                opening = before if index == 0 else dilation
                planes, step = 64 * 2**i, stride if index == 0 else 1
                layer.append(_block(block, channels, planes, step, opening, dilation, norm))
                channels = planes * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*layer))
            chain.append((3, stride, before, before))
            self.geometry[f"layer{i + 1}"] = cell_geometry(chain)
            before = dilation
        self.feature_dim = channels
        initialise_convolutions(self)
        if config.zero_init_residual:
            for part in self.modules():
                if isinstance(part, BasicBlock | Bottleneck):
                    last = part.bn3 if isinstance(part, Bottleneck) else part.bn2
                    nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the stem and the four layers."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        yield "stem", x
        for name in list(self.geometry)[1:]:
            x = self.get_submodule(name)(x)
            yield name, x


def _block(
    block: Block,
    channels: int,
    planes: int,
    stride: int,
    opening: int,
    dilation: int,
    norm: partial[GroupBatchNorm2d],
) -> nn.Module:
    """One residual block.

    Args:
        block: its class.
        channels: channels that come in.
        planes: channels of its 3x3 convolutions.
        stride: stride of its first 3x3 convolution.
        opening: dilation of its first 3x3 convolution.
        dilation: dilation of its second 3x3 convolution, where it has one.
        norm: builds a normalisation.
    """
    shortcut = None
    if stride != 1 or channels != planes * block.expansion:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, planes * block.expansion, 1, stride, bias=False),
            norm(planes * block.expansion),
        )
    if block is Bottleneck:
        return Bottleneck(channels, planes, stride, shortcut, dilation=opening, norm_layer=norm)
    built = BasicBlock(channels, planes, stride, shortcut, norm_layer=norm)
    # torchvision refuses dilated basic blocks; spacing and padding are plain attributes, though.
    for convolution, spacing in ((built.conv1, opening), (built.conv2, dilation)):
        convolution.dilation = convolution.padding = (spacing, spacing)
    return built
