"""Retrieval across groups: does one of the k nearest items of *other* sources share the class?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError, DataError
from rhyme.tasks.neighbours import nearest_rows
from rhyme.tasks.table import Float, Integer, normalise

__all__ = ["GroupRetrieval", "Retrieval", "group_retrieval", "retrieval"]

_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall at k, and mean average precision.

    Attributes:
        recall: by k, share of queries with a right item among their k nearest, in [0, 1].
        chance_recall: by k, the same for a gallery in random order (exact, not sampled).
        mean_average_precision: over the whole ranking.
        chance_average_precision: the same for random order (exact).
        queries: queries counted.
        gallery: items of the gallery.
        left_out: queries left out because no allowed gallery item shares their class.
    """

    recall: dict[int, float]
    chance_recall: dict[int, float]
    mean_average_precision: float
    chance_average_precision: float
    queries: int
    gallery: int
    left_out: int


def retrieval(
    queries: NDArray[np.floating],
    gallery: NDArray[np.floating],
    query_labels: Integer,
    gallery_labels: Integer,
    query_groups: Integer,
    gallery_groups: Integer,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Rank the gallery for each query under cosine; gallery items of its group are left out.

    The protocol of the customary UCF101 retrieval tables: test items ask, training items
    answer, any of the top k of the same class is a hit.

    Args:
        queries: ``[q, d]``.
        gallery: ``[n, d]``.
        query_labels: ``int64 [q]`` codes from 0.
        gallery_labels: ``int64 [n]``.
        query_groups: ``int64 [q]``.
        gallery_groups: ``int64 [n]``.
        ks: the k of recall at k.

    Returns:
        Recall, average precision, and chance for both. Queries without any right item in the
        gallery cannot be answered: they are left out and counted.

    Raises:
        ConfigError: for a k below 1.
        DataError: without a gallery, or when no query can be answered.
    """
    if not ks or min(ks) < 1:
        raise ConfigError("k must be at least 1", stage="retrieval", value=tuple(ks))
    if len(gallery) == 0:
        raise DataError("the gallery is empty", stage="retrieval")
    keys, anchors = normalise(gallery), normalise(queries)
    hits = dict.fromkeys(ks, 0.0)
    chances = dict.fromkeys(ks, 0.0)
    precision = chance_precision = 0.0
    counted = 0
    for start in range(0, len(anchors), _BLOCK):
        block = slice(start, start + _BLOCK)
        similarity = anchors[block] @ keys.T
        allowed = query_groups[block][:, None] != gallery_groups[None, :]
        right = (query_labels[block][:, None] == gallery_labels[None, :]) & allowed
        similarity[~allowed] = -np.inf
        # a stable sort of the negated scores: equal scores keep the gallery's order
        order = np.argsort(-similarity, axis=1, kind="stable")
        ranked = np.take_along_axis(right, order, axis=1)
        totals, sizes = right.sum(axis=1), allowed.sum(axis=1)
        able = totals > 0
        counted += int(able.sum())
        for k in ks:
            hits[k] += float(ranked[able, :k].any(axis=1).sum())
            chances[k] += float(_chance_recall(sizes[able], totals[able], k).sum())
        place = np.arange(1, ranked.shape[1] + 1)
        at = np.cumsum(ranked[able], axis=1) / place
        precision += float(((at * ranked[able]).sum(axis=1) / totals[able]).sum())
        chance_precision += float(_chance_precision(sizes[able], totals[able]).sum())
    if counted == 0:
        raise DataError(
            "no query shares its class with an item of another group",
            stage="retrieval",
            remedy="give classes that occur in two groups or more",
        )
    return Retrieval(
        recall={k: hits[k] / counted for k in ks},
        chance_recall={k: chances[k] / counted for k in ks},
        mean_average_precision=precision / counted,
        chance_average_precision=chance_precision / counted,
        queries=counted,
        gallery=len(gallery),
        left_out=len(anchors) - counted,
    )


def _chance_recall(sizes: Integer, right: Integer, k: int) -> NDArray[np.float64]:
    """Chance that k draws without replacement from ``sizes`` items hit one of ``right``."""
    missed = np.ones(len(sizes))
    for drawn in range(k):
        left = np.maximum(sizes - drawn, 1)
        missed *= np.clip((sizes - right - drawn) / left, 0.0, 1.0)
    return 1.0 - missed


def _chance_precision(sizes: Integer, right: Integer) -> NDArray[np.float64]:
    """Expected average precision of a random order.

    Given that place i is right, (i - 1)(right - 1) / (size - 1) of the places before are.
    """
    harmonic = np.cumsum(1.0 / np.arange(1, int(sizes.max(initial=1)) + 1))
    h = harmonic[sizes - 1]
    before = (right - 1) / np.maximum(sizes - 1, 1)
    return (h + before * (sizes - h)) / sizes


@dataclass(frozen=True, kw_only=True)
class GroupRetrieval:
    """Recall of a frame's own group, for collections without labels.

    Attributes:
        recall: by k, share of frames with a frame of their group among the k nearest others.
        chance_recall: by k, the same for random order (exact).
        queries: frames counted.
        left_out: frames left out because their group has no other frame.
    """

    recall: dict[int, float]
    chance_recall: dict[int, float]
    queries: int
    left_out: int


def group_retrieval(
    frames: Float,
    groups: Integer,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> GroupRetrieval:
    """Each frame asks among all other frames; a hit is a frame of the same group.

    Args:
        frames: ``[n, d]``.
        groups: ``int64 [n]``.
        ks: the k of recall at k.

    Returns:
        Recall and chance.

    Raises:
        ConfigError: for a k below 1.
        DataError: fewer than two groups, or no group with two frames.
    """
    if not ks or min(ks) < 1:
        raise ConfigError("k must be at least 1", stage="retrieval", value=tuple(ks))
    codes, counts = np.unique(groups, return_counts=True)
    if len(codes) < 2:
        raise DataError("retrieval needs frames of two groups", stage="retrieval", value=len(codes))
    others = counts[np.searchsorted(codes, groups)] - 1
    able = others > 0
    if not able.any():
        raise DataError(
            "no group has two frames",
            stage="retrieval",
            remedy="take more frames an item",
        )
    # the frame itself is the one row of its own number: left out by that number
    number = np.arange(len(frames), dtype=np.int64)
    near = nearest_rows(
        frames, frames[able], max(ks), bank_groups=number, query_groups=number[able]
    )
    same = (groups[np.maximum(near.rows, 0)] == groups[able][:, None]) & (near.rows >= 0)
    sizes = np.full(int(able.sum()), len(frames) - 1, dtype=np.int64)
    return GroupRetrieval(
        recall={k: float(same[:, :k].any(axis=1).mean()) for k in ks},
        chance_recall={k: float(_chance_recall(sizes, others[able], k).mean()) for k in ks},
        queries=int(able.sum()),
        left_out=int((~able).sum()),
    )
