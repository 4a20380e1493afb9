"""Views as a PyTorch ``Dataset``, for a training loop of one's own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rhyme.catalog import Catalog
from rhyme.errors import ConfigError, DataError, MediaError
from rhyme.loading.bad_items import remedy_of
from rhyme.loading.batch import Batch
from rhyme.loading.cache import FrameCache
from rhyme.loading.maker import BatchMaker, Made, Request
from rhyme.loading.usable import unusable
from rhyme.views import View, ViewPlan

__all__ = ["ViewDataset", "collate"]

_INHERITED: list[BatchMaker] = []
"""Makers of a parent process: their decoders cannot be used, nor closed, after a fork."""


class ViewDataset(Dataset[Batch]):
    """The items of a catalog seen through a view plan: a map-style dataset for a ``DataLoader``.

    ``dataset[i]`` is a :class:`Batch` of one item, with times, geometry maps, drawn targets and
    group. Give :func:`collate` to the loader, which then yields batches like those of
    :class:`CatalogSource`: the same bits for the same items, seed and epoch, in any process, for
    any number of workers and any grouping into batches. Order and sampling are the loader's::

        dataset = ViewDataset(catalog, plan, seed=0)
        loader = DataLoader(dataset, 64, shuffle=True, num_workers=2, collate_fn=collate)
        for epoch in range(10):
            dataset.set_epoch(epoch)
            for batch in loader: ...

    An item that is asked for twice in one epoch has the same draws both times.

    Args:
        catalog: the items.
        plan: the draws and views.
        seed: seed of the draws.
        cache: decoded frames to use instead of the files.
        replace_damaged: an item that cannot be decoded is replaced by another one, chosen by seed,
            with a warning that names it; ``Batch.index`` tells the item that came. False raises.

    Attributes:
        catalog: the items that are used, after leaving out those in ``left_out``.
        left_out: why, by row of the given catalog: items that are too short for the plan, have no
            frames, or failed in the cache.

    Raises:
        DataError: no item can be used.
    """

    def __init__(
        self,
        catalog: Catalog,
        plan: ViewPlan,
        *,
        seed: int = 0,
        cache: FrameCache | None = None,
        replace_damaged: bool = True,
    ) -> None:
        self.left_out: dict[int, str] = unusable(catalog, plan, cache)
        kept = np.setdiff1d(np.arange(len(catalog)), list(self.left_out))
        if not len(kept):
            raise DataError(
                "no item can be used with this view plan",
                file=catalog.root,
                stage="loading",
                value=next(iter(self.left_out.values()), "the catalog is empty"),
                remedy='use fewer or closer frames, or another policy than short="drop"',
            )
        self.catalog = catalog.select(indices=kept) if self.left_out else catalog
        self.plan = plan
        self.seed = seed
        self.cache = cache
        self.replace_damaged = replace_damaged
        # In shared memory, so that workers which live on from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._maker: BatchMaker | None = None
        self._process = 0

    @property
    def epoch(self) -> int:
        """The pass over the data that the next draws belong to."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew. Call it before each pass; it reaches the workers of a loader too.

        Args:
            epoch: number of the pass, from 0.

        Raises:
            ConfigError: it is below 0.
        """
        if epoch < 0:
            raise ConfigError("an epoch is a whole number from 0", stage="loading", value=epoch)
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.catalog)

    def __getitem__(self, index: int) -> Batch:
        """The batch of one item; negative numbers count from the end.

        Raises:
            IndexError: there is no such item.
            MediaError: it cannot be decoded, and is not to be replaced.
        """
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of several items, made at once: what a loader's worker asks for."""
        count = len(self.catalog)
        asked = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = (asked < -count) | (asked >= count)
        if outside.any():
            raise IndexError(f"item {asked[outside][0]} of a dataset of {count}")
        rows = asked % count
        made = self._make(Request(epoch=self.epoch, rows=rows, repeats=np.zeros_like(rows)))
        for one in made.replaced:
            if not self.replace_damaged:
                raise MediaError(
                    one.reason, file=one.path, stage="loading",
                    remedy=remedy_of([one.reason]),
                )  # fmt: skip
            warnings.warn(f"{one.path} is damaged and replaced: {one.reason}", stacklevel=3)
        return made.batch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maker": None, "_process": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()

    def _make(self, request: Request) -> Made:
        if self._maker is None or self._process != os.getpid():
            if self._maker is not None:
                _INHERITED.append(self._maker)
            self._maker = BatchMaker(
                catalog=self.catalog, plan=self.plan, seed=self.seed, cache=self.cache
            )
            self._process = os.getpid()
        return self._maker(request)


def collate(samples: Batch | Sequence[Batch]) -> Batch:
    """One batch of several, in their order: the ``collate_fn`` of a loader.

    Tensors and arrays with a row for each item are joined; a target of another kind must be the
    same in all.

    Args:
        samples: batches of one epoch with the same views and targets; one batch stays as it is.

    Raises:
        DataError: nothing to join, or parts that do not fit each other.
    """
    if isinstance(samples, Batch):
        return samples
    if not samples:
        raise DataError("there is no sample to collate", stage="loading")
    first = samples[0]
    return replace(
        first,
        ids=torch.cat([s.ids for s in samples]),
        index=torch.cat([s.index for s in samples]),
        group=torch.cat([s.group for s in samples]),
        views={name: _view([s.views[name] for s in samples]) for name in first.views},
        targets=_joined([s.targets for s in samples], samples),
        present=_joined([s.present for s in samples], samples),
    )


def _view(parts: Sequence[View]) -> View:
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(View)}
    tensors = {name: torch.cat(c) for name, c in columns.items() if isinstance(c[0], Tensor)}
    return replace(parts[0], **tensors)


def _joined(parts: Sequence[Mapping[str, Any]], samples: Sequence[Batch]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in parts[0].items():
        if any(name not in part for part in parts):
            raise DataError(f"'{name}' is not in every sample", stage="loading")
        values = [part[name] for part in parts]
        if all(_has_rows(v, len(s)) for v, s in zip(values, samples, strict=True)):
            out[name] = torch.cat([torch.as_tensor(v) for v in values])
        elif all(np.array_equal(v, value) for v in values):
            out[name] = value
        else:
            raise DataError(f"target '{name}' differs between samples", stage="loading")
    return out


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.shape[:1] == (rows,)
