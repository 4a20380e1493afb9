"""Dense features: the same trained weights on a finer grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rhyme.encoders import Backbone, BackboneConfig, Features, build_backbone
from rhyme.errors import ConfigError, DataError, EvaluationError, UnknownName, nearest

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
        """Unit features ``[b, d, h, w]`` of normalised pixels ``[b, c, y, x]``.

        A network that reads squares of one side is given smaller frames with a margin of zeros on
        the right and below; cells of the margin are cut off.

        Raises:
            DataError: the frames are larger than that side.
        """
        device = next(self.module.parameters()).device
        height, width = pixels.shape[-2:]
        side = self.module.side
        if side and max(height, width) > side:
            raise DataError(
                f"'{self.module.config.name}' reads frames of at most {side} x {side} pixels",
                stage="encode",
                value=(height, width),
                remedy="scale the frames with the protocol's option height, e.g. "
                f"--propagation.height {side * height // max(height, width)}, or build the "
                "encoder for larger ones with --size",
            )
        if side:
            pixels = functional.pad(pixels, (0, side - width, 0, side - height))
        found = cast(Features, self.module(pixels.to(device), stages=(self.stage,)))
        cells = found.stages[self.stage].float()
        if side:
            rows, columns = (max(int(n // self.stride), 1) for n in (height, width))
            cells = cells[..., :rows, :columns]
        return functional.normalize(cells, dim=1)


def dense_encoder(
    module: nn.Module, stride: int = 8, stage: str | None = None, *, options: str = ""
) -> DenseEncoder:
    """The encoder with strides so small that neighbouring cells are ``stride`` pixels apart.

    Later layers lose their stride first: of a ResNet at 8 stay strides (1, 2, 1, 1), as in label
    propagation (VFS, CRW). Weights are those of the encoder; without dilation deep layers see a
    smaller field than they were trained with. The strides of other libraries' networks stay.

    Args:
        module: a backbone.
        stride: largest distance of cells, in pixels.
        stage: the stage to read; None takes the deepest one that can be so fine (of a ResNet none
            behind ``layer3``, res4), and where none can, the finest, whose stride is larger then.
        options: what stands before ``stride`` and ``stage`` in the names of the user's options,
            for messages, e.g. ``"--propagation."``.

    Returns:
        The dense encoder; a copy where strides differ from the module's.

    Raises:
        EvaluationError: the encoder reads clips, or gives no map.
        ConfigError: the module is no backbone, or the given stage cannot be so fine.
        UnknownName: there is no such stage.
    """
    if not isinstance(module, Backbone):
        raise ConfigError("dense features need a backbone", value=type(module).__name__)
    if module.reads_clips:
        raise EvaluationError(
            "dense features need an encoder of frames",
            value=module.config.name,
            remedy="this one reads whole clips: judge it by neighbours, probes or retrieval",
        )
    if not module.geometry:
        raise EvaluationError(
            "dense features need an encoder that gives a map",
            value=module.config.name,
            remedy="this one gives a feature a frame: judge it by neighbours, probes or retrieval",
        )
    every = list(module.geometry)
    if stage is not None and stage not in every:
        raise UnknownName(f"the backbone has no stage '{stage}'", remedy=nearest(stage, every))
    if module.config.name.startswith("resnet"):
        every = every[: every.index("layer3") + 1]
    names = [stage] if stage is not None else every[::-1]
    found = {name: _finer(module, name, stride) for name in names}
    # the deepest that is fine enough; of the others the finest, and of equals the deepest
    best = min(names, key=lambda name: max(found[name][1], float(stride)))
    config, at = found[best]
    if stage is not None and at > stride:
        fine = [n for n in module.geometry if _finer(module, n, stride)[1] <= stride]
        can = ", ".join(f"{options}stage {name}" for name in fine)
        raise ConfigError(
            f"'{stage}' cannot have cells every {stride} pixels",
            value=at,
            remedy=f"choose {options}stride {at:g} or more" + (f", or {can}" if can else ""),
        )
    built = module if config == module.config else build_backbone(config, seed=0)
    if built is not module:
        built.load_state_dict(module.state_dict())
        built.to(next(module.parameters()).device).eval()
    return DenseEncoder(built, best, *built.geometry[best])


def _finer(module: Backbone, stage: str, stride: int) -> tuple[BackboneConfig, float]:
    """The configuration whose later layers gave up strides until the stage is so fine; its stride.

    A network whose strides cannot be changed keeps its own.
    """
    config, at = module.config, module.geometry[stage][0]
    strides = list(config.strides)
    for layer in reversed(range(4)) if "strides" in module.own else ():
        if at <= stride:
            break
        strides[layer] = 1
        first, second, third, fourth = strides
        config = replace(config, strides=(first, second, third, fourth))
        with torch.device("meta"):  # only its geometry is asked for
            at = build_backbone(config).geometry[stage][0]
    return config, at
