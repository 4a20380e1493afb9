"""Heads on the pooled feature: projectors and predictors as configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rhyme.encoders.norm import GroupBatchNorm1d
from rhyme.errors import ConfigError, DataError

_WIDEST = 65536


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A multi-layer perceptron ``[b, d] -> [b, out]``.

    Attributes:
        layers: linear layers; 0 passes the feature on (normalised, if asked for).
        out: length of the output; 0 for that of what it reads.
        hidden: length of the layers between; None for that of what it reads.
        hidden_norm: batch norm behind each linear layer but the last.
        last_norm: batch norm behind the last linear layer.
        last_affine: of that norm: ``"both"`` scale and offset, only the ``"scale"`` (SimCLR), or
            ``"none"`` (SimSiam).
        bias: biases in the linear layers that no norm follows.
        activation: between the layers.
        normalise: bring the output to length 1.
        blocks: equal parts of the output that are brought to length 1 each by itself, e.g. one for
            each segment of a clip (DUAL's series head).
        part: ``(i, n)``: read the i-th of ``n`` equal parts of the input alone, i from 0.
    """

    layers: int = 2
    out: int = 128
    hidden: int | None = None
    hidden_norm: bool = False
    last_norm: bool = False
    last_affine: Literal["both", "scale", "none"] = "both"
    bias: bool = True
    activation: Literal["relu", "gelu"] = "relu"
    normalise: bool = True
    blocks: int = 1
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.layers <= 16:
            raise ConfigError("head.layers must lie in 0 to 16", value=self.layers)
        if not 0 <= self.out <= _WIDEST:
            raise ConfigError(f"head.out must lie in 0 to {_WIDEST}", value=self.out)
        if self.hidden is not None and not 1 <= self.hidden <= _WIDEST:
            raise ConfigError(f"head.hidden must lie in 1 to {_WIDEST}", value=self.hidden)
        if self.layers == 0 and self.last_norm:
            raise ConfigError(
                "a head of 0 layers has no last norm",
                remedy="for no head set head.last_norm to false and head.out to 0 as well; for a "
                "linear one set head.layers to 1",
            )
        if self.blocks < 1 or self.out % self.blocks:
            raise ConfigError(
                "head.out must divide into head.blocks equal parts",
                value={"out": self.out, "blocks": self.blocks},
            )
        if not 0 <= self.part[0] < self.part[1]:
            raise ConfigError("head.part counts from (0, n) to (n - 1, n)", value=self.part)


HEAD_PRESETS: dict[str, HeadConfig] = {
    "identity": HeadConfig(layers=0, out=0),
    "moco_v1": HeadConfig(layers=1, out=128),
    "moco_v2": HeadConfig(layers=2, out=128),
    "cyclecontrast": HeadConfig(layers=2, out=128),
    "demo": HeadConfig(layers=2, out=64, hidden_norm=True),
    "simclr": HeadConfig(layers=2, out=128, hidden_norm=True, last_norm=True, last_affine="scale"),
    "simclr_v2": HeadConfig(
        layers=3, out=128, hidden_norm=True, last_norm=True, last_affine="scale"
    ),
    "vfs_projector": HeadConfig(layers=3, out=0, hidden_norm=True, last_norm=True, normalise=False),
    "vfs_predictor": HeadConfig(layers=2, out=0, hidden=512, hidden_norm=True, normalise=False),
}
"""Heads of published systems by name (``vfs_predictor`` is ResNet-50's; ResNet-18 has hidden=128).
"""


class Head(nn.Module):
    """A head; see :class:`HeadConfig`.

    Args:
        config: its options.
        in_dim: length of the feature it reads.
        norm_groups: groups of the global batch in its batch norms.

    Attributes:
        out_dim: length of its output.
    """

    def __init__(self, config: HeadConfig, in_dim: int, norm_groups: int = 1) -> None:
        super().__init__()
        self.config = config
        self.in_dim = in_dim
        self.norm_groups = norm_groups
        if in_dim % config.part[1]:
            raise ConfigError(
                f"a feature of {in_dim} values does not divide into {config.part[1]} parts",
                value=config.part,
            )
        reads = in_dim // config.part[1]
        self.out_dim = config.out or reads
        if config.layers == 0 and self.out_dim != reads:
            raise ConfigError(
                f"a head of 0 layers cannot turn {reads} values into {config.out}",
                value=config.out,
                remedy=f"for no head set head.out to {reads}; for a linear one head.layers to 1",
            )
        if self.out_dim % config.blocks:
            raise ConfigError(
                f"a head of {self.out_dim} values does not divide into {config.blocks} blocks",
                value=config.blocks,
            )
        widths = [reads, *[config.hidden or reads] * (config.layers - 1), self.out_dim]
        self.layers = nn.Sequential()
        for index in range(config.layers):
            last = index == config.layers - 1
            norm = config.last_norm if last else config.hidden_norm
            # A norm takes the mean away again, and its own offset does what a bias would do.
            bias = config.bias and not norm
            self.layers.append(nn.Linear(widths[index], widths[index + 1], bias=bias))
            if norm:
                kind = config.last_affine if last else "both"
                self.layers.append(
                    GroupBatchNorm1d(
                        widths[index + 1],
                        norm_groups=norm_groups,
                        affine=kind != "none",
                        offset=kind == "both",
                    )
                )
            if not last:
                self.layers.append(nn.ReLU() if config.activation == "relu" else nn.GELU())

    def forward(self, x: Tensor, normalise: bool | None = None) -> Tensor:
        """Embeddings ``[b, out]`` of features ``[b, d]``.

        Args:
            x: pooled features.
            normalise: overrides the configured normalisation. Normalised embeddings of half
                precision come back in float32, as objectives need them.

        Raises:
            DataError: the features have another length.
        """
        if x.ndim != 2 or x.shape[1] != self.in_dim:
            raise DataError(
                f"the head reads features [b, {self.in_dim}]",
                stage="head",
                value=tuple(x.shape),
                remedy="give it the pooled features of the backbone it was built for",
            )
        index, parts = self.config.part
        z: Tensor = self.layers(x if parts == 1 else x.chunk(parts, dim=1)[index])
        if self.config.normalise if normalise is None else normalise:
            blocks = self.config.blocks
            z = unit(z) if blocks == 1 else unit(z.unflatten(1, (blocks, -1))).flatten(1)
        return z


def unit(rows: Tensor) -> Tensor:
    """Rows ``[..., d]`` brought to length 1, at least in float32; a row of zeros stays one."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return functional.normalize(rows.to(wide), dim=-1)


def build_head(config: HeadConfig, in_dim: int, norm_groups: int = 1) -> Head:
    """Build a head with fresh weights from the global generator.

    Args:
        config: its options.
        in_dim: length of the feature it reads, usually ``backbone.feature_dim``.
        norm_groups: groups of the global batch in its batch norms; the backbone's, usually.

    Raises:
        ConfigError: a head of 0 layers with another output length.
    """
    return Head(config, in_dim, norm_groups)
