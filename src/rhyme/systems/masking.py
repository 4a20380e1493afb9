"""The same-group mask, and data that leave nothing to contrast with under it."""

from __future__ import annotations

from torch import Tensor

from rhyme.errors import ConfigError, DataError
from rhyme.loading.batch import Batch
from rhyme.systems.base import RunContext


def kin(batch: Batch, masked: bool | None) -> Tensor:
    """``int64 [b]``: rows of a batch that share a number are no negatives of each other.

    Args:
        batch: the batch.
        masked: whether an item's own group is left out. Where it is not, an item itself still is:
            the stand-in of a damaged one may be in the batch a second time.
    """
    return batch.group if masked else batch.index


def masks_queue(choice: bool | None, context: RunContext, queue: int) -> bool:
    """Whether keys of an item's own group are no negatives in a queue of keys.

    A full queue holds ``queue / groups`` keys of a group, however many items that group has.

    Args:
        choice: as chosen; None is on with fewer groups than ten times the queue.
        context: of the run.
        queue: keys that it holds.

    Raises:
        DataError: all items are of one group, so that none would be left.
    """
    masked = context.groups < 10 * queue if choice is None else choice
    return _with_others(masked, context)


def masks_batch(choice: bool | None, context: RunContext) -> bool:
    """Whether items of an item's own group are no negatives within a batch.

    Args:
        choice: as chosen; None is on where groups have several items.
        context: of the run.

    Raises:
        ConfigError: a batch of one item has no other.
        DataError: all items are of one group, so that none would be left.
    """
    if context.batch_size < 2:
        raise ConfigError(
            "negatives are the other items of a batch, and a batch of 1 has none",
            stage="train",
            value=context.batch_size,
            remedy="give --train.batch_size 2 or more; larger ones train better",
        )
    masked = context.groups < context.items if choice is None else choice
    return _with_others(masked, context)


def _with_others(masked: bool, context: RunContext) -> bool:
    if masked and context.groups < 2:
        raise DataError(
            f"all {context.items} items to train on are of one group, and items of one group are "
            "no negatives of each other: there is nothing to contrast with",
            stage="train",
            remedy="give more sources; or take parts of the same source as negatives: "
            "--model.mask_same_group false",
        )
    return masked
