"""Segments of a labelled video, and how well predicted ones fit the true ones.

The three figures of action segmentation as the field counts them (Lea et al., arXiv 1611.05267;
Abu Farha and Gall, arXiv 1903.01945): accuracy of frames, edit score, and F1 at an overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError
from rhyme.tasks.table import Integer

__all__ = ["OVERLAPS", "SegmentationScore", "Segments", "edit_score", "match_segments",
           "score_segmentation", "segments"]  # fmt: skip

OVERLAPS: tuple[int, ...] = (10, 25, 50)
"""Least intersection over union, in per cent, at which F1 is reported."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Stretches of equal label, in order of time.

    Attributes:
        labels: ``int64 [n]`` class of each.
        starts: ``int64 [n]`` its first frame.
        stops: ``int64 [n]`` the frame after its last.
    """

    labels: Integer
    starts: Integer
    stops: Integer

    def __len__(self) -> int:
        return len(self.labels)


def segments(labels: Integer, leave_out: Iterable[int] = ()) -> Segments:
    """The segments of a video.

    Args:
        labels: ``int64 [t]`` class of each frame.
        leave_out: classes whose segments are not counted, such as the background.
    """
    labels = np.asarray(labels, dtype=np.int64)
    change = np.flatnonzero(np.diff(labels)) + 1
    edges = np.concatenate([[0], change, [len(labels)]]) if len(labels) else np.zeros(1, np.int64)
    starts, stops = edges[:-1].astype(np.int64), edges[1:].astype(np.int64)
    names = labels[starts]
    kept = ~np.isin(names, np.array(list(leave_out), dtype=np.int64))
    return Segments(labels=names[kept], starts=starts[kept], stops=stops[kept])


def edit_score(predicted: Integer, truth: Integer) -> float:
    """One minus the Levenshtein distance of two sequences over the longer one's length.

    It asks for the right order of segments and not for their borders; too many segments cost.

    Args:
        predicted: ``int64 [n]`` labels of the predicted segments.
        truth: ``int64 [m]`` those of the true ones.

    Returns:
        In [0, 1]; 1 for two empty sequences.
    """
    if len(predicted) == 0 or len(truth) == 0:
        return float(len(predicted) == len(truth))
    wanted = np.asarray(truth, dtype=np.int64)
    steps = np.arange(len(wanted) + 1)
    row = steps.copy()
    for place, label in enumerate(np.asarray(predicted, dtype=np.int64).tolist(), 1):
        above = np.minimum(row[1:] + 1, row[:-1] + (wanted != label))
        # an insertion follows the row, and costs one a step: a running minimum less the steps
        best = np.concatenate([[place], above]) - steps
        row = np.minimum.accumulate(best) + steps
    return 1.0 - float(row[-1]) / max(len(predicted), len(truth))


def match_segments(predicted: Segments, truth: Segments, overlap: float) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of one video.

    Each predicted segment in turn looks at the true segment of its label with the largest
    intersection over union, the first among equals. It is a hit if that overlaps enough and was
    not hit before. The second best is never tried.

    Args:
        predicted: predicted segments.
        truth: true segments.
        overlap: least intersection over union, in (0, 1].
    """
    if len(truth) == 0:
        return 0, len(predicted), 0
    used = np.zeros(len(truth), dtype=bool)
    for label, start, stop in zip(predicted.labels, predicted.starts, predicted.stops, strict=True):
        inner = np.minimum(stop, truth.stops) - np.maximum(start, truth.starts)
        outer = np.maximum(stop, truth.stops) - np.minimum(start, truth.starts)
        shared = np.where(truth.labels == label, inner / outer, 0.0)
        best = int(shared.argmax())
        if shared[best] >= overlap:
            used[best] = True
    hits = int(used.sum())
    return hits, len(predicted) - hits, len(truth) - hits


@dataclass(frozen=True, kw_only=True)
class SegmentationScore:
    """Figures of a set of videos, all in [0, 1].

    Attributes:
        accuracy: frames of the right class among all labelled frames of all videos.
        edit: edit score, the mean over videos.
        f1: F1 by overlap in per cent, from the counts of all videos together.
        counts: true positives, false positives and false negatives by overlap.
        frames: labelled frames.
        videos: videos.
        predicted: predicted segments of all videos.
        true: true segments of all videos.
    """

    accuracy: float
    edit: float
    f1: dict[int, float]
    counts: dict[int, tuple[int, int, int]]
    frames: int
    videos: int
    predicted: int
    true: int


def score_segmentation(
    videos: Sequence[tuple[Integer, Integer]],
    *,
    background: Iterable[int] = (),
    overlaps: Sequence[int] = OVERLAPS,
) -> SegmentationScore:
    """Accuracy, edit score and F1 of predicted labels.

    Segments of the background are left out of edit score and F1, and its frames count in the
    accuracy. Frames whose true label is negative have none and are taken out of both sequences.

    Args:
        videos: (predicted, true) classes of each video's frames, ``int64 [t]`` both.
        background: classes that are background.
        overlaps: overlaps in per cent, in (0, 100].

    Raises:
        DataError: no video, or a prediction of another length than its truth.
    """
    background = tuple(background)
    right = frames = predictions = truths = 0
    edits: list[float] = []
    counts = {overlap: np.zeros(3, dtype=np.int64) for overlap in overlaps}
    for predicted, true in videos:
        predicted, true = np.asarray(predicted), np.asarray(true)
        if predicted.shape != true.shape or true.ndim != 1:
            raise DataError(
                "a prediction has another length than its truth",
                stage="segmentation",
                value=(predicted.shape, true.shape),
            )
        known: NDArray[np.bool_] = true >= 0
        if not known.any():
            continue
        predicted, true = predicted[known], true[known]
        right += int((predicted == true).sum())
        frames += len(true)
        found, wanted = segments(predicted, background), segments(true, background)
        predictions += len(found)
        truths += len(wanted)
        edits.append(edit_score(found.labels, wanted.labels))
        for overlap in overlaps:
            counts[overlap] += match_segments(found, wanted, overlap / 100)
    if not edits:
        raise DataError("no video has a labelled frame", stage="segmentation")
    told = {overlap: (int(c[0]), int(c[1]), int(c[2])) for overlap, c in counts.items()}
    return SegmentationScore(
        accuracy=right / frames,
        edit=float(np.mean(edits)),
        f1={o: 2 * tp / max(2 * tp + fp + fn, 1) for o, (tp, fp, fn) in told.items()},
        counts=told,
        frames=frames,
        videos=len(edits),
        predicted=predictions,
        true=truths,
    )
