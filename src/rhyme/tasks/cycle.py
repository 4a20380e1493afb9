r"""Cycle-return rate and same-class attention mass, label-free evidence of a frame encoder.

Held-out groups are split by seed into Q and S. Each frame *q* of Q goes out to its soft nearest
neighbour among the frames *u* of S, other sources all of them, and back:

    α_j = softmax_j(q·u_j / τ),   q̂ = norm(Σ_j α_j u_j).

It *returns* when the frame nearest to q̂ among all other frames of Q belongs to its own group (the
CycleContrast objective read as a measure; Wu & Wang 2021, section 3.2). Beside the rate stand the
rates of q itself (no neighbour in between) and of uniform α (no meaning in the weights), and
chance. With labels, the weight that falls on frames of the query's class is the *same-class
attention mass*; the labels measure and are never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError, DataError
from rhyme.kernels import neighbour_weights
from rhyme.tasks.table import Integer, normalise

__all__ = ["CycleReturn", "Rhyme", "cycle_return", "rhymes", "split_groups"]

_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class CycleReturn:
    """The measures, each a mean over the queries.

    Attributes:
        rate: share of queries whose q̂ is nearest to a frame of their group, in [0, 1].
        rate_query: the same for q itself.
        rate_uniform: the same when all support frames weigh alike.
        chance: the same for a candidate drawn at random.
        effective_neighbours: exp(entropy of α), between 1 and ``support``.
        queries: frames that asked.
        left_out: frames of Q that cannot return, their group having no other frame.
        candidates: frames each query can return to.
        support: frames of S.
        query_groups: groups of Q.
        support_groups: groups of S.
        mass: weight on support frames of the query's class, None without labels.
        mass_chance: share of support frames of the query's class, the mass of uniform weights.
        nearest_same_class: share of queries whose strongest neighbour is of their class.
        mass_queries: labelled frames that these three are means over.
    """

    rate: float
    rate_query: float
    rate_uniform: float
    chance: float
    effective_neighbours: float
    queries: int
    left_out: int
    candidates: int
    support: int
    query_groups: int
    support_groups: int
    mass: float | None = None
    mass_chance: float | None = None
    nearest_same_class: float | None = None
    mass_queries: int = 0


@dataclass(frozen=True, kw_only=True)
class Rhyme:
    """One frame's way out and back; all numbers are rows of the frames given.

    Attributes:
        query: the frame that asks.
        neighbours: its strongest support frames, all of other groups, strongest first.
        weights: their weights α.
        returns: the candidates nearest to q̂, nearest first.
        scores: their cosine to q̂.
        returned: whether the first of them is of the query's group.
        effective_neighbours: exp(entropy of α).
    """

    query: int
    neighbours: tuple[int, ...]
    weights: tuple[float, ...]
    returns: tuple[int, ...]
    scores: tuple[float, ...]
    returned: bool
    effective_neighbours: float


def split_groups(groups: Integer, seed: int) -> tuple[Integer, Integer]:
    """The seeded split of groups into Q (the larger half) and S.

    Args:
        groups: ``int64 [n]`` group of each frame.
        seed: of the split.

    Returns:
        Sorted group codes of Q and of S.

    Raises:
        DataError: fewer than three groups.
    """
    codes = np.unique(groups)
    if len(codes) < 3:
        raise DataError(
            "the cycle needs frames of three groups: two to return among, one to go out to",
            stage="cycle",
            value=len(codes),
        )
    order = np.random.default_rng(seed).permutation(len(codes))
    half = (len(codes) + 1) // 2
    return np.sort(codes[order[:half]]), np.sort(codes[order[half:]])


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Frames of Q and S: rows of the input, features, groups."""

    query_rows: Integer
    support_rows: Integer
    query: Tensor
    support: Tensor
    groups: Tensor
    able: NDArray[np.bool_]
    counts: tuple[int, int]


def _sides(frames: NDArray[np.floating], groups: Integer, temperature: float, seed: int) -> _Sides:
    if temperature <= 0:
        raise ConfigError("the temperature must be positive", stage="cycle", value=temperature)
    if len(frames) != len(groups):
        raise DataError("frames and groups differ in length", stage="cycle", value=len(groups))
    asking, supporting = split_groups(groups, seed)
    query_rows = np.flatnonzero(np.isin(groups, asking))
    support_rows = np.flatnonzero(np.isin(groups, supporting))
    features = normalise(frames)
    own = groups[query_rows]
    codes, sizes = np.unique(own, return_counts=True)
    able = sizes[np.searchsorted(codes, own)] > 1
    if not able.any():
        raise DataError(
            "no group has a second frame to return to",
            stage="cycle",
            remedy="take more frames an item",
        )
    return _Sides(
        query_rows=query_rows,
        support_rows=support_rows,
        query=torch.from_numpy(features[query_rows]),
        support=torch.from_numpy(features[support_rows]),
        groups=torch.from_numpy(own.copy()),
        able=able,
        counts=(len(asking), len(supporting)),
    )


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def _nearest_candidate(sides: _Sides, anchors: Tensor, rows: Tensor) -> Tensor:
    """Position in Q of the frame nearest to each anchor, the query frame itself left out."""
    similarity = anchors @ sides.query.T
    similarity.scatter_(1, rows[:, None], -torch.inf)
    return similarity.argmax(dim=1)


def cycle_return(
    frames: NDArray[np.floating],
    groups: Integer,
    labels: Integer | None = None,
    *,
    temperature: float = 0.1,
    seed: int = 0,
) -> CycleReturn:
    """Measure how many frames come home, and on whom their weights fall.

    Args:
        frames: ``[n, d]`` backbone features of held-out frames; compared under cosine.
        groups: ``int64 [n]`` group of each frame.
        labels: ``int64 [n]`` class of each frame, below 0 where it has none.
        temperature: τ of the soft nearest neighbour.
        seed: of the split into Q and S.

    Returns:
        The measures with the sizes of both sides. A frame whose group has no other frame cannot
        return: it is no query (and no query of the mass), but stays a candidate for others. An
        unlabelled support frame keeps its weight and is of nobody's class.

    Raises:
        DataError: fewer than three groups, or no group in Q with two frames.
        ConfigError: a temperature that is not positive.
    """
    sides = _sides(frames, groups, temperature, seed)
    uniform = _unit(sides.support.mean(dim=0, keepdim=True))
    asking = torch.from_numpy(np.flatnonzero(sides.able))
    class_of_query = class_of_support = None
    if labels is not None:
        class_of_query = torch.from_numpy(labels[sides.query_rows].astype(np.int64))
        class_of_support = torch.from_numpy(labels[sides.support_rows].astype(np.int64))
    home = {"soft": 0, "query": 0, "uniform": 0}
    effective = mass = expected = strongest = 0.0
    labelled = 0
    for rows in asking.split(_BLOCK):
        query = sides.query[rows]
        weights = neighbour_weights(query, sides.support, temperature=temperature)
        soft = _unit(weights @ sides.support)
        starts = {"soft": soft, "query": query, "uniform": uniform.expand(len(rows), -1)}
        for name, anchors in starts.items():
            nearest = _nearest_candidate(sides, anchors, rows)
            home[name] += int((sides.groups[nearest] == sides.groups[rows]).sum())
        effective += float(torch.special.entr(weights).sum(dim=1).exp().double().sum())
        if class_of_query is not None and class_of_support is not None:
            mine = class_of_query[rows]
            known = mine >= 0
            same = (mine[:, None] == class_of_support[None, :])[known]
            labelled += int(known.sum())
            mass += float((weights[known] * same).sum(dim=1).double().sum())
            expected += float(same.double().mean(dim=1).sum())
            best = weights[known].argmax(dim=1, keepdim=True)
            strongest += float(same.gather(1, best).sum())
    own = torch.bincount(torch.unique(sides.groups, return_inverse=True)[1])
    others = own[torch.unique(sides.groups, return_inverse=True)[1]][asking] - 1
    queries, candidates = len(asking), len(sides.query) - 1
    return CycleReturn(
        rate=home["soft"] / queries,
        rate_query=home["query"] / queries,
        rate_uniform=home["uniform"] / queries,
        chance=float((others.double() / candidates).mean()),
        effective_neighbours=effective / queries,
        queries=queries,
        left_out=int((~sides.able).sum()),
        candidates=candidates,
        support=len(sides.support),
        query_groups=sides.counts[0],
        support_groups=sides.counts[1],
        mass=mass / labelled if labelled else None,
        mass_chance=expected / labelled if labelled else None,
        nearest_same_class=strongest / labelled if labelled else None,
        mass_queries=labelled,
    )


def rhymes(
    frames: NDArray[np.floating],
    groups: Integer,
    *,
    n: int = 8,
    queries: Sequence[int] | None = None,
    neighbours: int = 5,
    returns: int = 3,
    temperature: float = 0.1,
    seed: int = 0,
) -> list[Rhyme]:
    """The ways of a few frames, for strips in a report.

    Args:
        frames: ``[n, d]`` backbone features of held-out frames.
        groups: ``int64 [n]`` group of each frame.
        n: how many queries to draw by seed, at most one a group.
        queries: rows to ask instead; each must be a frame of Q whose group has a second frame.
        neighbours: support frames to name.
        returns: candidates to name.
        temperature: τ of the soft nearest neighbour.
        seed: of the split into Q and S, and of the draw.

    Returns:
        One entry a query, in the order drawn or given.

    Raises:
        DataError: as :func:`cycle_return`.
        ConfigError: a row that cannot ask, or a number below 1.
    """
    if min(n, neighbours, returns) < 1:
        raise ConfigError("numbers of rhymes must be at least 1", stage="cycle")
    sides = _sides(frames, groups, temperature, seed)
    place = {int(row): i for i, row in enumerate(sides.query_rows) if sides.able[i]}
    if queries is None:
        drawn = np.random.default_rng([seed, 1]).permutation(sorted(place))
        seen: set[int] = set()
        chosen: list[int] = []
        for row in drawn.tolist():
            if int(groups[row]) not in seen and len(chosen) < n:
                seen.add(int(groups[row]))
                chosen.append(row)
    else:
        chosen = [int(row) for row in queries]
        for row in chosen:
            if row not in place:
                raise ConfigError(
                    "this frame is in the support, or alone in its group",
                    stage="cycle",
                    value=row,
                    remedy="ask with frames of the query half: split_groups(groups, seed)[0]",
                )
    rows = torch.tensor([place[row] for row in chosen], dtype=torch.int64)
    query = sides.query[rows]
    weights = neighbour_weights(query, sides.support, temperature=temperature)
    soft = _unit(weights @ sides.support)
    back = soft @ sides.query.T
    back.scatter_(1, rows[:, None], -torch.inf)
    alpha, out = weights.topk(min(neighbours, weights.shape[1]), dim=1)
    cosine, home = back.topk(min(returns, back.shape[1] - 1), dim=1)
    effective = torch.special.entr(weights).sum(dim=1).exp()
    found: list[Rhyme] = []
    for i, row in enumerate(chosen):
        returned = tuple(int(r) for r in sides.query_rows[home[i].numpy()])
        found.append(
            Rhyme(
                query=row,
                neighbours=tuple(int(r) for r in sides.support_rows[out[i].numpy()]),
                weights=tuple(alpha[i].tolist()),
                returns=returned,
                scores=tuple(cosine[i].tolist()),
                returned=bool(groups[returned[0]] == groups[row]),
                effective_neighbours=float(effective[i]),
            )
        )
    return found
