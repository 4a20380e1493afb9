"""The queue of keys of earlier batches (MoCo, arXiv 1911.05722, §3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rhyme import distributed
from rhyme.errors import ConfigError, DataError


class FeatureQueue(nn.Module):
    """The last ``size`` keys of the global batch, with the group each belongs to.

    First in, first out; any batch size fits, also one larger than the queue. Everything is in the
    state dict, so a resumed run continues with the same negatives. All ranks hold the same queue.

    Args:
        size: number of slots, k.
        dim: dimension of a key, d.
        init: ``"random"`` starts with random unit rows that belong to nobody; ``"empty"`` with
            zeros, which :meth:`entries` leaves out.
        generator: for the random rows; the global generator by default.

    Attributes:
        features: float32 ``[k, d]`` unit rows.
        owners: int64 ``[k]``, group of each key; −1 for nobody's.
        pointer: int64 scalar, the slot that is written next.
        written: int64 scalar, slots written so far, at most k.

    Raises:
        ConfigError: a size below 1 or an unknown ``init``.
    """

    features: Tensor
    owners: Tensor
    pointer: Tensor
    written: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        init: Literal["random", "empty"] = "random",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ConfigError(
                "a queue needs at least one slot and one dimension", value=(size, dim)
            )
        if init not in ("random", "empty"):
            raise ConfigError("init must be 'random' or 'empty'", value=init)
        self.size = size
        self.dim = dim
        self.init = init
        features = torch.zeros(size, dim)
        if init == "random":
            features = torch.randn(size, dim, generator=generator)
            features = nn.functional.normalize(features, dim=1)
        self.register_buffer("features", features)
        self.register_buffer("owners", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> int:
        """Slots that hold a key, not counting random rows. Waits for a GPU."""
        return int(self.written)

    def entries(self, only_filled: bool | None = None) -> tuple[Tensor, Tensor]:
        """Features ``[n, d]`` and owners ``[n]``.

        Args:
            only_filled: leave out slots that no key was written to; by default exactly when the
                queue started empty.
        """
        if self.init == "empty" if only_filled is None else only_filled:
            filled = self.filled
            return self.features[:filled], self.owners[:filled]
        return self.features, self.owners

    @torch.no_grad()
    def enqueue(self, keys: Tensor, owners: Tensor | None = None) -> None:
        """Write this batch's keys over the oldest ones. Call it after the backward pass.

        Args:
            keys: ``[b, d]`` local unit rows; those of all ranks are gathered in rank order.
            owners: int64 ``[b]`` group of each key; None for nobody's.

        Raises:
            DataError: shapes do not fit.
        """
        if keys.ndim != 2 or keys.shape[1] != self.dim:
            raise DataError("keys must be [b, d]", value=(tuple(keys.shape), self.dim))
        if owners is None:
            owners = torch.full((len(keys),), -1)
        if owners.shape != keys.shape[:1]:
            raise DataError(
                "owners must give one group for each key",
                value=(tuple(owners.shape), tuple(keys.shape)),
            )
        keys = distributed.gather(keys.to(self.features))
        owners = distributed.gather(owners.to(self.owners))
        count = len(keys)
        skipped = max(count - self.size, 0)  # of a batch larger than the queue only the end stays
        slots = torch.arange(skipped, count, device=self.pointer.device) + self.pointer
        slots %= self.size
        self.features[slots] = keys[skipped:]
        self.owners[slots] = owners[skipped:]
        self.pointer.add_(count).remainder_(self.size)
        self.written.add_(count).clamp_(max=self.size)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"size={self.size}, dim={self.dim}, init={self.init!r}"
