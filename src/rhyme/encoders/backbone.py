"""What all backbones share: how they are built, and their geometry."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rhyme.config import override
from rhyme.encoders.backbone_config import BACKBONES, OWN, SOURCES, BackboneConfig, Four, own_name
from rhyme.encoders.features import Features
from rhyme.errors import ConfigError, DataError, UnknownName, nearest

# Earlier versions wrote these into the packages of backbones that have no such option.
_STATED = {"widths": (32, 64, 96, 128)}


class Backbone(nn.Module):
    """Base of all backbones.

    Args:
        config: the configuration it is built from.

    Attributes:
        reads_clips: whether it reads clips ``[b, t, c, h, w]`` instead of frames.
        on_meta: whether its state dict is all that it is, so that it can be built without numbers
            and given them afterwards.
        own: its values of the options that zeros leave to it; it has no others of these.
        config: the configuration with its own values filled in.
        feature_dim: length ``d`` of the pooled feature.
        geometry: for each stage, in order, (stride, offset) in view pixels: cell ``i`` of its map
            is centred on view pixel ``offset + stride * i``, pixel centres at whole numbers.
        side: side of the squares that it reads alone, 0 where it reads frames of any size.
    """

    reads_clips: ClassVar[bool] = False
    on_meta: ClassVar[bool] = True
    own: ClassVar[dict[str, Four]] = {}
    feature_dim: int
    geometry: dict[str, tuple[float, float]]
    side: int = 0

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = self._filled_in(config)

    @property
    def inner(self) -> nn.Module:
        """The module under whose names the weights of its authors are stored."""
        return self

    @classmethod
    def renamed(cls, name: str) -> str:
        """Today's name of an entry in its authors' files."""
        return name

    @classmethod
    def _filled_in(cls, config: BackboneConfig) -> BackboneConfig:
        """The configuration with the backbone's own values.

        Raises:
            ConfigError: an option that it does not have.
        """
        values: dict[str, Four] = {}
        for name in ("strides", "temporal_strides", "widths"):
            given: Four = getattr(config, name)
            if name in cls.own:
                values[name] = cls.own[name] if given == OWN else given
            elif given == _STATED.get(name):
                values[name] = OWN
            elif given != OWN:
                raise _has_no(config, name)
        return replace(config, **values)

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
        self.check_stages(stages)
        pooled, x, kept = self.encode(pixels, stages)
        stride, offset = list(self.geometry.values())[-1] if self.geometry else (None, None)
        return Features(
            pooled=pooled, map=x, stride=stride, offset=offset, stages=kept,
            parts=self.named_parts(pooled),
        )  # fmt: skip

    def encode(
        self, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The pooled feature, the last map, and the maps of ``stages``, of ``[b, c, h, w]``."""
        x, kept = self._through(x, stages)
        return x.mean(dim=(-2, -1)), x, kept

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map) for every stage of ``geometry``, in order."""
        raise TypeError(f"{type(self).__name__} defines no stages")

    def named_parts(self, pooled: Tensor) -> dict[str, Tensor]:
        """The parts of pooled features ``[b, d]`` that the configuration names."""
        names = self.config.parts
        return dict(zip(names, pooled.chunk(len(names), dim=1), strict=True)) if names else {}

    def check_stages(self, stages: Sequence[str]) -> None:
        """Refuse stages that it does not have."""
        for name in stages:
            if name not in self.geometry:
                raise UnknownName(
                    f"the backbone '{self.config.name}' has no stage '{name}'",
                    remedy=nearest(name, self.geometry),
                )

    def _through(self, pixels: Tensor, stages: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The last map, and the maps of ``stages``."""
        x = pixels
        kept: dict[str, Tensor] = {}  # in this form torch.compile can follow
        for name, x in self.walk(pixels):
            if name in stages:
                kept[name] = x
        return x, kept


class ClipBackbone(Backbone):
    """Base of all backbones that read clips: every map has an axis of time.

    Args:
        config: the configuration it is built from.

    Attributes:
        channels_last_on_cpu: whether it is faster there with channels last. Elsewhere, and where it
            is not, the layout of the weights decides (``train.channels_last``).
        smallest: frames, and pixels a side, of the smallest clip that it can read.
        temporal_geometry: for each stage (stride, offset) in frames, as ``geometry`` in pixels.
    """

    reads_clips: ClassVar[bool] = True
    channels_last_on_cpu: ClassVar[bool] = False
    smallest: ClassVar[tuple[int, int]] = (1, 1)
    temporal_geometry: dict[str, tuple[float, float]]

    def forward(self, pixels: Tensor, stages: Sequence[str] = ()) -> Features:
        """Features of clips.

        Args:
            pixels: normalised pixels ``[b, t, c, h, w]``.
            stages: names of the stages (keys of ``geometry``) whose maps to return besides.

        Returns:
            Features with maps ``[b, d, t', h', w']``.

        Raises:
            DataError: the input is no ``[b, t, c, h, w]`` with the configured channels, or its
                clips are too small.
            UnknownName: there is no such stage.
        """
        channels = self.config.in_channels
        if pixels.ndim != 5 or pixels.shape[2] != channels:
            raise DataError(
                f"the encoder reads clips [b, t, {channels}, h, w]",
                stage="encode",
                value=tuple(pixels.shape),
                remedy="give it whole clips (view.data); frames are for encoders of frames",
            )
        self.check_stages(stages)
        frames, side = self.smallest
        if pixels.shape[1] < frames or min(pixels.shape[-2:]) < side:
            raise DataError(
                f"'{self.config.name}' reads clips of at least {frames} frames and {side} pixels",
                stage="encode",
                value=tuple(pixels.shape),
                remedy="give longer or larger clips, or choose small3d",
            )
        x = pixels.transpose(1, 2)
        if self.channels_last_on_cpu and x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last_3d)
        pooled, x, kept = self.encode(x, stages)
        stride, offset = list(self.geometry.values())[-1] if self.geometry else (None, None)
        times = list(self.temporal_geometry.values())
        temporal_stride, temporal_offset = times[-1] if times else (None, None)
        return Features(
            pooled=pooled,
            map=x,
            stride=stride,
            offset=offset,
            temporal_stride=temporal_stride,
            temporal_offset=temporal_offset,
            stages=kept,
            parts=self.named_parts(pooled),
        )

    def encode(
        self, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The pooled feature, the last map, and the maps of ``stages``, of ``[b, c, t, h, w]``."""
        x, kept = self._through(x, stages)
        return x.mean(dim=(-3, -2, -1)), x, kept


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
    config = override(config, {**options, "name": own_name(options.get("name", config.name))})
    with nullcontext() if seed is None else seeded(seed):
        built = backbone_class(config.name)(config)
    if built.feature_dim % max(len(config.parts), 1):
        raise ConfigError(
            f"a feature of {built.feature_dim} values does not divide into {len(config.parts)} "
            "parts",
            value=config.parts,
        )
    return built


def backbone_class(name: str) -> type[Backbone]:
    """The class of a backbone.

    Raises:
        UnknownName: no such backbone, with the nearest one that exists.
    """
    name = own_name(name)
    source = name.partition(":")[0] if ":" in name else ""
    place = SOURCES.get(source) or BACKBONES.get(name)
    if place is None:
        raise UnknownName(f"unknown backbone '{name}'", remedy=nearest(name, BACKBONES))
    module, _, attribute = place.partition(":")
    return cast(type[Backbone], getattr(importlib.import_module(module), attribute))


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed torch's CPU generator within a block, and put its state back afterwards.

    Modules draw their first weights from the global generator; only it is touched, so no
    accelerator is woken up.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class _NoDraws(TorchFunctionMode):
    """Leaves tensors as they are where a module would draw its first weights.

    Drawing on the meta device does nothing, slowly: it imports PyTorch's compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_numbers() -> Generator[None]:
    """Build modules within a block that have names and shapes, and no numbers yet."""
    with torch.device("meta"), _NoDraws():
        yield


def initialise_convolutions(module: nn.Module) -> None:
    """Draw all convolution weights from He et al.'s normal distribution (arXiv 1502.01852).

    Its variance follows the fan-out, as in torchvision's residual networks.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def refuse_options(config: BackboneConfig, names: Sequence[str]) -> None:
    """Refuse options that a backbone does not have, rather than ignore them.

    Raises:
        ConfigError: one of ``names`` is set to something else than its default.
    """
    default = BackboneConfig()
    for name in names:
        if getattr(config, name) != getattr(default, name):
            raise _has_no(config, name)


def _has_no(config: BackboneConfig, name: str) -> ConfigError:
    return ConfigError(
        f"the backbone '{config.name}' has no option '{name}'",
        value=getattr(config, name),
        remedy="leave it out, or choose another backbone",
    )
