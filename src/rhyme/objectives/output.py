"""What every objective returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """The values of an objective and what explains them.

    Attributes:
        values: ``[b]`` with gradient, in float32 or float64; 0 with a zero gradient in masked rows.
        valid: bool ``[b]``; False where a row has nothing to compare with.
        diagnostics: detached scalars of this rank by name; means are over valid rows.
            ``masked_rows`` counts the rows that are not valid.
    """

    values: Tensor
    valid: Tensor
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def masked_means(valid: Tensor, **values: Tensor) -> dict[str, Tensor]:
    """The means of values ``[b]`` over valid rows of this rank, detached; 0 without any.

    Invalid rows may be NaN. Several means take as many launches of a GPU as one.
    """
    kind = next(iter(values.values())).dtype
    table = torch.stack([value.to(kind) for value in values.values()])
    means = torch.where(valid, table, 0).sum(1) / valid.sum().clamp(min=1)
    return dict(zip(values, means.unbind(), strict=True))


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over valid rows of this rank, as :func:`masked_means`; of any shape alike."""
    return masked_means(valid.flatten(), values=values.flatten())["values"]
