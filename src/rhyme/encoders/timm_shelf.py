"""Encoders of timm (extra ``timm``) under timm's own parameter names. Nothing is downloaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rhyme.encoders.backbone import Backbone, refuse_options
from rhyme.encoders.backbone_config import BackboneConfig
from rhyme.encoders.borrowed import (
    OPTIONS,
    Borrowed,
    library,
    nearest_interpolation,
    switch_off_chance,
    unreadable,
)
from rhyme.encoders.cell_places import CellPlaces
from rhyme.encoders.norm import group_norms
from rhyme.errors import ConfigError, UnknownName, nearest


class TimmEncoder(Borrowed, Backbone):
    """A network of timm's without its classifier; its one stage is ``stage1``, the last map.

    Dropout and stochastic depth are off; batch norm works over groups of the global batch.

    Args:
        config: ``name`` is ``timm:NAME``, or ``timm:NAME@SIDE`` for pictures of another size than
            the network's own.

    Raises:
        ConfigError: timm is not installed, or an option that these encoders do not have.
        UnknownName: timm has no such network.
    """

    on_meta: ClassVar[bool] = False

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        refuse_options(config, OPTIONS)
        net = build(config)
        switch_off_chance(net)
        group_norms(net, config.norm_groups)
        self.net: nn.Module = net
        self.feature_dim = int(getattr(net, "head_hidden_size", None) or net.num_features)
        side = input_side(net)
        self.side = side if fixed_size(config.name) else 0
        empty = copy.deepcopy(net).to("meta").eval()
        places = CellPlaces(empty, side, empty.forward_features)  # pyright: ignore
        self._prefix = int(getattr(net, "num_prefix_tokens", 0))
        self._last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        self._stride, self.geometry = 0, {}
        shape = tuple(places.output.shape)
        if len(shape) == 4:
            self.geometry = {"stage1": places.of(shape[1] if self._last else shape[2])}
        elif len(shape) == 3:
            cells = round((shape[1] - self._prefix) ** 0.5)
            if cells * cells == shape[1] - self._prefix and cells > 1:
                self.geometry = {"stage1": places.of(cells)}
                self._stride = round(side / cells)

    def encode(
        self, x: Tensor, stages: Sequence[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """What the classifier would read, the last map, and the same as a stage."""
        net: Any = self.net
        try:
            found = net.forward_features(x)
            pooled = net.forward_head(found, pre_logits=True)
        except (AssertionError, RuntimeError) as error:
            raise unreadable(self.config.name, x, error, self.side) from error
        grid: Tensor | None = None
        if self.geometry and found.ndim == 4:
            grid = found.permute(0, 3, 1, 2) if self._last else found
        elif self.geometry:
            size = (x.shape[-2] // self._stride, x.shape[-1] // self._stride)
            grid = found[:, self._prefix :].transpose(1, 2).unflatten(2, size)
        maps: dict[str, Tensor] = {}
        if grid is not None:
            maps = dict.fromkeys(stages, grid)
        return pooled, grid, maps


def build(config: BackboneConfig) -> Any:
    """Timm's network with fresh weights.

    Raises:
        UnknownName: there is none of that name.
        ConfigError: it cannot be built with this size or these channels.
    """
    timm = library("timm")
    bare, _, side = config.name.removeprefix("timm:").partition("@")
    if not timm.is_model(bare):
        raise _unknown(timm, bare)
    options: dict[str, Any] = {}
    if side:
        if not side.isdecimal() or not 16 <= int(side) <= 2048:
            raise ConfigError("a size lies in 16 to 2048 pixels", value=side)
        options["img_size"] = int(side)
    try:
        # on the CPU whatever the context says: timm computes with numbers while it builds
        with torch.device("cpu"):
            return timm.create_model(
                bare, pretrained=False, num_classes=0, in_chans=config.in_channels, **options
            )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"timm cannot build '{bare}' so: {str(error)[:200]}",
            stage="build encoder",
            value=config.name,
            remedy="leave the size out: only networks with positions have one",
        ) from error


def input_side(net: Any) -> int:
    """Side of the square that a network was made for, in pixels."""
    built = getattr(getattr(net, "patch_embed", None), "img_size", None)
    return int(built[0] if built else net.pretrained_cfg["input_size"][-1])


def recommended(name: str) -> dict[str, Any]:
    """What timm says of the pixels that a network wants: fields of an inference plan."""
    timm = library("timm")
    bare, _, side = name.removeprefix("timm:").partition("@")
    told = _told(timm, bare)
    size = int(side or told["input_size"][-1])
    return {
        "size": size,
        "resize": max(round(size / (told.get("crop_pct") or 0.875)), size),
        "mean": tuple(told["mean"]),
        "std": tuple(told["std"]),
        "interpolation": nearest_interpolation(str(told.get("interpolation", ""))),
    }


def fixed_size(name: str) -> bool:
    """Whether a network reads pictures of one size, which is told when it is built."""
    timm = library("timm")
    bare = name.removeprefix("timm:").partition("@")[0]
    return bool(_told(timm, bare).get("fixed_input_size"))


def _told(timm: Any, bare: str) -> dict[str, Any]:
    """What is told of a network's default weights.

    Raises:
        UnknownName: there is no such network.
    """
    if not timm.is_model(bare):
        raise _unknown(timm, bare)
    known = timm.get_pretrained_cfg(bare)
    return known.to_dict() if known is not None else timm.create_model(bare).pretrained_cfg


def _unknown(timm: Any, bare: str) -> UnknownName:
    return UnknownName(
        f"timm has no network '{bare}'",
        stage="build encoder",
        remedy=nearest(bare, timm.list_models()),
    )
