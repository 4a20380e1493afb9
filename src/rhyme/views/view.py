"""One view of a batch of items: what an encoder reads, and where it was taken from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from rhyme.transfer import sent

Kind = Literal["pixels", "sound", "tokens", "array"]


@dataclass(frozen=True, kw_only=True)
class View:
    """A named view of ``b`` items.

    Attributes:
        data: pixels ``float32 [b, t, c, h, w]``, sound ``float32 [b, channels, n]``, tokens
            ``int64 [b, n]``, or an array ``[b, ...]``.
        kind: which of the four.
        times: ``float64 [b, t]`` seconds in the item's file at which each frame is shown.
        map: ``float32 [b, t, 2, 3]`` from view pixels to source pixels (pixel centres at whole
            numbers): ``source = map[..., :2] @ (x, y) + map[..., 2]``.
        valid: ``bool [b, t]`` (or ``[b, n]`` for sound and tokens); False where the view was
            filled up.
    """

    data: Tensor
    kind: Kind = "pixels"
    times: Tensor | None = None
    map: Tensor | None = None
    valid: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def frames(self) -> Tensor:
        """Pixels with the items' frames in one row after another: ``[b*t, c, h, w]``."""
        return self.data.flatten(0, 1)

    def to(self, device: torch.device | str) -> View:
        """The same view with its data on ``device``."""
        return replace(self, data=sent(self.data, device))

    def __getitem__(self, rows: slice | Tensor) -> View:
        """The view of a part of the items."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        picked = {k: v[rows] for k, v in tensors.items() if isinstance(v, Tensor)}
        return replace(self, **picked)
