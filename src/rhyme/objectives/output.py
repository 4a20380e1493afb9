"""What every objective returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhyme import distributed


@dataclass(frozen=True)
class ObjectiveOutput:
    """The values of an objective and what explains them.

    Attributes:
        values: ``[b]`` with gradient, in float32 or float64; 0 with a zero gradient in masked rows.
        valid: bool ``[b]``; False where a row has nothing to compare with.
        diagnostics: detached scalars by name, whose mean over the ranks is the figure of the global
            batch; means are over valid rows. ``masked_rows`` counts the rows that are not valid.
    """

    values: Tensor
    valid: Tensor
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def told_of_rows(valid: Tensor, *, some: bool, **values: Tensor) -> dict[str, Tensor]:
    """Diagnostics of rows: the means of values over the valid ones, and ``masked_rows``.

    Ranks may hold different numbers of valid rows, so their means have no common mean. Where that
    can be, sums and counts are added up over the ranks, in one small collective.

    Args:
        valid: bool ``[b]``.
        some: whether some rows can be valid and others not; the same on all ranks. Otherwise all
            ranks' rows weigh alike, and nothing is exchanged.
        values: ``[b]`` by name; rows that are not valid may be NaN. Several means take as many
            launches of a GPU as one.

    Returns:
        Detached scalars, of the global batch with ``some``; means are 0 without any valid row.
    """
    kind = next(iter(values.values())).dtype
    table = torch.stack([value.to(kind) for value in values.values()])
    counts = torch.stack([valid.sum(), (~valid).sum()]).to(kind)
    sums = torch.cat([torch.where(valid, table, 0).sum(1), counts])
    ranks = distributed.world_size()
    if some:
        sums, ranks = distributed.sum_all(sums), 1
    means = sums[:-2] / sums[-2].clamp(min=1)
    return {**dict(zip(values, means.unbind(), strict=True)), "masked_rows": sums[-1] * ranks}


@torch.no_grad()
def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over valid entries of this rank, of any shape, detached; 0 without any."""
    row = torch.where(valid, values, 0).flatten()[None]
    return row.sum(1)[0] / valid.sum().clamp(min=1)
