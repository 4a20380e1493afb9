r"""k-means by Lloyd's algorithm, exactly, without a matrix of all distances.

With centres *c* and points *x*, ``½|x − c|² = ½|x|² − (x·c − ½|c|²)``: the nearest centre has the
largest ``x·c − ½|c|²``, one product and a maximum. Under cosine it has the largest ``x·c``,
whatever the length of *x*.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rhyme.errors import ConfigError, DataError, UnknownName, nearest
from rhyme.kernels.common import no_autocast
from rhyme.kernels.kmeans_start import (
    ROWS,
    Points,
    check_size,
    prepare,
    random_start,
    spread_start,
)
from rhyme.kernels.product import inner

Metric = Literal["euclidean", "cosine"]
_METRICS = ("euclidean", "cosine")
_INITS = ("k-means++", "random")
_SCORES = 2**20  # of points with centres, held at once


class KMeans(NamedTuple):
    """Clusters of points.

    Attributes:
        centres: ``[k, d]`` means; under cosine of unit length.
        assignment: int64 ``[n]``, nearest centre of each point, the lowest index among equals.
        inertia: sum of the squared distances to the nearest centre; under cosine of 1 − cosine.
        counts: int64 ``[k]`` points of each cluster; 0 where there are fewer distinct points than
            clusters, or, rarely, where the last movement emptied one.
        history: the inertia found by each iteration, before it moved the centres.
        converged: whether the assignment or the centres came to rest.
    """

    centres: Tensor
    assignment: Tensor
    inertia: float
    counts: Tensor
    history: tuple[float, ...]
    converged: bool


@torch.no_grad()
def kmeans(
    points: Tensor,
    k: int,
    *,
    metric: Metric = "euclidean",
    init: str | Tensor = "k-means++",
    iterations: int = 100,
    tolerance: float = 1e-4,
    restarts: int = 1,
    weights: Tensor | None = None,
    generator: torch.Generator | int = 0,
) -> KMeans:
    """Lloyd's algorithm until nothing moves (Lloyd 1982); spherical k-means under cosine.

    The same seed gives the same clusters. Memory beyond the points: 2^20 scores or the products of
    65,536 rows, and a few numbers a point.

    Args:
        points: ``[n, d]``, finite; half precision is computed in float32.
        k: number of clusters, 1 to ``n``.
        metric: ``"euclidean"``; or ``"cosine"``, under which a zero vector is at distance 1 of all
            centres.
        init: ``"k-means++"`` (Arthur and Vassilvitskii 2007; of 2 + ⌊ln k⌋ candidates the one that
            helps most, as in scikit-learn), ``"random"`` points, or the centres ``[k, d]``.
        iterations: at most, at least 1.
        tolerance: stop when the squared movement of all centres together is at most this share of
            the mean variance of a dimension; 0 stops at rest only.
        restarts: runs from new centres; the one with the least inertia is returned.
        weights: ``[n]``, not negative, not all 0; how often each point counts.
        generator: a CPU generator, or a seed.

    Returns:
        See :class:`KMeans`. A cluster that loses its points goes to the point farthest from its
        centre, so that the inertia never rises.

    Raises:
        DataError: shapes do not fit, there are fewer points than ``k``, or they are not finite or
            so large or small that squares leave the range of the type (float32: from 4.6e18 / √d
            on, and where all are below 3e-16).
        ConfigError: a number out of its range.
        UnknownName: no such metric or initialisation.
    """
    _check(points, k, metric, init, iterations, tolerance, restarts)
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    with no_autocast(points.device):
        data = prepare(points, metric == "cosine", weights)
        given = isinstance(init, Tensor)
        found: KMeans | None = None
        for _ in range(1 if given else restarts):
            if isinstance(init, Tensor):
                start = init.to(data.mean)
                _check_start(start)
            elif init == "random":
                start = random_start(data, k, generator)
            else:
                start = spread_start(data, k, generator)
            run = _lloyd(data, start, iterations, tolerance)
            if found is None or run.inertia < found.inertia:
                found = run
        assert found is not None
        return found


def _check(
    points: Tensor,
    k: int,
    metric: str,
    init: str | Tensor,
    iterations: int,
    tolerance: float,
    restarts: int,
) -> None:
    if points.ndim != 2:
        raise DataError("expected points [n, d]", stage="k-means", value=tuple(points.shape))
    if metric not in _METRICS:
        raise UnknownName("unknown metric", value=metric, remedy=nearest(metric, _METRICS))
    if isinstance(init, Tensor):
        if init.shape != (k, points.shape[1]):
            raise DataError(
                "the first centres must be [k, d]",
                stage="k-means",
                value=(tuple(init.shape), (k, points.shape[1])),
            )
    elif init not in _INITS:
        raise UnknownName("unknown initialisation", value=init, remedy=nearest(init, _INITS))
    if min(k, iterations, restarts) < 1 or not tolerance >= 0:
        raise ConfigError(
            "k, iterations and restarts must be at least 1, and tolerance at least 0",
            stage="k-means",
            value=(k, iterations, restarts, tolerance),
        )
    if k > len(points):
        raise DataError(
            "there are more clusters than points",
            stage="k-means",
            value=(k, len(points)),
            remedy=f"ask for at most {len(points)} clusters, or give more points",
        )


def _check_start(centres: Tensor) -> None:
    if not bool(centres.isfinite().all()):
        raise DataError("the first centres are not finite", stage="k-means")
    largest = float(centres.abs().max()) if centres.numel() else 0.0
    if largest:
        check_size(max(largest, 1.0), centres, centres.shape[1])  # small ones may be anywhere


class _Pass(NamedTuple):
    assignment: Tensor  # [n]
    distance: Tensor  # [n] to the nearest centre: squared, or 1 − cosine
    sums: Tensor  # float64 [k, d] of each cluster's points, about the mean of all
    mass: Tensor  # float64 [k] of each cluster


def _assign(data: Points, centres: Tensor) -> _Pass:
    """The nearest centre of every point, and the sums of each cluster, in one pass."""
    n, k = len(data.given), len(centres)
    found = _Pass(
        torch.empty(n, dtype=torch.int64, device=centres.device),
        torch.empty_like(data.mass),
        torch.zeros_like(centres, dtype=torch.float64),
        torch.zeros(k, dtype=torch.float64, device=centres.device),
    )
    moved = centres - data.mean
    bias = -0.5 * moved.square().sum(1)
    size = min(ROWS, max(64, _SCORES // k))
    for at in range(0, n, size):
        part = slice(at, at + size)
        rows = data.about_mean(part)
        scores = inner(rows, moved, columns=None if data.cosine else bias)
        score, index = scores.max(1)
        found.assignment[part] = index
        mass, lengths = data.mass[part], data.lengths[part]
        if data.cosine:
            found.distance[part] = 1 - score / lengths
            sums = _sums(rows, index, mass / lengths, k)
        else:
            found.distance[part] = data.spread[part] - 2 * score
            sums = _sums(rows, index, mass, k)
        found.sums.add_(sums)
        found.mass.index_add_(0, index, mass.double())
    found.distance.clamp_(min=0)
    return found


def _sums(rows: Tensor, index: Tensor, mass: Tensor, k: int) -> Tensor:
    """Weighted sums ``[k, d]`` of the rows of each cluster, always added in the same order."""
    order = index.sort(stable=True)[1]
    counts = torch.bincount(index, minlength=k)
    return functional.embedding_bag(
        order, rows, counts.cumsum(0) - counts, mode="sum", per_sample_weights=mass[order]
    )


def _inertia(mass: Tensor, distance: Tensor) -> float:
    return float(mass.double() @ distance.double())


def _lloyd(data: Points, centres: Tensor, iterations: int, tolerance: float) -> KMeans:
    if data.cosine:
        centres = functional.normalize(centres, dim=1)
    before: Tensor | None = None
    history: list[float] = []
    converged = False
    for _ in range(iterations):
        found = _assign(data, centres)
        history.append(_inertia(data.mass, found.distance))
        _fill_empty(data, found)
        moved = _means(data, found, centres)
        if before is not None and torch.equal(found.assignment, before):
            converged = True
            break
        shift = float((moved - centres).double().square().sum())
        before, centres = found.assignment, moved
        if shift <= tolerance * data.variance:
            converged = True
            break
    found = _assign(data, centres)
    counts = torch.bincount(found.assignment, minlength=len(centres))
    inertia = _exact_inertia(data, centres, found.assignment)
    return KMeans(centres, found.assignment, inertia, counts, tuple(history), converged)


def _means(data: Points, found: _Pass, centres: Tensor) -> Tensor:
    """Where the centres go; one without points stays."""
    if not data.cosine:
        means = data.mean + (found.sums / found.mass[:, None].clamp(min=1e-300)).to(centres)
        return torch.where(found.mass[:, None] > 0, means, centres)
    length = found.sums.norm(dim=1, keepdim=True)
    means = (found.sums / length.clamp(min=1e-300)).to(centres)
    # opposite points leave no direction
    some = (length > 1e-12 * found.mass[:, None]) & (found.mass[:, None] > 0)
    return torch.where(some, means, centres)


def _fill_empty(data: Points, found: _Pass) -> None:
    """Give each empty cluster the farthest point whose own cluster keeps another, in place."""
    empty = (found.mass == 0).nonzero()[:, 0].tolist()
    if not empty:
        return
    distance = torch.where(data.mass > 0, found.distance, 0)
    k = len(found.mass)
    counts = torch.bincount(found.assignment[data.mass > 0], minlength=k).tolist()
    taken: list[Tensor] = []
    # a cluster may refuse its last point: at most k of the farthest are passed over
    wanted = min(len(distance), len(empty) + k)
    floor = torch.topk(distance, wanted)[0][-1]
    candidates = (distance >= floor).nonzero()[:, 0]
    order = distance[candidates].sort(descending=True, stable=True)[1]
    for row in candidates[order].tolist():
        if len(empty) == len(taken) or not float(distance[row]) > _least(data, row):
            break
        point = data.rows(slice(row, row + 1))[0]
        donor = int(found.assignment[row])
        if counts[donor] < 2 or any(torch.equal(point, other) for other in taken):
            continue
        counts[donor] -= 1
        weighted = (point - data.mean).double() * data.mass[row].double()
        found.sums[donor] -= weighted
        found.mass[donor] -= data.mass[row]
        target = empty[len(taken)]
        found.sums[target] = weighted
        found.mass[target] = data.mass[row]
        found.assignment[row] = target
        taken.append(point)


def _least(data: Points, row: int) -> float:
    """A distance that rounding alone can make of 0."""
    return 8 * torch.finfo(data.mass.dtype).eps * max(1e-30, float(data.spread[row]))


def _exact_inertia(data: Points, centres: Tensor, assignment: Tensor) -> float:
    """From the differences themselves, free of cancellation."""
    total = 0.0
    for at in range(0, len(assignment), ROWS):
        part = slice(at, at + ROWS)
        rows, chosen = data.rows(part), centres[assignment[part]]
        if data.cosine:
            distance = (1 - (rows * chosen).sum(1)).clamp(min=0)
        else:
            distance = (rows - chosen).square().sum(1)
        total += _inertia(data.mass[part], distance)
    return total
