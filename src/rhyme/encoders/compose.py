"""A backbone and its heads as one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from rhyme.encoders.backbone import Backbone
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.features import Features
from rhyme.encoders.heads import Head
from rhyme.errors import UnknownName, nearest


class EncoderWithHeads(nn.Module):
    """A backbone with named heads on its pooled feature.

    Systems and momentum copies hold one such module, so that a copy is a copy of everything.

    Args:
        backbone: the backbone.
        heads: heads by name; none is fine.
    """

    def __init__(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))

    @property
    def config(self) -> BackboneConfig:
        """The backbone's configuration."""
        return self.backbone.config

    @property
    def feature_dim(self) -> int:
        """Length of the backbone's pooled feature."""
        return self.backbone.feature_dim

    @property
    def reads_clips(self) -> bool:
        """Whether it reads clips ``[b, t, c, h, w]`` instead of frames."""
        return self.backbone.reads_clips

    def head(self, name: str) -> Head:
        """One head.

        Raises:
            UnknownName: there is no such head, with the nearest one that exists.
        """
        if name not in self.heads:
            raise UnknownName(
                f"the encoder has no head '{name}'", remedy=nearest(name, self.heads.keys())
            )
        return cast(Head, self.heads[name])

    def forward(
        self, pixels: Tensor, heads: Sequence[str] | None = None, stages: Sequence[str] = ()
    ) -> tuple[Features, dict[str, Tensor]]:
        """Features, and the embeddings of heads.

        Args:
            pixels: normalised pixels ``[b, c, h, w]``; ``[b, t, c, h, w]`` where it reads clips.
            heads: names of the heads to apply; None for all.
            stages: names of the backbone's stages to return besides.

        Returns:
            The features, and ``[b, out]`` for each head.

        Raises:
            UnknownName: there is no such head or stage.
        """
        chosen = {name: self.head(name) for name in (self.heads if heads is None else heads)}
        features: Features = self.backbone(pixels, stages)
        return features, {name: head(features.pooled) for name, head in chosen.items()}
