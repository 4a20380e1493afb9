"""Pairs that must not meet, tile by tile: which logits to strike out, and how many remain."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rhyme.kernels.common import Exclusion

_LISTED = 16  # pairs a row, up to which a list of all pairs is shorter than what else is held
_SHARE = 256  # and it is kept to one pair in so many
_COUNTED = (256, 1024)  # rows and columns of a mask counted at once


def within(exclusion: Exclusion, rows: slice, columns: slice) -> Exclusion:
    """The exclusion among some rows and some columns, which are numbered anew."""
    skip = None if exclusion.skip is None else exclusion.skip[rows]
    if skip is not None and (columns.start or columns.stop is not None):
        start = columns.start or 0
        inside = skip >= start
        if columns.stop is not None:
            inside &= skip < columns.stop
        skip = torch.where(inside, skip - start, -1)
    return Exclusion(
        None if exclusion.query_groups is None else exclusion.query_groups[rows],
        None if exclusion.key_groups is None else exclusion.key_groups[columns],
        None if exclusion.mask is None else exclusion.mask[rows, columns],
        skip,
    )


def allowed(exclusion: Exclusion, b: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many keys each query may meet, int64 ``[b]``, and how many queries each key, ``[n]``.

    Without a mask it costs a sort of the groups, and no look at the pairs.
    """
    if exclusion.mask is not None:
        return _count(exclusion, b, n, device)
    columns = torch.full((n,), b, device=device)
    owners, keys = exclusion.query_groups, exclusion.key_groups
    if owners is not None and keys is not None:
        low, high = _alike(keys, owners.sort().values)
        columns -= high - low
    if exclusion.skip is not None and n:
        known, counted = _skipped(exclusion, exclusion.skip)
        columns.scatter_add_(0, known.flatten(), -counted.flatten().long())
    return allowed_rows(exclusion, b, n, device), columns


def allowed_rows(exclusion: Exclusion, b: int, n: int, device: torch.device) -> Tensor:
    """How many keys each query may meet, int64 ``[b]``; as :func:`allowed`, for one side."""
    if exclusion.mask is not None:
        return _count(exclusion, b, n, device)[0]
    rows = torch.full((b,), n, device=device)
    owners, keys = exclusion.query_groups, exclusion.key_groups
    if owners is not None and keys is not None:
        low, high = _alike(owners, keys.sort().values)
        rows -= high - low
    if exclusion.skip is not None and n:
        rows -= _skipped(exclusion, exclusion.skip)[1].sum(1)
    return rows


def _count(exclusion: Exclusion, b: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Looks at every pair, a part at a time."""
    rows = torch.full((b,), n, device=device)
    columns = torch.full((n,), b, device=device)
    for top in range(0, b, _COUNTED[0]):
        i = slice(top, min(top + _COUNTED[0], b))
        for left in range(0, n, _COUNTED[1]):
            j = slice(left, min(left + _COUNTED[1], n))
            pairs = within(exclusion, i, j).pairs(i.stop - top, j.stop - left, device)
            assert pairs is not None
            ones = pairs.float()  # summed much faster than bits are, and exactly
            rows[i] -= ones.sum(1).long()
            columns[j] -= ones.sum(0).long()
            del ones  # before the next are made
    return rows, columns


def _skipped(exclusion: Exclusion, skip: Tensor) -> tuple[Tensor, Tensor]:
    """The keys skipped by index, and whether each counts: once, and if no group excludes it."""
    skip = skip.sort(dim=1).values
    counted = skip >= 0
    counted[:, 1:] &= skip[:, 1:] != skip[:, :-1]
    known = skip.clamp(min=0)
    owners, keys = exclusion.query_groups, exclusion.key_groups
    if owners is not None and keys is not None:
        counted &= (owners[:, None] < 0) | (owners[:, None] != keys[known])
    return known, counted


def _alike(groups: Tensor, ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Where the members of each row's group begin and end among the ordered groups."""
    groups = groups.contiguous()
    low = torch.searchsorted(ordered, groups)
    high = torch.searchsorted(ordered, groups, right=True)
    return low, torch.where(groups < 0, low, high)


class LeftOut:
    """Strikes excluded pairs out of tiles of logits.

    On the CPU, indices and small groups become one list of pairs, ordered by tile: most tiles hold
    none and cost nothing. Masks and large groups are looked at in each tile; so is everything on
    other devices, where the length of a list would have to be waited for.

    Args:
        exclusion: what must not meet.
        b: rows in all.
        n: columns in all.
        height: rows of a tile; the last ones may be smaller.
        width: columns of a tile.
        device: of the logits.
    """

    def __init__(
        self, exclusion: Exclusion, b: int, n: int, height: int, width: int, device: torch.device
    ) -> None:
        self._height, self._width = height, width
        self._across = -(-n // width)
        self._looked_at = exclusion
        self._flat = torch.empty(0, dtype=torch.int64)
        self._listed: dict[int, slice] = {}
        if device.type == "cpu" and not exclusion.empty:
            self._list(exclusion, b, n)

    def _list(self, exclusion: Exclusion, b: int, n: int) -> None:
        found: list[tuple[Tensor, Tensor]] = []
        if exclusion.skip is not None:
            i, place = (exclusion.skip >= 0).nonzero(as_tuple=True)
            j = exclusion.skip[i, place]
            found.append((i, j))
            self._looked_at = replace(self._looked_at, skip=None)
        if exclusion.query_groups is not None and exclusion.key_groups is not None:
            ordered, order = exclusion.key_groups.sort()
            low, high = _alike(exclusion.query_groups, ordered)
            count = high - low
            if int(count.sum()) <= min(_LISTED * (b + n), max(b * n // _SHARE, 4096)):
                i = torch.arange(b).repeat_interleave(count)
                before = (count.cumsum(0) - count)[i]
                found.append((i, order[low[i] + torch.arange(len(i)) - before]))
                self._looked_at = replace(self._looked_at, query_groups=None, key_groups=None)
        if not found:
            return
        i, j = (torch.cat(part) for part in zip(*found, strict=True))
        tile, by_tile = (i // self._height * self._across + j // self._width).sort()
        i, j = i[by_tile], j[by_tile]
        width = (n - j // self._width * self._width).clamp(max=self._width)
        self._flat = i % self._height * width + j % self._width
        held, count = torch.unique_consecutive(tile, return_counts=True)
        end = count.cumsum(0)
        self._listed = {
            number: slice(stop - size, stop)
            for number, size, stop in zip(held.tolist(), count.tolist(), end.tolist(), strict=True)
        }

    def strike(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Set the excluded logits of a tile to −inf; the tile is contiguous."""
        if self._listed:
            number = rows.start // self._height * self._across + columns.start // self._width
            part = self._listed.get(number)
            if part is not None:
                tile.view(-1).index_fill_(0, self._flat[part], -torch.inf)
        if not self._looked_at.empty:
            some = within(self._looked_at, rows, columns)
            pairs = some.pairs(tile.shape[0], tile.shape[1], tile.device)
            assert pairs is not None
            tile.masked_fill_(pairs, -torch.inf)
