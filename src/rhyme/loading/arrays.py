"""Sources without files: arrays in memory, and several sources side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rhyme import distributed
from rhyme.errors import CheckpointError, ConfigError, DataError
from rhyme.loading.batch import Batch, Source
from rhyme.loading.order import BatchOrder
from rhyme.views.view import Kind, View

__all__ = ["ArraySource", "ZipSource"]


class ArraySource:
    """Batches of arrays in memory: features, tokens, small pictures; satisfies ``Source``.

    Args:
        arrays: a tensor ``[n, ...]`` by view name.
        batch_size: items of a global batch.
        seed: run seed.
        groups: ``[n]`` group of each item, any whole numbers; every item is its own by default.
        ids: ``[n]`` item ids; 0 .. n-1 by default.
        targets: tensors ``[n, ...]`` that travel along in ``Batch.targets``.
        valid: ``bool [n, ...]`` by view name, e.g. which tokens are real.
        kinds: kinds of views; whole numbers ``[n, k]`` are tokens by default, the rest arrays.
        drop_last: leave out the last batch of an epoch if it is smaller.
        shuffle: permute the items in each epoch.

    Raises:
        DataError: no arrays, lengths that differ, or too few items for a batch.
    """

    def __init__(
        self,
        arrays: Mapping[str, Tensor],
        batch_size: int,
        seed: int,
        *,
        groups: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        targets: Mapping[str, Tensor] | None = None,
        valid: Mapping[str, Tensor] | None = None,
        kinds: Mapping[str, Kind] | None = None,
        drop_last: bool = True,
        shuffle: bool = True,
    ) -> None:
        if not arrays:
            raise DataError("an array source needs at least one array", stage="loading")
        self.arrays = dict(arrays)
        self.targets = dict(targets or {})
        self.valid = dict(valid or {})
        found: dict[str, Kind] = {name: _kind(array) for name, array in self.arrays.items()}
        self.kinds: dict[str, Kind] = {**found, **(kinds or {})}
        n = len(next(iter(self.arrays.values())))
        given_ids = np.arange(n) if ids is None else np.asarray(ids)
        self._ids = given_ids.astype(np.uint64)
        codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
        self._groups = torch.from_numpy(np.array(codes, dtype=np.int64).reshape(-1))
        columns = {**self.arrays, **self.targets, **self.valid}
        columns |= {"ids": torch.from_numpy(self._ids.view(np.int64)), "groups": self._groups}
        for name, column in columns.items():
            if len(column) != n:
                raise DataError(
                    f"'{name}' has {len(column)} rows, the first array has {n}", stage="loading"
                )
        self._order = BatchOrder(
            self._ids,
            seed=seed,
            batch_size=batch_size,
            drop_last=drop_last,
            shuffle=shuffle,
            fingerprint=_fingerprint(columns),
        )

    @property
    def items(self) -> int:
        """Number of items of one epoch."""
        return len(self._ids)

    @property
    def groups(self) -> int:
        """Number of groups among the items."""
        return int(self._groups.max()) + 1

    @property
    def fingerprint(self) -> str:
        """Hash of the arrays."""
        return self._order.fingerprint

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch."""
        return self._order.batches_per_epoch

    @property
    def batch_size(self) -> int:
        """Items of a global batch."""
        return self._order.batch_size

    def batches(self) -> Iterator[Batch]:
        """Batches from the current position on, without end."""
        for epoch, batch in self._order.positions():
            rows, _ = self._order.rows(epoch, batch)
            mine = rows[distributed.rank_slice(len(rows))]
            made = self._batch(epoch, torch.from_numpy(mine.copy()))
            self._order.handed_out(epoch, batch)
            yield made

    def observe(self, output: Any) -> None:
        """Nothing is learnt from the steps."""

    def set_sampler_weights(self, weights: Tensor) -> None:
        """Sample items by weight, with replacement; see ``CatalogSource``."""
        self._order.set_weights(weights)

    def state_dict(self) -> dict[str, Any]:
        """Position, weights, and what they belong to."""
        return self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: it belongs to other arrays, another seed or batch size.
        """
        self._order.load_state_dict(state)

    def close(self) -> None:
        """Nothing is open."""

    def _batch(self, epoch: int, rows: Tensor) -> Batch:
        valid = {
            name: self.valid[name][rows] if name in self.valid else None for name in self.kinds
        }
        return Batch(
            ids=torch.from_numpy(self._ids.view(np.int64).copy())[rows],
            index=rows,
            group=self._groups[rows],
            views={
                name: View(data=array[rows], kind=self.kinds[name], valid=valid[name])
                for name, array in self.arrays.items()
            },
            targets={name: target[rows] for name, target in self.targets.items()},
            epoch=epoch,
        )


class ZipSource:
    """Batches of several sources side by side, e.g. unpaired pictures of two domains.

    Views, targets and present-masks get the source's name before theirs (``"a.x"``); ``ids``,
    ``index``, ``group`` and ``epoch`` are the first source's, those of the others are targets
    (``"b.ids"``, ``"b.index"``, ``"b.group"``). An epoch is the first source's; the others run in
    their own epochs beside it.

    Args:
        sources: by name, with equal batch sizes.

    Raises:
        ConfigError: no sources, or different batch sizes.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        if not sources:
            raise ConfigError("a zip needs at least one source", stage="loading")
        self.sources = dict(sources)
        sizes = {name: source.batch_size for name, source in self.sources.items()}
        if len(set(sizes.values())) > 1:
            raise ConfigError(
                "zipped sources must have one batch size", stage="loading", value=sizes
            )
        self._first = next(iter(self.sources.values()))

    @property
    def items(self) -> int:
        """Number of items of one epoch of the first source."""
        return self._first.items

    @property
    def groups(self) -> int:
        """Number of groups of the first source."""
        return self._first.groups

    @property
    def fingerprint(self) -> str:
        """Hash of all sources' data."""
        parts = [f"{name}={source.fingerprint}" for name, source in self.sources.items()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch of the first source."""
        return self._first.batches_per_epoch

    @property
    def batch_size(self) -> int:
        """Items of a global batch."""
        return self._first.batch_size

    def batches(self) -> Iterator[Batch]:
        """Batches from the current position on, without end."""
        streams = [source.batches() for source in self.sources.values()]
        try:
            while True:
                # All are drawn before any is handed out, so that the positions stay together.
                yield self._join([next(stream) for stream in streams])
        finally:
            for stream in streams:
                getattr(stream, "close", lambda: None)()

    def observe(self, output: Any) -> None:
        """Hand the step's output to every source."""
        for source in self.sources.values():
            source.observe(output)

    def state_dict(self) -> dict[str, Any]:
        """States of the sources by name."""
        return {name: source.state_dict() for name, source in self.sources.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: it belongs to other sources.
        """
        if set(state) != set(self.sources):
            raise CheckpointError(
                "the checkpoint was made with other sources",
                stage="resume",
                value={"checkpoint": sorted(state), "now": sorted(self.sources)},
                remedy="resume with the data that the run was started with",
            )
        for name, source in self.sources.items():
            source.load_state_dict(state[name])

    def close(self) -> None:
        """Close all sources."""
        for source in self.sources.values():
            source.close()

    def _join(self, parts: list[Batch]) -> Batch:
        views: dict[str, View] = {}
        targets: dict[str, Any] = {}
        present: dict[str, Tensor] = {}
        for name, part in zip(self.sources, parts, strict=True):
            views |= {f"{name}.{key}": view for key, view in part.views.items()}
            targets |= {f"{name}.{key}": value for key, value in part.targets.items()}
            present |= {f"{name}.{key}": mask for key, mask in part.present.items()}
            if part is not parts[0]:
                own = {"ids": part.ids, "index": part.index, "group": part.group}
                targets |= {f"{name}.{key}": value for key, value in own.items()}
        first = parts[0]
        return Batch(
            ids=first.ids,
            index=first.index,
            group=first.group,
            views=views,
            targets=targets,
            present=present,
            epoch=first.epoch,
        )


def _kind(array: Tensor) -> Kind:
    whole = not array.is_floating_point() and array.dtype != torch.bool
    return "tokens" if whole and array.ndim == 2 else "array"


def _fingerprint(columns: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, column in sorted(columns.items()):
        digest.update(f"{name} {column.dtype} {tuple(column.shape)}\n".encode())
        flat = column.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
