"""Embeddings of the consecutive parts of something become one, in their order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rhyme.errors import ConfigError

Aggregation = Literal["linear", "mlp", "gru", "mean"]
"""How; ``"mean"`` alone does not know the order."""


class Aggregator(nn.Module):
    """The embeddings of ``n`` parts become one of the same length.

    Args:
        kind: ``"linear"``, one matrix without offset on the joined embeddings; ``"mlp"``, a hidden
            layer of their joint length; ``"gru"``, the last state of a recurrent unit; ``"mean"``.
        parts: n.
        dim: length of an embedding.

    Raises:
        ConfigError: an unknown kind.
    """

    def __init__(self, kind: Aggregation, parts: int, dim: int) -> None:
        super().__init__()
        self.kind = kind
        joined = parts * dim
        if kind == "linear":
            self.join = nn.Linear(joined, dim, bias=False)
        elif kind == "mlp":
            self.join = nn.Sequential(nn.Linear(joined, joined), nn.ReLU(), nn.Linear(joined, dim))
        elif kind == "gru":
            self.cell = nn.GRUCell(dim, dim)
        elif kind != "mean":
            raise ConfigError(
                "unknown aggregator", value=kind, remedy="choose linear, mlp, gru or mean"
            )

    def forward(self, short: Tensor) -> Tensor:
        """``[b, d]`` of embeddings ``[b, n, d]``."""
        if self.kind == "mean":
            return short.mean(dim=1)
        if self.kind != "gru":
            return self.join(short.flatten(1))
        state = torch.zeros_like(short[:, 0])
        for step in short.unbind(1):
            state = self.cell(step, state)
        return state
