"""What all backbones share: their configuration, their registry, and their geometry."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from rhyme.config import override
from rhyme.encoders.features import Features
from rhyme.errors import ConfigError, DataError, UnknownName, nearest

Four = tuple[int, int, int, int]

BACKBONES: dict[str, str] = {
    "resnet18": "rhyme.encoders.resnet:ResNet",
    "resnet34": "rhyme.encoders.resnet:ResNet",
    "resnet50": "rhyme.encoders.resnet:ResNet",
    "small": "rhyme.encoders.small:SmallEncoder",
}
"""Backbones by id, each as ``"module:class"``; imported when one is built."""

# Packages come from strangers: an absurd size must fail here, before anything is allocated.
_LIMITS = {"strides": 16, "dilations": 64, "widths": 8192}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Everything that determines a backbone's architecture.

    Attributes:
        name: a key of :data:`BACKBONES`.
        stem: ``"imagenet"`` is a 7x7 convolution of stride 2 and a max-pool of stride 2;
            ``"cifar"`` one 3x3 convolution of stride 1 (SimCLR, appendix B.9). ResNets only.
        strides: stride of ``layer1`` to ``layer4``.
        dilations: spacing of the taps of the 3x3 convolutions in ``layer1`` to ``layer4``. The
            strided convolution that opens a layer still has the spacing of the layer before, so
            that strides (1, 2, 1, 1) with dilations (1, 1, 2, 4) give the very features of the
            strided network on a grid four times finer. ResNets only.
        widths: channels of the four layers. ``small`` only.
        norm_groups: parts of the *global* batch that batch norm normalises apart.
        zero_init_residual: start every residual branch at zero. ResNets only.
        in_channels: channels of the input.
    """

    name: str = "resnet18"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    strides: Four = (1, 2, 2, 2)
    dilations: Four = (1, 1, 1, 1)
    widths: Four = (32, 64, 96, 128)
    norm_groups: int = 1
    zero_init_residual: bool = False
    in_channels: int = 3

    def __post_init__(self) -> None:
        for field, limit in _LIMITS.items():
            values: Sequence[int] = getattr(self, field)
            if len(values) != 4 or any(not 1 <= value <= limit for value in values):
                raise ConfigError(
                    f"backbone.{field} must be four whole numbers of 1 to {limit}",
                    value=tuple(values),
                    remedy="give one value each for layer1, layer2, layer3 and layer4",
                )
        if not 1 <= self.in_channels <= 1024:
            raise ConfigError("backbone.in_channels must lie in 1 to 1024", value=self.in_channels)
        if not 1 <= self.norm_groups <= 65536:
            raise ConfigError("backbone.norm_groups must lie in 1 to 65536", value=self.norm_groups)


class Backbone(nn.Module):
    """Base of all backbones.

    Args:
        config: the configuration it is built from.

    Attributes:
        config: the same.
        feature_dim: length ``d`` of the pooled feature.
        geometry: for each stage, in order, (stride, offset) in view pixels: cell ``i`` of its map
            is centred on view pixel ``offset + stride * i``, pixel centres at whole numbers.
    """

    feature_dim: int
    geometry: dict[str, tuple[float, float]]

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, pixels: Tensor, stages: Sequence[str] = ()) -> Features:
        """Features of views.

        Args:
            pixels: normalised pixels ``[b, c, h, w]``.
            stages: names of the stages (keys of ``geometry``) whose maps to return besides.

        Raises:
            DataError: the input is no ``[b, c, h, w]`` with the configured channels.
            UnknownName: there is no such stage.
        """
        if pixels.ndim != 4 or pixels.shape[1] != self.config.in_channels:
            raise DataError(
                f"the encoder reads [b, {self.config.in_channels}, h, w]",
                stage="encode",
                value=tuple(pixels.shape),
                remedy="put the frames of a clip into the batch first: view.frames",
            )
        for name in stages:
            if name not in self.geometry:
                raise UnknownName(
                    f"the backbone '{self.config.name}' has no stage '{name}'",
                    remedy=nearest(name, self.geometry),
                )
        x = pixels
        kept: dict[str, Tensor] = {}  # in this form torch.compile can follow
        for name, x in self.walk(pixels):
            if name in stages:
                kept[name] = x
        stride, offset = list(self.geometry.values())[-1]
        return Features(
            pooled=x.mean(dim=(-2, -1)), map=x, stride=stride, offset=offset, stages=kept
        )

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for every stage of ``geometry``, in order."""
        raise TypeError(f"{type(self).__name__} defines no stages")


def cell_geometry(layers: Sequence[tuple[int, int, int, int]]) -> tuple[float, float]:
    """Stride and offset of the cells behind a chain of convolutions or poolings.

    Args:
        layers: (kernel, stride, padding, dilation) of each, from the input on.

    Returns:
        (stride, offset): cell ``i`` is centred on input pixel ``offset + stride * i``.
    """
    stride, offset = 1.0, 0.0
    for kernel, step, padding, dilation in layers:
        offset += stride * (dilation * (kernel - 1) / 2 - padding)
        stride *= step
    return stride, offset


def build_backbone(
    config: BackboneConfig | str, *, seed: int | None = None, **options: Any
) -> Backbone:
    """Build a backbone with fresh weights.

    Args:
        config: a configuration, or an id of :data:`BACKBONES` with default options.
        seed: draw the weights from this seed and leave the global generator alone; None draws
            from the global generator, as torch does.
        options: fields of :class:`BackboneConfig` to change.

    Raises:
        UnknownName: no such backbone or option, with the nearest one that exists.
        ConfigError: an option out of range, or one that this backbone does not have.
    """
    if isinstance(config, str):
        config = BackboneConfig(name=config)
    config = override(config, options)
    if config.name not in BACKBONES:
        raise UnknownName(
            f"unknown backbone '{config.name}'", remedy=nearest(config.name, BACKBONES)
        )
    module, _, attribute = BACKBONES[config.name].partition(":")
    builder = cast(type[Backbone], getattr(importlib.import_module(module), attribute))
    with nullcontext() if seed is None else seeded(seed):
        return builder(config)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed torch's CPU generator within a block, and put its state back afterwards.

    Modules draw their first weights from the global generator; only it is touched, so no
    accelerator is woken up.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def initialise_convolutions(module: nn.Module) -> None:
    """Draw all convolution weights from He et al.'s normal distribution (arXiv 1502.01852).

    Its variance follows the fan-out, as in torchvision's residual networks.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def refuse_options(config: BackboneConfig, names: Sequence[str]) -> None:
    """Refuse options that a backbone does not have, rather than ignore them.

    Raises:
        ConfigError: one of ``names`` is set to something else than its default.
    """
    default = BackboneConfig()
    for name in names:
        if getattr(config, name) != getattr(default, name):
            raise ConfigError(
                f"the backbone '{config.name}' has no option '{name}'",
                value=getattr(config, name),
                remedy="leave it out, or choose another backbone",
            )
