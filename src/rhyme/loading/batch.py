"""What travels from a source to a system: a batch, and the promise that a source keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rhyme.transfer import sent
from rhyme.views.view import View


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of ``b`` items (this rank's rows of the global batch).

    The loop reads of it only ``ids``, ``len`` and ``to``; all else is between source and system.

    Attributes:
        ids: ``int64 [b]`` stable item ids: the keys of every per-item draw.
        index: ``int64 [b]`` dense index of the item in the training set, 0 .. n-1.
        group: ``int64 [b]`` dense code of the item's group (same source video, speaker, ...).
        views: views by name.
        targets: anything drawn or known beside the views (permutations, labels of pretext tasks).
        present: ``bool [b]`` by view name; False where an item lacks that view (no sound track).
        epoch: the pass over the data that the batch belongs to.
    """

    ids: Tensor
    index: Tensor
    group: Tensor
    views: Mapping[str, View] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        """The batch of some of its items; a target with a row for each item is cut like a view."""
        b = len(self)

        def cut(value: Any) -> Any:
            per_item = isinstance(value, Tensor | np.ndarray) and value.shape[:1] == (b,)
            return value[rows] if per_item else value

        return replace(
            self,
            ids=self.ids[rows],
            index=self.index[rows],
            group=self.group[rows],
            views={name: view[rows] for name, view in self.views.items()},
            targets={name: cut(value) for name, value in self.targets.items()},
            present={name: value[rows] for name, value in self.present.items()},
        )

    def to(self, device: torch.device | str) -> Batch:
        """The batch with every tensor on ``device``."""

        def move(value: Any) -> Any:
            if isinstance(value, View):
                return value.to(device)
            return sent(value, device) if isinstance(value, Tensor) else value

        return replace(
            self,
            ids=move(self.ids),
            index=move(self.index),
            group=move(self.group),
            views={name: view.to(device) for name, view in self.views.items()},
            targets={name: move(value) for name, value in self.targets.items()},
            present={name: move(value) for name, value in self.present.items()},
        )


@runtime_checkable
class Source(Protocol):
    """Batches in an order that is a function of the run seed, from any position on.

    ``batches()`` yields for ever, epoch after epoch, and may read ahead; ``state_dict()`` speaks of
    the batches that were *handed out*, so a run resumed from it continues with the next one.
    A source may ``observe`` what the system made of a batch (replay, bandits).
    """

    @property
    def items(self) -> int:
        """Number of items of one epoch."""
        ...

    @property
    def groups(self) -> int:
        """Number of groups among the items."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the data; a checkpoint of other data is refused."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch."""
        ...

    @property
    def batch_size(self) -> int:
        """Items of a *global* batch, over all ranks."""
        ...

    def batches(self) -> Iterator[Batch]:
        """Batches from the current position on, without end."""
        ...

    def observe(self, output: Any) -> None:
        """See the ``StepOutput`` of the batch handed out last."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Position and everything else that the next batches depend on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        ...

    def close(self) -> None:
        """Give back workers and files."""
        ...
