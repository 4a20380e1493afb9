"""Exact nearest neighbours by inner product."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rhyme.errors import ConfigError
from rhyme.kernels.common import Exclusion, check_rows, full_precision, no_autocast

_QUERY_ROWS = 1024
_BANK_ROWS = 16384  # 1024 x 16384 scores are 64 MiB in float32


class TopK(NamedTuple):
    """The nearest rows of a bank for each query, nearest first.

    Attributes:
        scores: ``[b, k]`` inner products, not increasing; −inf where fewer than ``k`` are allowed.
        indices: int64 ``[b, k]`` rows of the bank; −1 where fewer than ``k`` are allowed.
    """

    scores: Tensor
    indices: Tensor


@torch.no_grad()
def top_k(
    queries: Tensor,
    bank: Tensor,
    k: int,
    *,
    query_groups: Tensor | None = None,
    bank_groups: Tensor | None = None,
    query_rows: int = _QUERY_ROWS,
    bank_rows: int = _BANK_ROWS,
) -> TopK:
    """The ``k`` rows of the bank with the largest inner product, exactly, in bounded memory.

    Equal scores are ordered by index, lowest first, whatever the device or the chunk sizes.

    Args:
        queries: ``[b, d]``.
        bank: ``[n, d]``.
        k: neighbours wanted, at least 1; it may exceed ``n``.
        query_groups: int64 ``[b]``; rows of the same group are left out.
        bank_groups: int64 ``[n]``.
        query_rows: queries compared at once.
        bank_rows: bank rows compared at once.

    Returns:
        See :class:`TopK`.

    Raises:
        DataError: shapes do not fit.
        ConfigError: ``k`` or a chunk size is below 1.
    """
    check_rows(queries, bank)
    if min(k, query_rows, bank_rows) < 1:
        raise ConfigError("k and chunk sizes must be at least 1", value=(k, query_rows, bank_rows))
    with no_autocast(queries.device):
        found = [
            _top_k_rows(
                rows,
                bank,
                k,
                None if query_groups is None else query_groups[at : at + query_rows],
                bank_groups,
                bank_rows,
            )
            for at, rows in _chunks(queries, query_rows)
        ]
    if not found:
        empty, _ = full_precision(queries.new_empty(0, k), bank[:0])
        return TopK(empty, empty.long())
    return TopK(torch.cat([f.scores for f in found]), torch.cat([f.indices for f in found]))


def _chunks(rows: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(at, rows[at : at + size]) for at in range(0, len(rows), size)]


def _top_k_rows(
    queries: Tensor,
    bank: Tensor,
    k: int,
    query_groups: Tensor | None,
    bank_groups: Tensor | None,
    bank_rows: int,
) -> TopK:
    like, _ = full_precision(queries[:, :1], bank[:, :1])
    best = TopK(
        like.new_full((len(queries), k), -torch.inf),
        torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device),
    )
    for at, rows in _chunks(bank, bank_rows):
        groups = None if bank_groups is None else bank_groups[at : at + bank_rows]
        exclusion = Exclusion(query_groups, groups)
        exclusion.check(len(queries), len(rows))
        excluded = exclusion.pairs(len(queries), len(rows), queries.device)
        wide, rows = full_precision(queries, rows)
        scores = wide @ rows.T
        if excluded is not None:
            scores.masked_fill_(excluded, -torch.inf)
        found = _select(scores, min(k, scores.shape[1]))
        indices = torch.where(found.scores == -torch.inf, -1, found.indices + at)
        # earlier chunks come first, and the sort is stable: ties stay in order of index
        merged = torch.cat([best.scores, found.scores], 1)
        scores, order = merged.sort(dim=1, descending=True, stable=True)
        indices = torch.cat([best.indices, indices], 1).gather(1, order)
        best = TopK(scores[:, :k].contiguous(), indices[:, :k].contiguous())
    return best


def _select(scores: Tensor, k: int) -> TopK:
    """The ``k`` best of each row; ``torch.topk`` alone breaks ties as it likes."""
    values, indices = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # a tie between the last row taken and the first one left out
    last, next_ = values[:, k - 1], values[:, -1]
    torn = (last == next_) & (last > -torch.inf) & (values.shape[1] > k)
    values, indices = values[:, :k].contiguous(), indices[:, :k].contiguous()
    if bool(torn.any()):
        again, order = scores[torn].sort(dim=1, descending=True, stable=True)
        values[torn], indices[torn] = again[:, :k], order[:, :k]
    indices, order = indices.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return TopK(values, indices.gather(1, order))
