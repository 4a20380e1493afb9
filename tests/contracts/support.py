"""What the miniature systems share: a source of rows in an order that is a function of the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from rhyme.loading.batch import Batch
from rhyme.views.keys import Keys


class RowSource:
    """Batches of row numbers; ``fill(ids)`` gives views, targets and masks."""

    def __init__(self, items: int, batch_size: int, seed: int) -> None:
        self.items, self.batch_size, self.seed, self.position = items, batch_size, seed, 0
        self.groups, self.batches_per_epoch = items, items // batch_size
        self.fingerprint = hashlib.sha256(f"{type(self).__name__}{items}".encode()).hexdigest()

    def batches(self) -> Iterator[Batch]:
        while True:
            epoch, slot = divmod(self.position, self.batches_per_epoch)
            order = Keys.of(self.seed, epoch, [0]).permutation("order", self.items)[0]
            ids = torch.from_numpy(order[slot * self.batch_size :][: self.batch_size].copy())
            self.position += 1
            yield Batch(ids=ids, index=ids, group=ids, epoch=epoch, **self.fill(ids))

    def fill(self, ids: torch.Tensor) -> dict[str, Any]:
        raise TypeError("a source of rows fills its batches")

    def observe(self, output: Any) -> None:
        """Rows do not learn."""

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])

    def close(self) -> None:
        """Nothing is open."""


def noise(seed: int, *shape: int) -> torch.Tensor:
    """Fixed made-up data."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
