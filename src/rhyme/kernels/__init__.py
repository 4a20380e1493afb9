"""The few operations that carry the cost: one name each, one or more implementations behind it.

Functions with several implementations take ``kernel="auto"``; the implementations of a name agree
within rounding, in value and gradient. ``"eager"`` is plain PyTorch on any device.

Precision is the same everywhere: half-precision inputs are computed in float32, also inside an
autocast region (logits of unit vectors at temperature 0.07 reach ±14, and float16 overflows on the
sum of their exponentials); float64 stays float64.

Groups are int64 owner ids, e.g. the video a feature came from. A query and a key of the same group
are kept apart; a negative id means "nobody's" and matches nothing.
"""

from __future__ import annotations

from rhyme.kernels.attention import (
    QueueSummary,
    SoftNeighbourSummary,
    neighbour_weights,
    queue_log_sum_exp,
    soft_neighbour,
)
from rhyme.kernels.batch import (
    SymmetricSummary,
    in_batch_log_sum_exp,
    self_log_sum_exp,
    symmetric_log_sum_exp,
)
from rhyme.kernels.common import Kernel
from rhyme.kernels.kmeans import KMeans, kmeans
from rhyme.kernels.search import TopK, top_k
from rhyme.kernels.window import Affinity, Window, propagate, windowed_affinity

__all__ = [
    "Affinity",
    "KMeans",
    "Kernel",
    "QueueSummary",
    "SoftNeighbourSummary",
    "SymmetricSummary",
    "TopK",
    "Window",
    "in_batch_log_sum_exp",
    "kmeans",
    "neighbour_weights",
    "propagate",
    "queue_log_sum_exp",
    "self_log_sum_exp",
    "soft_neighbour",
    "symmetric_log_sum_exp",
    "top_k",
    "windowed_affinity",
]
