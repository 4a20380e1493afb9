"""What an encoder returns, and how it wants to be fed when training is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from rhyme.config import to_dict


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of ``b`` views: frames, or clips.

    Attributes:
        pooled: ``[b, d]``.
        map: ``[b, d, h, w]``, or ``[b, d, t, h, w]`` of clips.
        stride: view pixels between neighbouring cells of ``map``.
        offset: view pixel at the centre of its first cell.
        temporal_stride: frames between neighbouring cells of a clip's ``map``.
        temporal_offset: frame at the centre of its first cell.
        tokens: ``[b, n, d]``.
        tokens_valid: ``bool [b, n]``.
        stages: feature maps by torchvision's node names (``layer1`` ...).
        parts: parts of ``pooled`` that a system names (stationary, non-stationary, ...).
    """

    pooled: Tensor
    map: Tensor | None = None
    stride: float | None = None
    offset: float | None = None
    temporal_stride: float | None = None
    temporal_offset: float | None = None
    tokens: Tensor | None = None
    tokens_valid: Tensor | None = None
    stages: Mapping[str, Tensor] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class InferencePlan:
    """How a trained encoder wants its input: size, normalisation, and which frames.

    Attributes:
        size: side of the square that the encoder sees, in pixels.
        resize: length of the shorter side before the centre crop, in pixels.
        mean: mean a channel, on the [0, 1] scale.
        std: standard deviation a channel, on the [0, 1] scale.
        frames: frames of a clip; 1 for an encoder of single frames.
        spacing: seconds between them.
        stride: native frames between them; 0 goes by ``spacing``. Both 0: neighbouring frames.
        aspect: width by height that every frame is scaled to before the cut, as in its training;
            None keeps its own.
        interpolation: of the scaling, which is antialiased.
    """

    size: int
    resize: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    frames: int = 1
    spacing: float = 0.0
    stride: int = 0
    aspect: float | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def facts(self) -> dict[str, Any]:
        """The plan as plain data, without the aspect and interpolation that are usual."""
        usual = {"aspect": None, "interpolation": "bilinear"}
        return {k: v for k, v in to_dict(self).items() if (k, v) not in usual.items()}
