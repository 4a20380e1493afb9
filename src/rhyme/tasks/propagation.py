"""Labels of the first frame, carried through a video by the similarity of features.

Nothing is trained. Each place of a frame takes the labels of the places in the first and the last
few frames that look most like it (videowalk, arXiv 2006.14613; VFS, arXiv 2103.17263).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rhyme.errors import ConfigError, DataError
from rhyme.kernels import Window, propagate, windowed_affinity

__all__ = ["PROPAGATION_PRESETS", "PropagationRule", "grid_labels", "label_map", "propagate_labels"]


@dataclass(frozen=True, kw_only=True)
class PropagationRule:
    """How labels are carried; results of different rules are not comparable.

    Attributes:
        context: frames before the present one that are looked at, beside the first frame.
        k: places kept, of all frames together.
        temperature: τ of the softmax over the kept places.
        radius: cells within which a place is looked for (Euclidean, exclusive).
        window_first: the radius holds for the first frame too.
        pad_first: at the beginning the first frame stands in for those that are missing.
        resize: of the first mask to the grid: ``"nearest"``, or ``"bilinear"`` for soft labels.
        stretch: scale each channel to 0 to 1 before the arg-max.
    """

    context: int = 20
    k: int = 10
    temperature: float = 0.07
    radius: float = 12.0
    window_first: bool = True
    pad_first: bool = False
    resize: Literal["nearest", "bilinear"] = "nearest"
    stretch: bool = True

    def __post_init__(self) -> None:
        if self.context < 1:
            raise ConfigError("context must be at least 1", value=self.context, remedy="try 20")

    def frames(self, t: int) -> list[int]:
        """The context of frame ``t`` ≥ 1: the first frame, then those before ``t``, in order.

        While ``t`` is small the first frame stands in it several times, and takes part in the
        choice of the best as often.
        """
        first = t - self.context
        return [0, *(max(i, 0) for i in range(first if self.pad_first else max(first, 0), t))]


PROPAGATION_PRESETS: dict[str, PropagationRule] = {
    "vfs": PropagationRule(),
    "vfs-r50": PropagationRule(radius=18.0),
    "videowalk": PropagationRule(
        temperature=0.05, window_first=False, pad_first=True, resize="bilinear", stretch=False
    ),
}
"""Published rules: ``vfs`` (its ResNet-18), ``vfs-r50`` (its ResNet-50) and ``videowalk`` (CRW)."""


def grid_labels(
    labels: Tensor, objects: int, size: tuple[int, int], rule: PropagationRule
) -> Tensor:
    """Channels of a frame's labels on the grid of its features.

    Args:
        labels: int64 ``[y, x]``, 0 is the background.
        objects: number of objects.
        size: rows and columns of the grid.
        rule: how to resize.

    Returns:
        ``float32 [h, w, objects + 1]`` that sum to 1.
    """
    channels = functional.one_hot(labels.long(), objects + 1).permute(2, 0, 1)[None].float()
    if rule.resize == "nearest":  # samples at pixel centres, as pictures are resized elsewhere
        small = functional.interpolate(channels, size, mode="nearest-exact")
    else:
        small = functional.interpolate(channels, size, mode="bilinear", align_corners=False)
    return small[0].permute(1, 2, 0).contiguous()


def propagate_labels(
    features: Iterable[Tensor], first: Tensor, rule: PropagationRule
) -> Iterator[Tensor]:
    """Carry soft labels from the first frame through all others.

    Args:
        features: ``[h, w, d]`` unit features of each frame, in order; taken one at a time.
        first: ``[h, w, c]`` labels of the first frame.
        rule: how.

    Yields:
        ``[h, w, c]`` for each frame; the first is ``first`` itself.

    Raises:
        DataError: the grids of features and labels differ.
    """
    bank: dict[int, tuple[Tensor, Tensor]] = {}
    window = Window(rule.radius)
    whole = () if rule.window_first else (0,)
    for t, feature in enumerate(features):
        if feature.shape[:2] != first.shape[:2]:
            raise DataError(
                "features and labels lie on different grids",
                stage="propagate",
                value=(tuple(feature.shape), tuple(first.shape)),
            )
        label = first
        if t:
            frames = rule.frames(t)
            found = windowed_affinity(
                feature,
                torch.stack([bank[i][0] for i in frames]),
                rule.k,
                temperature=rule.temperature,
                window=window,
                whole=whole,
            )
            label = propagate(torch.stack([bank[i][1] for i in frames]), found)
        bank[t] = (feature, label)
        if t > rule.context:
            bank.pop(t - rule.context, None)
        yield label


def label_map(soft: Tensor, size: tuple[int, int], rule: PropagationRule) -> Tensor:
    """Labels of a frame's pixels, ``int64 [y, x]``, from soft labels ``[h, w, c]`` on the grid.

    Args:
        soft: as :func:`propagate_labels` yields them.
        size: rows and columns of the frame.
        rule: whether channels are stretched.
    """
    large = functional.interpolate(
        soft.permute(2, 0, 1)[None].float(), size, mode="bilinear", align_corners=False
    )[0]
    if rule.stretch:
        low, high = (f(large, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
        scaled = (large - low) / (high - low).clamp(min=1e-12)
        large = torch.where(high > 0, scaled, large)
    return large.argmax(dim=0)
