"""Affinity between frames of a video: the best keys of each position within a window of each frame.

A position of one frame looks for itself in the frames before. Most protocols allow it to have moved
by a few cells only, and keep the ``k`` best keys of all frames together. The form found everywhere
compares a position with all positions of all frames and then forbids most. Here a tile of queries
is compared with the few rows of keys that its windows touch, and what is kept is the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rhyme.errors import ConfigError, DataError
from rhyme.kernels.common import check_temperature, full_precision, no_autocast
from rhyme.kernels.product import fill_inner
from rhyme.kernels.search import largest, places

_BLOCK = 64  # keys looked at together where there is no window


@dataclass(frozen=True)
class Window:
    """How far from its own position a query may look; a grid cell is 1 wide.

    Attributes:
        radius: above 0; up to 1 (or below 1 if inclusive) a query sees its own position only.
        shape: ``"disk"`` measures the Euclidean distance, ``"square"`` the larger of both offsets.
        inclusive: whether a key at the radius itself is allowed.
    """

    radius: float
    shape: Literal["disk", "square"] = "disk"
    inclusive: bool = False

    def __post_init__(self) -> None:
        if not self.radius > 0 or self.shape not in ("disk", "square"):
            raise ConfigError(
                "a window is a disk or a square with a radius above 0",
                value=(self.radius, self.shape),
                remedy="a radius of 1 allows a query its own position only",
            )

    def allows(self, dy: Tensor, dx: Tensor) -> Tensor:
        """Whether a key at an offset is allowed, elementwise."""
        disk = self.shape == "disk"
        far = (dy * dy + dx * dx).double().sqrt() if disk else torch.maximum(dy.abs(), dx.abs())
        return far <= self.radius if self.inclusive else far < self.radius

    def reach(self, dy: int, width: int) -> int:
        """The largest allowed offset along a row ``dy`` rows away, below ``width``; −1 for none."""
        dx = torch.arange(width)
        return int(self.allows(torch.full_like(dx, dy), dx).sum()) - 1


class Affinity(NamedTuple):
    """The best keys of each position of a frame.

    Attributes:
        scores: ``[h, w, k]`` inner products, not increasing; −inf where there are fewer keys.
        indices: int64 ``[h, w, k]`` into the context ``[t · h · w]``; −1 where there are fewer.
            Equal scores are in the order of frame, row, column.
        weights: ``[h, w, k]`` softmax of ``scores / temperature``; rows sum to 1.
    """

    scores: Tensor
    indices: Tensor
    weights: Tensor


@torch.no_grad()
def windowed_affinity(
    query: Tensor,
    context: Tensor,
    k: int,
    *,
    temperature: float,
    window: Window | None,
    whole: Sequence[int] = (),
    tile: int | None = None,
) -> Affinity:
    """The ``k`` best keys of each position over all frames of a context together, exactly.

    Memory: one copy of the windowed frames (none if ``context`` is a view of contiguous float32
    ``[h, w, t, d]``), and the scores of one tile.

    Args:
        query: ``[h, w, d]`` features of a frame, unit vectors for cosine.
        context: ``[t, h, w, d]`` features of the frames it is compared with, in the order that
            breaks ties; a frame may stand in it several times.
        k: keys kept, at least 1; all that there are if there are fewer.
        temperature: τ > 0 of the softmax over the kept keys.
        window: where keys are allowed; None allows all positions of all frames.
        whole: context frames, by index, in which all positions are allowed.
        tile: side of a square of queries that are compared at once.

    Returns:
        See :class:`Affinity`.

    Raises:
        DataError: shapes do not fit, there is no context, a feature is NaN or infinite (wherever it
            is, also outside of all windows), or products of features may overflow.
        ConfigError: ``k``, the temperature or the tile is out of range, or ``whole`` names a frame
            that is not there.
    """
    _check(query, context, k, whole, tile)
    check_temperature(temperature)
    _check_numbers(query, context)
    h, w, _ = query.shape
    frames = range(len(context))
    free = list(frames) if window is None else [f for f in frames if f in set(whole)]
    tile = tile or (8 if query.device.type == "cpu" else 32)
    with no_autocast(query.device):
        like, _ = full_precision(query[:1, :1, :1], context[:1, :1, :1, :1])
        grid = _Grid.of(context, [f for f in frames if f not in free], free, window, like.dtype)
        scores = like.new_empty(h, w, k)
        indices = torch.empty(h, w, k, dtype=torch.int64, device=query.device)
        for top in range(0, h, tile):
            for left in range(0, w, tile):
                part = query[top : top + tile, left : left + tile]
                shape = part.shape[:2]
                found = _tile(grid, part.to(like.dtype), top, left, k)
                area = (slice(top, top + tile), slice(left, left + tile))
                scores[area] = found[0].view(*shape, k)
                indices[area] = found[1].view(*shape, k)
        logits = (scores - scores[..., :1]) / temperature  # exact before they are scaled
        return Affinity(scores, indices, torch.softmax(logits, dim=2))


def propagate(labels: Tensor, found: Affinity) -> Tensor:
    """The labels of a frame as the weighted mean of those of its best keys.

    Args:
        labels: ``[t, h, w, c]`` of the context frames, e.g. one-hot or soft masks.
        found: what :func:`windowed_affinity` says of the frame.

    Returns:
        ``[h, w, c]``; channels that sum to 1 in every key do so here, within rounding.

    Raises:
        DataError: labels of another grid, or of fewer frames.
    """
    h, w, k = found.indices.shape
    if labels.ndim != 4 or labels.shape[1:3] != (h, w):
        raise DataError(
            "expected labels [t, h, w, c] on the grid of the affinity",
            value=(tuple(labels.shape), (h, w)),
        )
    keys = labels.reshape(-1, labels.shape[3]).to(found.weights)
    indices = found.indices.view(-1, k)
    if indices.numel() and int(indices.max()) >= len(keys):
        raise DataError("the affinity names frames without labels", value=tuple(labels.shape))
    mixed = functional.embedding_bag(
        indices.clamp(min=0), keys, mode="sum", per_sample_weights=found.weights.view(-1, k)
    )
    return mixed.view(h, w, -1)


def _check(query: Tensor, context: Tensor, k: int, whole: Sequence[int], tile: int | None) -> None:
    if query.ndim != 3 or context.ndim != 4 or query.shape != context.shape[1:]:
        raise DataError(
            "expected a query [h, w, d] and a context [t, h, w, d] on the same grid",
            value=(tuple(query.shape), tuple(context.shape)),
        )
    if not context.numel():
        raise DataError("there is no context to look at", value=tuple(context.shape))
    if k < 1 or (tile is not None and tile < 1):
        raise ConfigError("k and tile must be at least 1", value=(k, tile))
    if any(not 0 <= f < len(context) for f in whole):
        raise ConfigError(
            "whole names a frame that is not in the context",
            value=list(whole),
            remedy=f"name frames from 0 to {len(context) - 1}",
        )


def _check_numbers(query: Tensor, context: Tensor) -> None:
    """Refuse what cannot be ranked, from the largest numbers alone: no score is looked at again."""
    like, _ = full_precision(query[:0], context[:0])
    sides = [torch.stack(_in_memory(x).aminmax()).abs().amax() for x in (query, context)]
    largest = [float(x) for x in sides]
    if not math.prod(largest) * query.shape[-1] <= torch.finfo(like.dtype).max:
        raise DataError(
            "features are NaN or infinite, or their products would be: they cannot be ranked",
            stage="windowed affinity",
            value=tuple(largest),
            remedy="look for NaN or infinite features; the encoder may have diverged",
        )


def _in_memory(x: Tensor) -> Tensor:
    """The dimensions in the order in which they lie, to look at all numbers without a copy."""
    return x.permute(*sorted(range(x.ndim), key=x.stride, reverse=True))


@dataclass(frozen=True)
class _Grid:
    """The context, laid out so that what a window takes from a row of the grid is one piece."""

    near: Tensor  # [h, w, n, d] of the frames with a window
    near_index: Tensor  # int64 [n], index of each frame's first key in the context
    far: Tensor  # [m · h · w, d] of the others
    far_index: Tensor  # int64 [m · h · w]
    window: Window | None
    reach: tuple[int, ...]  # along a row, by the distance of the row
    block: int

    @classmethod
    def of(
        cls,
        context: Tensor,
        near: list[int],
        far: list[int],
        window: Window | None,
        dtype: torch.dtype,
    ) -> _Grid:
        _, h, w, d = context.shape
        device = context.device
        by_place = context.permute(1, 2, 0, 3)
        if near == list(range(near[0], near[0] + len(near))) if near else False:
            kept = by_place[:, :, near[0] : near[0] + len(near)].to(dtype).contiguous()
        else:
            kept = torch.stack([context[f].to(dtype) for f in near], 2) if near else by_place[:0]
        rest = [context[f].reshape(h * w, d).to(dtype) for f in far]
        flat = torch.arange(h * w, device=device)
        reach = [] if window is None else [window.reach(dy, w) for dy in range(h)]
        return cls(
            kept,
            torch.tensor(near, dtype=torch.int64, device=device) * (h * w),
            rest[0] if len(rest) == 1 else torch.cat(rest) if rest else kept.new_empty(0, d),
            torch.cat([flat + f * h * w for f in far]) if far else flat[:0],
            window,
            tuple(r for r in reach if r >= 0),
            len(near) or _BLOCK,
        )

    def segments(self, top: int, bottom: int, left: int, right: int) -> list[tuple[int, int, int]]:
        """Row, first and last column + 1 of the keys that a tile's windows touch."""
        if not len(self.near_index):
            return []
        h, w = self.near.shape[:2]
        found = []
        for y in range(max(0, top - len(self.reach) + 1), min(h, bottom + len(self.reach) - 1)):
            reach = self.reach[max(top - y, y - bottom + 1, 0)]
            found.append((y, max(0, left - reach), min(w, right + reach)))
        return found


def _tile(grid: _Grid, part: Tensor, top: int, left: int, k: int) -> tuple[Tensor, Tensor]:
    """Scores and indices ``[q, k]`` of a tile's queries."""
    rows, columns, d = part.shape
    queries = part.reshape(-1, d)
    q, block = len(queries), grid.block
    segments = grid.segments(top, top + rows, left, left + columns)
    places_near = sum(b - a for _, a, b in segments)
    near = places_near * len(grid.near_index)
    far = len(grid.far)
    width = near + -(-far // block) * block
    # keys down, queries across: the maxima of a block are taken over whole rows
    scores = queries.new_empty(width, q)
    at = 0
    for y, a, b in segments:
        keys = grid.near[y, a:b].reshape(-1, d)
        fill_inner(scores[at : at + len(keys)], keys, queries)
        at += len(keys)
    fill_inner(scores[near : near + far], grid.far, queries)
    scores[near + far :] = -torch.inf
    index = queries.new_full((width,), -1, dtype=torch.int64)
    index[near : near + far] = grid.far_index
    highest = scores.view(-1, block, q).amax(1)
    forbidden = None
    if grid.window is not None and near:
        place = torch.tensor([(y, x) for y, a, b in segments for x in range(a, b)])
        place = place.to(queries.device)
        own = torch.arange(q, device=queries.device)
        dy = place[:, :1] - (top + own // columns)
        dx = place[:, 1:] - (left + own % columns)
        forbidden = ~grid.window.allows(dy, dx)
        key = place[:, 0] * grid.near.shape[1] + place[:, 1]
        index[:near] = (key[:, None] + grid.near_index).view(-1)
        highest[:places_near].masked_fill_(forbidden, -torch.inf)
    # on a GPU every look at how many were found would wait for it
    found = _choose_few(scores, highest.T, index, k) if queries.device.type == "cpu" else None
    if found is None:
        if forbidden is not None:
            allowed = scores[:near].view(places_near, -1, q)
            allowed.masked_fill_(forbidden[:, None], -torch.inf)
        found = _choose(scores, index, k)
    return found


def _choose_few(
    scores: Tensor, highest: Tensor, index: Tensor, k: int
) -> tuple[Tensor, Tensor] | None:
    """The ``k`` best by way of the blocks that can hold one; None where these are too many.

    The ``k``-th largest maximum of a block is a floor: ``k`` scores reach it.

    Args:
        scores: ``[keys, q]``.
        highest: ``[q, blocks]``.
        index: ``[keys]``.
        k: keys wanted.
    """
    q, blocks = highest.shape
    if 4 * k > blocks:
        return None
    highest = highest.contiguous()
    floor = highest.topk(k, dim=1)[0][:, -1:]
    row, hit = ((highest >= floor) & (highest > -torch.inf)).nonzero().unbind(1)
    if len(hit) * 4 > q * blocks:
        return None
    keys = hit[:, None] * (len(scores) // blocks) + torch.arange(len(scores) // blocks)
    values = scores.view(-1)[keys * q + row[:, None]]
    above = values >= floor[row]
    value, key, row = values[above], index[keys[above]], row[above.nonzero()[:, 0]]
    count, slot = places(row, q)
    most = max(k, int(count.max()))
    if most > 4 * (k + _BLOCK):
        return None
    table = scores.new_full((q, most), -torch.inf)
    chosen = index.new_full((q, most), torch.iinfo(torch.int64).max)
    table[row, slot], chosen[row, slot] = value, key
    chosen, order = chosen.sort(1)
    table, order = torch.sort(table.gather(1, order), dim=1, descending=True, stable=True)
    table, chosen = table[:, :k], chosen.gather(1, order[:, :k])
    return table, chosen.masked_fill_(table == -torch.inf, -1)


def _choose(scores: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of each column, by a look at all of them in the order of the context."""
    order = index.sort(stable=True)[1]
    values, place = largest(scores[order].T.contiguous(), min(k, len(index)))
    missing = k - values.shape[1]
    values = functional.pad(values, (0, missing), value=-torch.inf)
    keys = functional.pad(index[order][place], (0, missing), value=-1)
    return values, keys.masked_fill_(values == -torch.inf, -1)
