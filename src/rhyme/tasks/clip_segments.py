"""What clips of a video have in common, and what their segments have not (DUAL, 2107.01194)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError
from rhyme.tasks.table import Float, Integer
from rhyme.views import Keys

__all__ = ["Coherence", "clip_coherence", "intra_variance", "other_orders"]


@dataclass(frozen=True, kw_only=True)
class Coherence:
    """How alike clips are, where a pair of clips is as alike as all pairs of their segments.

    Attributes:
        positive: mean similarity of two different clips of one item.
        negative: mean similarity of two clips of items of different groups.
        margin: their difference.
    """

    positive: float
    negative: float

    @property
    def margin(self) -> float:
        """What clips of one item have in common beyond those of others."""
        return self.positive - self.negative


def clip_coherence(segments: Float, groups: Integer) -> Coherence:
    """Similarity of clips within items and across groups.

    Args:
        segments: ``[n, f, s, d]`` unit rows: ``s`` segments of ``f`` clips of ``n`` items.
        groups: ``[n]`` group of each item.

    Raises:
        DataError: fewer than two clips an item, or than two groups.
    """
    n, f = segments.shape[:2]
    codes = np.unique(groups, return_inverse=True)[1]
    members = np.bincount(codes)
    if f < 2 or len(members) < 2:
        raise DataError(
            "coherence needs two clips an item, and items of two groups",
            value={"clips": f, "groups": len(members)},
        )
    means = segments.astype(np.float64).mean(axis=2)
    sums = means.sum(axis=1)
    squares = (means**2).sum(axis=(1, 2))
    positive = ((sums**2).sum(axis=1) - squares) / (f * (f - 1))
    of_group = np.zeros((len(members), sums.shape[1]))
    np.add.at(of_group, codes, sums)
    total = of_group.sum(axis=0)
    across = float(total @ total - (of_group**2).sum())
    pairs = f * f * (n * n - int((members**2).sum()))
    return Coherence(positive=float(positive.mean()), negative=across / pairs)


def intra_variance(features: Float) -> float:
    """Variance within items as a share of all variance, of features brought to length 1.

    0 where all clips of an item look the same, ``(f − 1) / f`` where they are no more alike than
    clips of any items are, and 1 where items differ in nothing but their clips.

    Args:
        features: ``[n, f, d]``: ``f`` clips of ``n`` items.

    Raises:
        DataError: fewer than two clips an item, or nothing varies.
    """
    if features.shape[1] < 2:
        raise DataError("variance within items needs two clips of each", value=features.shape)
    wide = features.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    within = unit.var(axis=1).sum(axis=-1).mean()
    total = unit.reshape(-1, unit.shape[-1]).var(axis=0).sum()
    if not total > 0:
        raise DataError("all features are the same", value=float(total))
    return float(within / total)


def other_orders(ids: NDArray[np.uint64], segments: int, seed: int) -> Integer:
    """A cyclic permutation of each item's segments, which moves every one, ``int64 [n, s]``.

    A head that ignores its input is right on segments that stay where they are, so none does.

    Args:
        ids: ``[n]`` item ids; an item's permutation depends on its id and the seed alone.
        segments: s, at least 2.
        seed: of the draw.

    Raises:
        DataError: fewer than two segments.
    """
    if segments < 2:
        raise DataError("a single segment has no other order", value=segments)
    drawn = Keys.of(seed, 0, ids).permutation("segments", segments)
    orders = np.empty_like(drawn)
    np.put_along_axis(orders, drawn, np.roll(drawn, -1, axis=1), axis=1)
    return orders
