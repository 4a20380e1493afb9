"""What names a backbone and determines its architecture: ids, libraries, options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rhyme.errors import ConfigError

Four = tuple[int, int, int, int]
OWN: Four = (0, 0, 0, 0)
"""Stands for the backbone's own values."""

BACKBONES: dict[str, str] = {
    "resnet18": "rhyme.encoders.resnet:ResNet",
    "resnet34": "rhyme.encoders.resnet:ResNet",
    "resnet50": "rhyme.encoders.resnet:ResNet",
    "small": "rhyme.encoders.small:SmallEncoder",
    "small3d": "rhyme.encoders.small3d:SmallClipEncoder",
    "r21d": "rhyme.encoders.shallow3d:ShallowVideoResNet",
    "r3d": "rhyme.encoders.shallow3d:ShallowVideoResNet",
    "c3d": "rhyme.encoders.shallow3d:C3D",
    "s3d": "rhyme.encoders.video:SeparableInception",
    "s3dg": "rhyme.encoders.video:SeparableInception",
    "r3d_18": "rhyme.encoders.video:VideoResNet",
    "r2plus1d_18": "rhyme.encoders.video:VideoResNet",
    "mc3_18": "rhyme.encoders.video:VideoResNet",
    "mvit_v1_b": "rhyme.encoders.video_transformers:MultiscaleTransformer",
    "mvit_v2_s": "rhyme.encoders.video_transformers:MultiscaleTransformer",
    "swin3d_t": "rhyme.encoders.video_transformers:VideoSwin",
    "swin3d_s": "rhyme.encoders.video_transformers:VideoSwin",
    "swin3d_b": "rhyme.encoders.video_transformers:VideoSwin",
}
"""Backbones by id, each as ``"module:class"``; imported when one is built."""

SOURCES: dict[str, str] = {
    "torchvision": "rhyme.encoders.torchvision_shelf:TorchvisionEncoder",
    "timm": "rhyme.encoders.timm_shelf:TimmEncoder",
    "hf": "rhyme.encoders.hugging_face:HuggingFaceEncoder",
    "hf-video": "rhyme.encoders.hugging_face:HuggingFaceClipEncoder",
}
"""Libraries whose encoders are backbones under the name ``library:name``; see ``shelf``."""

_TORCHVISION = {
    "rhyme.encoders.resnet:ResNet",
    "rhyme.encoders.video:SeparableInception",
    "rhyme.encoders.video:VideoResNet",
    "rhyme.encoders.video_transformers:MultiscaleTransformer",
    "rhyme.encoders.video_transformers:VideoSwin",
}

NETWORK_OPTIONS = (
    "stem",
    "strides",
    "temporal_strides",
    "dilations",
    "widths",
    "zero_init_residual",
)
"""Options that describe the network itself and fit no network of another kind.

The others (groups of batch norm, channels of the input, named parts) say what is done with it.
"""

# Packages come from strangers: an absurd size must fail here, before anything is allocated.
_LIMITS = {"strides": 16, "temporal_strides": 16, "dilations": 64, "widths": 8192}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Everything that determines a backbone's architecture.

    Attributes:
        name: a key of :data:`BACKBONES`.
        stem: ``"imagenet"`` is a 7x7 convolution of stride 2 and a max-pool of stride 2;
            ``"cifar"`` one 3x3 convolution of stride 1 (SimCLR, appendix B.9). ResNets only.
        strides: stride of ``layer1`` to ``layer4`` in space; zeros for the backbone's own.
        temporal_strides: the same in time; zeros for the backbone's own. Clip encoders only.
        dilations: spacing of the taps of the 3x3 convolutions in ``layer1`` to ``layer4``. The
            strided convolution that opens a layer still has the spacing of the layer before, so
            that strides (1, 2, 1, 1) with dilations (1, 1, 2, 4) give the very features of the
            strided network on a grid four times finer. ResNets only.
        widths: channels of the four layers; zeros for the backbone's own. ``small`` and
            ``small3d`` only.
        norm_groups: parts of the *global* batch that batch norm normalises apart.
        zero_init_residual: start every residual branch at zero. ResNets only.
        in_channels: channels of the input.
        parts: names of equal parts of the pooled feature, in order; ``Features.parts`` has them.
    """

    name: str = "resnet18"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    strides: Four = OWN
    temporal_strides: Four = OWN
    dilations: Four = (1, 1, 1, 1)
    widths: Four = OWN
    norm_groups: int = 1
    zero_init_residual: bool = False
    in_channels: int = 3
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, limit in _LIMITS.items():
            values: Sequence[int] = getattr(self, field)
            if values == OWN and field != "dilations":
                continue
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
        if len(self.parts) > 64 or len({*self.parts, "pooled"}) <= len(self.parts):
            raise ConfigError(
                "backbone.parts names up to 64 parts, each once, and none 'pooled'",
                value=self.parts,
            )


@dataclass(frozen=True, kw_only=True)
class DescribedConfig(BackboneConfig):
    """A backbone whose architecture is told by a description, not by its name.

    Attributes:
        architecture: Hugging Face's configuration as JSON.
    """

    architecture: str = ""


def own_name(name: str) -> str:
    """A network of torchvision's that rhyme builds itself goes by rhyme's id of it."""
    bare = name.removeprefix("torchvision:")
    return bare if bare in BACKBONES and BACKBONES[bare] in _TORCHVISION else name


def kind_of(name: str) -> str:
    """What kind of network a name stands for; those of one kind have the same options.

    Args:
        name: as in :attr:`BackboneConfig.name`.

    Returns:
        The same text for all networks of a kind, e.g. the three residual ones of pictures; that of
        an unknown name is its own.
    """
    source, colon, _ = name.partition(":")
    name = own_name(name)
    return BACKBONES.get(name) or (SOURCES.get(source, name) if colon else name)
