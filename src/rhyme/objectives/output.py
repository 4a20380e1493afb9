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
def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over valid rows of this rank, detached; 0 without any. Invalid rows may be NaN."""
    total = torch.where(valid, values, torch.zeros_like(values)).sum()
    return total / valid.sum().clamp(min=1)
