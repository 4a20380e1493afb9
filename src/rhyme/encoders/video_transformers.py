"""torchvision's transformers of clips: Video Swin and MViT, under their own parameter names.

They hold no batch norm. Stochastic depth is off: it would make a step depend on how many ranks
share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import video
from torchvision.models.video.mvit import PositionalEncoding
from torchvision.ops import StochasticDepth

from rhyme.encoders.backbone import ClipBackbone, cell_geometry, refuse_options
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.video import read_channels

Size = tuple[int, int, int]
_OPTIONS = ("stem", "dilations", "zero_init_residual")


class VideoSwin(ClipBackbone):
    """Video Swin transformers (arXiv 2106.13230); stages ``layer1`` to ``layer4``.

    The last map is normalised; its mean is the pooled feature.

    Args:
        config: ``name`` is one of ``swin3d_t``, ``swin3d_s``, ``swin3d_b``.

    Raises:
        ConfigError: an option that they do not have.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        refuse_options(config, _OPTIONS)
        net = _built(config)
        self.patch_embed: nn.Module = net.patch_embed
        self.features: nn.Sequential = net.features
        self.norm: nn.Module = net.norm
        self.feature_dim: int = net.num_features
        space = [(4, 4, 0, 1)]
        self.geometry, self.temporal_geometry = {}, {}
        for i in range(4):
            self.geometry[f"layer{i + 1}"] = cell_geometry(space)
            self.temporal_geometry[f"layer{i + 1}"] = cell_geometry([(2, 2, 0, 1)])
            space.append((2, 2, 0, 1))

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the four groups of blocks."""
        x = self.patch_embed(pixels)  # [b, t, h, w, d]
        for i, part in enumerate(self.features):
            x = part(x)
            if i % 2 == 0:  # the odd ones merge patches for the next group
                last = i == len(self.features) - 1
                yield f"layer{i // 2 + 1}", (self.norm(x) if last else x).permute(0, 4, 1, 2, 3)


class MultiscaleTransformer(ClipBackbone):
    """MViT v1-B and v2-S (arXiv 2104.11227, 2112.01526); stages ``layer1`` to ``layer4``.

    The pooled feature is the class token, the map the other tokens, both normalised. Where clips
    are of another size than 16x224x224, positions are interpolated.

    Args:
        config: ``name`` is ``mvit_v1_b`` or ``mvit_v2_s``.

    Raises:
        ConfigError: an option that they do not have.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        refuse_options(config, _OPTIONS)
        net = _built(config)
        self.conv_proj: nn.Module = net.conv_proj
        self.pos_encoding: PositionalEncoding = net.pos_encoding
        self.blocks: nn.ModuleList = net.blocks
        self.norm: nn.Module = net.norm
        self.feature_dim: int = net.norm.normalized_shape[0]
        # a block that pools its shortcut begins a stage
        pools = [i for i, block in enumerate(net.blocks) if block.pool_skip is not None]
        self._ends = {stop - 1: f"layer{i + 1}" for i, stop in enumerate([*pools, len(net.blocks)])}
        space = [(7, 4, 3, 1)]
        self.geometry, self.temporal_geometry = {}, {}
        for name in self._ends.values():
            self.geometry[name] = cell_geometry(space)
            self.temporal_geometry[name] = cell_geometry([(3, 2, 1, 1)])
            space.append((3, 2, 1, 1))

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for the four groups of blocks."""
        for name, tokens, size in self._stages(pixels):
            yield name, _as_map(tokens, size)

    def encode(
        self, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The class token, the last map, and the maps of ``stages``."""
        kept: dict[str, Tensor] = {}
        tokens, size = x, (0, 0, 0)
        for name, tokens, size in self._stages(x):
            if name in stages:
                kept[name] = _as_map(tokens, size)
        return tokens[:, 0], _as_map(tokens, size), kept

    def _stages(self, pixels: Tensor) -> Iterator[tuple[str, Tensor, Size]]:
        """Yield (name, tokens ``[b, 1 + n, d]``, their (t, h, w)); the class token comes first."""
        x = self.conv_proj(pixels)
        size: Size = (x.shape[2], x.shape[3], x.shape[4])
        x = self._placed(x.flatten(2).transpose(1, 2), size)
        for i, block in enumerate(self.blocks):
            x, size = block(x, size)
            if i in self._ends:
                yield self._ends[i], self.norm(x) if i == len(self.blocks) - 1 else x, size

    def _placed(self, x: Tensor, size: Size) -> Tensor:
        """Tokens with the class token and, in v1, with their positions."""
        given = self.pos_encoding
        native = (given.temporal_size, *given.spatial_size)
        if size == native or given.spatial_pos is None:
            return given(x)
        assert given.temporal_pos is not None
        assert given.class_pos is not None
        time = functional.interpolate(given.temporal_pos.T[None], size[:1], mode="linear")[0].T
        grid = given.spatial_pos.T.unflatten(1, given.spatial_size)[None]
        space = functional.interpolate(grid, size[1:], mode="bilinear")[0].flatten(1).T
        token = (given.class_token + given.class_pos).expand(len(x), 1, -1)
        return torch.cat([token, x + (time[:, None] + space[None]).flatten(0, 1)], dim=1)


def _built(config: BackboneConfig) -> Any:
    """Torchvision's network, its stochastic depth off."""
    net = getattr(video, config.name)(weights=None)
    read_channels(net, config.in_channels)
    for part in net.modules():
        if isinstance(part, StochasticDepth):
            part.p = 0.0
    return net


def _as_map(tokens: Tensor, size: Size) -> Tensor:
    """``[b, d, t, h, w]`` of tokens ``[b, 1 + t h w, d]``."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, size)
