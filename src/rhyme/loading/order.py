"""The order of items: a function of the run seed, with an exact position in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import CheckpointError, ConfigError, DataError
from rhyme.views.keys import Keys

__all__ = ["BatchOrder"]

_VERSION = 1


class BatchOrder:
    """Which items make up which batch, epoch after epoch, and how many batches were handed out.

    Without weights an epoch is a permutation of all items that depends on (seed, epoch) and the
    items' ids, not on their place in the table. With weights it is as many draws with replacement;
    an item that comes again carries a higher *repeat*, so that its draws differ.

    Args:
        ids: ``uint64 [n]`` item ids.
        seed: run seed.
        batch_size: items of a global batch.
        drop_last: leave out the last batch of an epoch if it is smaller.
        shuffle: permute; else every epoch runs in the order given.
        fingerprint: what the items are; a state of others is refused.

    Raises:
        ConfigError: a batch size below 1.
        DataError: an epoch would be shorter than one batch.
    """

    def __init__(
        self,
        ids: NDArray[np.uint64],
        *,
        seed: int,
        batch_size: int,
        drop_last: bool = True,
        shuffle: bool = True,
        fingerprint: str = "",
    ) -> None:
        if batch_size < 1:
            raise ConfigError("the batch size must be at least 1", value=batch_size)
        if len(ids) == 0 or (drop_last and len(ids) < batch_size):
            raise DataError(
                f"{len(ids)} items do not fill a batch of {batch_size}",
                stage="loading",
                remedy=f"use a batch size of at most {len(ids)}" if len(ids) else "give more items",
            )
        self.ids = np.asarray(ids, dtype=np.uint64)
        self.seed = seed
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.fingerprint = fingerprint
        self.epoch = 0
        self.batch = 0
        self._weights: dict[int, NDArray[np.float64]] = {}  # from this epoch on
        self._made: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch."""
        whole, rest = divmod(len(self.ids), self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def positions(self) -> Iterator[tuple[int, int]]:
        """(epoch, batch) from the current position on, without end; the position stays."""
        epoch, batch = self.epoch, self.batch
        while True:
            yield epoch, batch
            epoch, batch = self._after(epoch, batch)

    def handed_out(self, epoch: int, batch: int) -> None:
        """Note that this batch went to the consumer."""
        self.epoch, self.batch = self._after(epoch, batch)

    def rows(self, epoch: int, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Item rows of a global batch, and how often each came before in the epoch."""
        if epoch not in self._made:
            if len(self._made) > 1:
                self._made.pop(next(iter(self._made)))
            self._made[epoch] = self._epoch_rows(epoch)
        rows, repeats = self._made[epoch]
        part = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        return rows[part], repeats[part]

    def set_weights(self, weights: Tensor | NDArray[Any]) -> None:
        """Sample by weight, from this epoch on if it has not begun, else from the next one on.

        Raises:
            DataError: not one finite weight >= 0 an item, or no weight above 0.
        """
        given = np.asarray(weights, dtype=np.float64)
        if given.shape != self.ids.shape or not np.isfinite(given).all() or (given < 0).any():
            raise DataError(
                "sampler weights must be one finite number >= 0 an item",
                stage="loading",
                value=given.shape,
                remedy=f"give {len(self.ids)} weights",
            )
        if given.sum() <= 0:
            raise DataError("all sampler weights are 0", stage="loading")
        first = self.epoch if self.batch == 0 else self.epoch + 1
        current = self._weights_at(self.epoch)
        self._weights = {} if current is None else {self.epoch: current}
        self._weights[first] = given
        self._made.clear()

    def state_dict(self) -> dict[str, Any]:
        """Position, and everything else that the next batches depend on."""
        weights = {str(e): torch.from_numpy(w.copy()) for e, w in sorted(self._weights.items())}
        return {"epoch": self.epoch, "batch": self.batch, "weights": weights, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: the state belongs to other data, another seed or batch size, ...
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"the checkpoint's {name.replace('_', ' ')} is another one",
                    stage="resume",
                    value={"checkpoint": state.get(name), "now": value},
                    remedy="resume with the data and the options that the run was started with",
                )
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        self._weights = {
            int(epoch): np.asarray(weights, dtype=np.float64)
            for epoch, weights in dict(state["weights"]).items()
        }
        self._made.clear()

    def _identity(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "items": len(self.ids),
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "shuffle": self.shuffle,
        }

    def _after(self, epoch: int, batch: int) -> tuple[int, int]:
        return (epoch, batch + 1) if batch + 1 < self.batches_per_epoch else (epoch + 1, 0)

    def _weights_at(self, epoch: int) -> NDArray[np.float64] | None:
        known = [e for e in self._weights if e <= epoch]
        return self._weights[max(known)] if known else None

    def _epoch_rows(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = len(self.ids)
        weights = self._weights_at(epoch)
        if weights is not None:
            slots = Keys.of(self.seed, epoch, np.arange(count)).uniform("order/weighted")
            edges = np.cumsum(weights)
            rows = np.searchsorted(edges, slots * edges[-1], side="right")
            last = int(np.flatnonzero(weights)[-1])
            rows = np.minimum(rows, last).astype(np.int64)
            return rows, _repeats(rows)
        if not self.shuffle:
            return np.arange(count), np.zeros(count, dtype=np.int64)
        words = Keys.of(self.seed, epoch, self.ids).words("order/shuffle", 1)[:, 0]
        return np.argsort(words, kind="stable"), np.zeros(count, dtype=np.int64)


def _repeats(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry occurred before itself."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    runs = np.diff(np.r_[first, len(rows)])
    counted = np.arange(len(rows)) - np.repeat(first, runs)
    out = np.empty(len(rows), dtype=np.int64)
    out[order] = counted
    return out
