"""Exact nearest neighbours by inner product."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rhyme.errors import ConfigError, DataError
from rhyme.kernels.common import Exclusion, check_rows, full_precision, no_autocast
from rhyme.kernels.product import by_onednn, inner

_QUERY_ROWS = 4096
_BANK_ROWS = 4096  # 4096 x 4096 scores are 64 MiB in float32
_ON_A_GPU = 4  # times as many bank rows, for fewer launches
_IN_NEW_MEMORY = 4  # times fewer, where each chunk of scores is allocated anew
_MOST_BANK_ROWS = 65536  # for few queries; a bank in half precision is widened chunk by chunk
_BLOCK = 16  # bank rows that are looked at together


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
    query_rows: int | None = None,
    bank_rows: int | None = None,
) -> TopK:
    """The ``k`` rows of the bank with the largest inner product, exactly, in bounded memory.

    Equal scores are ordered by index, lowest first, whatever the device or the chunk sizes.

    Args:
        queries: ``[b, d]``.
        bank: ``[n, d]``.
        k: neighbours wanted, at least 1; it may exceed ``n``.
        query_groups: int64 ``[b]``; rows of the same group are left out.
        bank_groups: int64 ``[n]``.
        query_rows: queries compared at once; None takes at most 4096.
        bank_rows: bank rows compared at once; None keeps the scores at 4 or 16 million a time, on
            a GPU at 64 million.

    Returns:
        See :class:`TopK`.

    Raises:
        DataError: shapes do not fit, or a score is NaN.
        ConfigError: ``k`` or a chunk size is below 1.
    """
    check_rows(queries, bank)
    b, n = len(queries), len(bank)
    if query_rows is None:
        # whole chunks first: with odd widths a product takes up to a third longer
        query_rows = min(max(b, 1), _QUERY_ROWS)
    if bank_rows is None:
        several = _ON_A_GPU if queries.is_cuda else 1
        # oneDNN brings memory of its own, which is not new to the process while it is below 32 MiB
        fewer = _IN_NEW_MEMORY if by_onednn(full_precision(queries[:0], bank[:0])[0]) else 1
        bank_rows = max(1, _QUERY_ROWS // max(query_rows, 1)) * _BANK_ROWS * several // fewer
        bank_rows = min(_MOST_BANK_ROWS, bank_rows)
    if min(k, query_rows, bank_rows) < 1:
        raise ConfigError("k and chunk sizes must be at least 1", value=(k, query_rows, bank_rows))
    exclusion = Exclusion(query_groups, bank_groups)
    exclusion.check(b, n)
    like, _ = full_precision(queries[:, :1], bank[:, :1])
    found = TopK(
        like.new_full((b, k), -torch.inf),
        torch.full((b, k), -1, dtype=torch.int64, device=queries.device),
    )
    with no_autocast(queries.device):
        for at in range(0, b, query_rows):
            part = slice(at, at + query_rows)
            rows = queries[part].to(like.dtype)
            owners = None if query_groups is None else query_groups[part]
            _search(TopK(*(t[part] for t in found)), rows, bank, owners, bank_groups, bank_rows)
    return found


class _Chunk(NamedTuple):
    """The scores of some queries with some bank rows, before anything is excluded."""

    scores: Tensor  # [q, m], m a multiple of the block; −inf beyond the last row; bank rows lead
    highest: Tensor  # [q, m / block], the largest of each block
    start: int  # index of the first row
    rows: int  # number of rows, at most m
    exclusion: Exclusion


def _search(
    best: TopK,
    queries: Tensor,
    bank: Tensor,
    query_groups: Tensor | None,
    bank_groups: Tensor | None,
    bank_rows: int,
) -> None:
    """Put the nearest rows of the bank into ``best``, in place.

    Almost all of the work is the product. What follows looks at the maximum of each block of
    scores, and goes into a block only where that exceeds the query's k-th best so far: rows come
    in order of index, so an equal score is too late.
    """
    q, n = len(queries), len(bank)
    widest = _padded(min(bank_rows, n))
    buffer = queries.new_empty(q * widest)
    bad = torch.zeros((), dtype=torch.bool, device=queries.device)
    for at in range(0, n, bank_rows):
        rows = bank[at : at + bank_rows].to(queries.dtype)
        width = _padded(len(rows))
        # bank rows lead: the product is quicker so, and maxima are taken over whole lines
        room = buffer[: width * q].view(width, q)
        scores = inner(rows, queries, room[: len(rows)])
        if width > len(rows):
            room[: len(rows)], scores = scores, room
            scores[len(rows) :] = -torch.inf
        highest = scores.view(-1, _BLOCK, q).amax(1).T
        bad |= highest.isnan().any()
        groups = None if bank_groups is None else bank_groups[at : at + bank_rows]
        chunk = _Chunk(scores.T, highest, at, len(rows), Exclusion(query_groups, groups))
        # on a GPU every look at how many were found would wait for it
        if queries.device.type != "cpu" or not _insert_few(best, chunk):
            _insert_many(best, chunk)
    if bool(bad):
        raise DataError(
            "a score is NaN and cannot be ranked",
            stage="nearest neighbours",
            remedy="look for NaN or infinite features; the encoder may have diverged",
        )


def _padded(rows: int) -> int:
    return -(-rows // _BLOCK) * _BLOCK


def _insert_few(best: TopK, chunk: _Chunk) -> bool:
    """Insert what exceeds the k-th best; False, and nothing done, where that is too much."""
    q, blocks = chunk.highest.shape
    k = best.scores.shape[1]
    floor = best.scores[:, -1]
    row, hit = _above(chunk.highest, floor)
    if len(hit) * 4 > q * blocks and k < blocks and chunk.exclusion.empty:
        # k scores reach the k-th largest maximum; whatever does is above the number before it
        reached = chunk.highest.topk(k, dim=1)[0][:, -1]
        floor = torch.maximum(floor, reached.nextafter(torch.full_like(reached, -torch.inf)))
        row, hit = _above(chunk.highest, floor)
    if len(hit) * 4 > q * blocks:
        return False
    column = hit[:, None] * _BLOCK + torch.arange(_BLOCK)
    values = chunk.scores.T.reshape(-1)[column * q + row[:, None]]
    above = values > floor[row][:, None]
    value, column, row = values[above], column[above], row[above.nonzero()[:, 0]]
    owner, owned = chunk.exclusion.query_groups, chunk.exclusion.key_groups
    if owner is not None and owned is not None:
        kept = (owner[row] != owned[column]) | (owner[row] < 0)
        value, row, column = value[kept], row[kept], column[kept]
    count, slot = places(row, q)
    most = int(count.max())
    if most > 4 * (k + _BLOCK):
        return False  # one query would widen the table of all
    changed = count.nonzero()[:, 0]
    line = (count > 0).cumsum(0)[row] - 1
    scores = best.scores.new_full((len(changed), k + most), -torch.inf)
    indices = torch.full_like(scores, -1, dtype=torch.int64)
    scores[:, :k], indices[:, :k] = best.scores[changed], best.indices[changed]
    scores[line, k + slot], indices[line, k + slot] = value, column + chunk.start
    scores, order = torch.sort(scores, dim=1, descending=True, stable=True)
    best.scores[changed] = scores[:, :k]
    best.indices[changed] = indices.gather(1, order[:, :k])
    return True


def _insert_many(best: TopK, chunk: _Chunk) -> None:
    """Insert the chunk's own ``k`` best, without asking how many there are.

    They lie in the ``k`` blocks with the largest maxima: an element of another block stands behind
    the maxima of all of these.
    """
    q, blocks = chunk.highest.shape
    k = best.scores.shape[1]
    scores, highest = chunk.scores, chunk.highest
    excluded = chunk.exclusion.pairs(q, chunk.rows, scores.device)
    if excluded is not None:
        scores[:, : chunk.rows].masked_fill_(excluded, -torch.inf)
        highest = scores.unflatten(1, (blocks, _BLOCK)).amax(2)
    if k < blocks:
        chosen = largest(highest, k)[1].sort(1)[0]
        inside = torch.arange(_BLOCK, device=scores.device)
        columns = (chosen[:, :, None] * _BLOCK + inside).view(q, -1)
        values, order = largest(scores.gather(1, columns), k)
        columns = columns.gather(1, order)
    else:
        values, columns = largest(scores, min(k, scores.shape[1]))
    # earlier chunks come first, and the sort is stable: ties stay in order of index
    values = torch.cat([best.scores, values], 1)
    indices = torch.cat([best.indices, columns + chunk.start], 1)
    values, order = torch.sort(values, dim=1, descending=True, stable=True)
    best.scores.copy_(values[:, :k])
    indices = indices.gather(1, order[:, :k])
    best.indices.copy_(indices.masked_fill_(best.scores == -torch.inf, -1))


def _above(highest: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Query and block of each maximum above the query's floor, query by query."""
    row, block = (highest > floor[:, None]).contiguous().nonzero().unbind(1)
    return row, block


def places(row: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """How often each row occurs in a rising list ``[m]``, and the how-manieth each entry is."""
    count = row.bincount(minlength=rows)
    return count, torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row, equal ones by position; ``topk`` breaks ties as it likes."""
    if scores.device.type == "cpu":
        return _largest_mended(scores, k)
    if scores.dtype is torch.float32:
        return largest_by_key(scores, k)
    scores, order = torch.sort(scores, dim=1, descending=True, stable=True)
    return scores[:, :k], order[:, :k]


def _largest_mended(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    # a tie between the last one taken and the first one left out
    torn = (values[:, k - 1] == values[:, -1]) & (values.shape[1] > k)
    torn = (torn & (values[:, -1] > -torch.inf)).nonzero()[:, 0]
    indices = indices[:, :k].contiguous()
    if len(torn):
        again = torch.sort(scores[torn], dim=1, descending=True, stable=True)[1]
        indices[torn] = again[:, :k]
    indices = indices.sort(1)[0]
    values, order = torch.sort(scores.gather(1, indices), dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def largest_by_key(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Float32 scores and positions as one 64-bit key without ties: nothing to look at or mend."""
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    position = torch.arange(scores.shape[1], device=scores.device)
    key = (rising.long() << 32) - position
    order = key.topk(k, dim=1)[1]
    return scores.gather(1, order), order
