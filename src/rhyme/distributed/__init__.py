"""Ranks: the door to ``torch.distributed``, for all but the engines in ``training.parallel``.

Every function works without any process group too, as one rank. The convention behind all of them:
the global batch is the ranks' local batches one after another, each rank computes a loss, and the
parameter gradients are *averaged* over the ranks (DDP, or :func:`average_gradients`). With that,

* :func:`gather` with ``grad=True`` sends each row's gradient from all ranks back to its owner, and
* :func:`mean` is the mean over the rows of the global batch, scaled in the backward pass so that
  the averaged parameter gradient is the one a single process would compute.

Together they make one global batch give the same loss and the same gradient on 1, 2 or 4 ranks.
Gathering without gradient and a local mean would lose all but 1/W of the gradient through the keys
(W ranks); gathering with gradient while every rank repeats the global loss would multiply it by W.
"""

from __future__ import annotations

from rhyme.distributed.control import (
    agree,
    barrier,
    broadcast_object,
    differing,
    exchange,
    item_slice,
    rank_slice,
)
from rhyme.distributed.gradient import (
    average_gradients,
    gather,
    gather_items,
    mean,
    sum_all,
)
from rhyme.distributed.membership import (
    engine_group,
    init,
    is_active,
    local_rank,
    rank,
    saving_group,
    shutdown,
    world_size,
)

__all__ = [
    "agree",
    "average_gradients",
    "barrier",
    "broadcast_object",
    "differing",
    "engine_group",
    "exchange",
    "gather",
    "gather_items",
    "init",
    "is_active",
    "item_slice",
    "local_rank",
    "mean",
    "rank",
    "rank_slice",
    "saving_group",
    "shutdown",
    "sum_all",
    "world_size",
]
