"""The points of k-means, prepared once, and the first centres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rhyme.errors import DataError
from rhyme.kernels.common import full_precision
from rhyme.kernels.product import inner

ROWS = 65536  # points that are widened at once


@dataclass(frozen=True)
class Points:
    """Points and what is known of each, fixed for the whole run.

    Attributes:
        given: ``[n, d]`` as they came.
        cosine: whether only their directions count.
        mass: ``[n]`` weights.
        lengths: ``[n]``; 1 for zero vectors.
        mean: ``[d]``; 0 under cosine.
        spread: ``[n]`` squared distance to the mean; under cosine 1, and 0 for zero vectors.
        variance: mean over the dimensions.
    """

    given: Tensor
    cosine: bool
    mass: Tensor
    lengths: Tensor
    mean: Tensor
    spread: Tensor
    variance: float

    def rows(self, at: Tensor | slice) -> Tensor:
        """Points in full precision, of unit length under cosine."""
        rows = self.given[at].to(self.mean.dtype)
        return rows / self.lengths[at][:, None] if self.cosine else rows

    def about_mean(self, at: slice) -> Tensor:
        """Points less the mean, so that a cloud far from 0 keeps its digits; unscaled."""
        rows = self.given[at].to(self.mean.dtype)
        return rows if self.cosine else rows - self.mean


def check_size(largest: float, like: Tensor, d: int) -> None:
    """Refuse numbers whose squares leave the range of their type, and all digits with it.

    Args:
        largest: absolute value.
        like: of the type computed in.
        d: dimensions that are summed over.

    Raises:
        DataError: as said; NaN and infinity too.
    """
    if not math.isfinite(largest):
        raise DataError(
            "the points are not finite",
            stage="k-means",
            value=largest,
            remedy="look for NaN or infinite features; the encoder may have diverged",
        )
    kind = torch.finfo(like.dtype)
    # a squared distance to the farthest point is 4 d largest², and sums of two are formed
    high, low = math.sqrt(kind.max / (16 * max(d, 1))), math.sqrt(kind.tiny / kind.eps)
    if largest > high or 0 < largest < low:
        raise DataError(
            f"squared distances leave the range of {str(like.dtype).removeprefix('torch.')}",
            stage="k-means",
            value=largest,
            remedy="divide all points, and given centres, by the largest absolute value; "
            "clusters stay the same",
        )


def prepare(points: Tensor, cosine: bool, weights: Tensor | None) -> Points:
    """Look at every point once or twice.

    Raises:
        DataError: points or weights cannot serve.
    """
    n, d = points.shape
    (like,) = full_precision(points[:1])
    mass = like.new_ones(n) if weights is None else weights.to(like)
    if mass.shape != (n,):
        raise DataError(
            "weights must give one number for each point",
            stage="k-means",
            value=(tuple(mass.shape), (n,)),
        )
    if not bool((mass.isfinite() & (mass >= 0)).all()) or not bool((mass > 0).any()):
        raise DataError("weights must be finite, not negative, and not all 0", stage="k-means")
    parts = [slice(at, at + ROWS) for at in range(0, n, ROWS)]
    check_size(_largest(points, parts), like, d)
    total = torch.zeros(d, dtype=torch.float64, device=points.device)
    lengths, spread = torch.empty_like(mass), torch.empty_like(mass)
    for part in parts:
        rows = points[part].to(like.dtype)
        lengths[part] = rows.norm(dim=1)
        total += (mass[part] @ (functional.normalize(rows, dim=1) if cosine else rows)).double()
    whole = mass.double().sum()
    some = lengths > 0
    lengths = torch.where(some, lengths, 1)
    mean = (total / whole).to(like)
    raw = Points(points, cosine, mass, lengths, mean, spread, 0.0)
    for part in parts:
        spread[part] = (raw.rows(part) - mean).square().sum(1)
    variance = float(mass.double() @ spread.double() / whole) / max(d, 1)
    if cosine:
        mean, spread = torch.zeros_like(mean), some.to(like)
    return Points(points, cosine, mass, lengths, mean, spread, variance)


def _largest(points: Tensor, parts: list[slice]) -> float:
    """The largest absolute value, NaN if there is one, 0 of nothing."""
    if not points.numel():
        return 0.0
    ends = [end for part in parts for end in points[part].aminmax()]
    return float(torch.stack(ends).abs().max())  # where NaN wins


def random_start(data: Points, k: int, generator: torch.Generator) -> Tensor:
    """``k`` points ``[k, d]``, those of weight 0 last."""
    order = torch.randperm(len(data.given), generator=generator).to(data.mass.device)
    counted = data.mass[order] > 0
    return data.rows(torch.cat([order[counted], order[~counted]])[:k])


def spread_start(data: Points, k: int, generator: torch.Generator) -> Tensor:
    """The centres ``[k, d]`` of k-means++, drawn by the squared distance to those before."""
    trials = 2 + int(math.log(k))
    mass = data.mass.double()
    if data.cosine and bool((mass * data.spread > 0).any()):
        mass = mass * data.spread  # a zero vector has no direction to start from
    chosen = [_draw(mass, 1, generator)]
    closest = _distances(data, data.rows(chosen[0]))[0]
    for _ in range(1, k):
        potential = mass * closest
        if float(potential.sum()) <= 0:  # fewer distinct points than clusters
            left = torch.ones_like(mass)
            left[torch.cat(chosen)] = 0
            chosen.append(_draw(left, 1, generator))
            continue
        tried = _draw(potential, trials, generator)
        ahead = torch.minimum(closest, _distances(data, data.rows(tried)))
        best = int((ahead @ mass).argmin())
        closest = ahead[best]
        chosen.append(tried[best : best + 1])
    return data.rows(torch.cat(chosen))


def _draw(share: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows drawn with replacement in proportion to ``share``."""
    reached = share.cumsum(0)
    at = torch.rand(count, generator=generator, dtype=torch.float64).to(share.device)
    found = torch.searchsorted(reached, at * reached[-1], right=True)
    return found.clamp(max=int(share.nonzero()[-1]))


def _distances(data: Points, others: Tensor) -> Tensor:
    """Squared distances ``[m, n]`` of a few rows to all points, in float64."""
    moved = others - data.mean
    half = 0.5 * moved.square().sum(1)
    found = torch.empty(len(others), len(data.given), dtype=torch.float64, device=others.device)
    for at in range(0, len(data.given), ROWS):
        part = slice(at, at + ROWS)
        scores = inner(data.about_mean(part), moved)
        if data.cosine:
            found[:, part] = (2 - 2 * scores / data.lengths[part][:, None]).T
        else:
            found[:, part] = (data.spread[part][:, None] - 2 * (scores - half)).T
    return found.clamp_(min=0)
