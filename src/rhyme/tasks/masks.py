"""How well masks of an object agree with the truth: region J and boundary F, as DAVIS counts them.

Perazzi et al., CVPR 2016; the settings of the DAVIS 2017 evaluation (arXiv 1704.00675).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError

__all__ = ["MaskScore", "boundary_map", "boundary_similarity", "mask_score", "region_similarity"]

Masks = NDArray[np.bool_]
Values = NDArray[np.float64]

TOLERANCE = 0.008
"""Distance at which boundaries still match, as a share of the frame's diagonal."""


@dataclass(frozen=True, kw_only=True)
class MaskScore:
    """Scores of one object over the frames that count.

    Attributes:
        mean: over frames.
        recall: share of frames above one half.
        decay: mean of the first quarter of the frames less that of the last.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(predicted: Masks, truth: Masks) -> Values:
    """J, intersection over union of each frame; 1 where both are empty.

    Args:
        predicted: bool ``[t, h, w]``.
        truth: bool ``[t, h, w]``.

    Raises:
        DataError: shapes differ.
    """
    _check(predicted, truth)
    inter = (predicted & truth).sum(axis=(1, 2))
    union = (predicted | truth).sum(axis=(1, 2))
    return np.where(union > 0, inter / np.maximum(union, 1), 1.0)


def boundary_map(mask: Masks) -> Masks:
    """Pixels ``[h, w]`` that differ from their right, lower or lower right neighbour."""
    below = np.concatenate([mask[1:], mask[-1:]])
    right, diagonal = (np.concatenate([m[:, 1:], m[:, -1:]], axis=1) for m in (mask, below))
    found = (mask != right) | (mask != below) | (mask != diagonal)
    # the last row looks to the right alone, the last column down alone, the corner nowhere
    found[-1] = mask[-1] != right[-1]
    found[:, -1] = mask[:, -1] != below[:, -1]
    found[-1, -1] = False
    return found


def boundary_similarity(predicted: Masks, truth: Masks, tolerance: float = TOLERANCE) -> Values:
    """F of each frame: the harmonic mean of precision and recall of boundary pixels.

    A boundary pixel is matched where the other boundary, dilated by a disk, covers it.

    Args:
        predicted: bool ``[t, h, w]``.
        truth: bool ``[t, h, w]``.
        tolerance: radius of the disk as a share of the diagonal, rounded up to pixels.

    Returns:
        ``float64 [t]``; 1 where neither mask has a boundary, 0 where one alone has.

    Raises:
        DataError: shapes differ.
    """
    _check(predicted, truth)
    radius = math.ceil(tolerance * math.hypot(*predicted.shape[1:]))
    return np.array([_f(p, t, radius) for p, t in zip(predicted, truth, strict=True)])


def _f(predicted: Masks, truth: Masks, radius: int) -> float:
    found, wanted = boundary_map(predicted), boundary_map(truth)
    if not found.any() or not wanted.any():
        return float(not found.any() and not wanted.any())
    precision = (found & _dilated(wanted, radius)).sum() / found.sum()
    recall = (wanted & _dilated(found, radius)).sum() / wanted.sum()
    both = precision + recall
    return float(2 * precision * recall / both) if both > 0 else 0.0


def _dilated(points: Masks, radius: int) -> Masks:
    """Pixels within ``radius`` of a point, a disk being all offsets with y² + x² ≤ radius²."""
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(~points)
    return np.asarray(distance) <= radius + 1e-6


def mask_score(values: Values) -> MaskScore:
    """Mean, recall and decay over the frames of one object.

    Args:
        values: ``[n]`` J or F of the frames that count, at least one.

    Raises:
        DataError: no frame counts.
    """
    if not len(values):
        raise DataError("no frame counts", stage="masks")
    # Quarters share their edge frames, as in the published evaluation, in wide integers.
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return MaskScore(
        mean=float(values.mean()),
        recall=float((values > 0.5).mean()),
        decay=float(first.mean() - last.mean()),
    )


def _check(predicted: Masks, truth: Masks) -> None:
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise DataError(
            "masks must be [t, h, w], as many predicted as true",
            stage="masks",
            value=(predicted.shape, truth.shape),
        )
