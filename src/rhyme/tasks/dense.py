"""Dense features: the same trained weights on a finer grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rhyme.encoders import Backbone, Features, build_backbone
from rhyme.errors import ConfigError, UnknownName, nearest

__all__ = ["DenseEncoder", "dense_encoder"]


@dataclass(frozen=True)
class DenseEncoder:
    """An encoder that gives a map of unit features.

    Attributes:
        module: the backbone, in evaluation mode.
        stage: the stage that is read.
        stride: pixels between neighbouring cells.
        offset: pixel at the centre of the first cell.
    """

    module: Backbone
    stage: str
    stride: float
    offset: float

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Unit features ``[b, d, h, w]`` of normalised pixels ``[b, c, y, x]``."""
        device = next(self.module.parameters()).device
        found = cast(Features, self.module(pixels.to(device), stages=(self.stage,)))
        return functional.normalize(found.stages[self.stage].float(), dim=1)


def dense_encoder(module: nn.Module, stride: int = 8, stage: str | None = None) -> DenseEncoder:
    """The encoder with strides so small that neighbouring cells are ``stride`` pixels apart.

    Later layers lose their stride first: of a ResNet at 8 stay strides (1, 2, 1, 1), as in label
    propagation (VFS, CRW). Weights are those of the encoder; without dilation deep layers see a
    smaller field than they were trained with.

    Args:
        module: a backbone.
        stride: largest distance of cells, in pixels.
        stage: the stage to read; None takes ``layer3`` of a ResNet (res4) and else the last.

    Returns:
        The dense encoder; a copy where strides differ from the module's.

    Raises:
        ConfigError: the module is no backbone, or cannot be so fine.
        UnknownName: there is no such stage.
    """
    if not isinstance(module, Backbone):
        raise ConfigError("dense features need a backbone", value=type(module).__name__)
    if module.reads_clips:
        raise ConfigError(
            "dense features need an encoder of frames",
            value=module.config.name,
            remedy="this one reads whole clips: judge it by neighbours, probes or retrieval",
        )
    if not module.geometry:
        raise ConfigError(
            "dense features need an encoder that gives a map",
            value=module.config.name,
            remedy="this one gives a feature a frame: judge it by neighbours, probes or retrieval",
        )
    if stage is None:
        stage = "layer3" if module.config.name.startswith("resnet") else list(module.geometry)[-1]
    if stage not in module.geometry:
        raise UnknownName(
            f"the backbone has no stage '{stage}'", remedy=nearest(stage, module.geometry)
        )
    strides = list(module.config.strides)
    built = module
    for layer in reversed(range(4)) if "strides" in module.own else ():
        if built.geometry[stage][0] <= stride:
            break
        strides[layer] = 1
        first, second, third, fourth = strides
        config = replace(module.config, strides=(first, second, third, fourth))
        built = build_backbone(config, seed=0)
    if built.geometry[stage][0] > stride:
        raise ConfigError(
            f"'{stage}' cannot have cells every {stride} pixels",
            value=built.geometry[stage][0],
            remedy=f"choose a stride of at least {built.geometry[stage][0]:g}",
        )
    if built is not module:
        built.load_state_dict(module.state_dict())
        built.to(next(module.parameters()).device).eval()
    return DenseEncoder(built, stage, *built.geometry[stage])
