"""Objectives: features in, one value for each anchor out. Pure functions without state.

They take *local* anchors and the keys of all ranks, unit rows as the caller normalised them, and
return an :class:`ObjectiveOutput`. The loss is then ``distributed.mean(out.values, out.valid)``.
Momentum keys and queues come detached from the caller; the objectives pass gradients to whatever
requires one.
"""

from __future__ import annotations

from rhyme.kernels import neighbour_weights
from rhyme.objectives.contrast import info_nce, info_nce_in_batch, info_nce_symmetric, nt_xent
from rhyme.objectives.dense import dense_info_nce, nearest_cells
from rhyme.objectives.labels import balanced_accuracy, label_cross_entropy
from rhyme.objectives.neighbour import SoftNeighbour, cycle, soft_nearest_neighbour
from rhyme.objectives.order import with_own_negative
from rhyme.objectives.output import ObjectiveOutput, masked_mean
from rhyme.objectives.pairs import multi_positive_info_nce, pair_distance
from rhyme.objectives.segments import (
    calibrate_segments,
    segment_accuracy,
    segment_mean,
    segment_ranking,
    shuffle_segments,
)

__all__ = [
    "ObjectiveOutput",
    "SoftNeighbour",
    "balanced_accuracy",
    "calibrate_segments",
    "cycle",
    "dense_info_nce",
    "info_nce",
    "info_nce_in_batch",
    "info_nce_symmetric",
    "label_cross_entropy",
    "masked_mean",
    "multi_positive_info_nce",
    "nearest_cells",
    "neighbour_weights",
    "nt_xent",
    "pair_distance",
    "segment_accuracy",
    "segment_mean",
    "segment_ranking",
    "shuffle_segments",
    "soft_nearest_neighbour",
    "with_own_negative",
]
