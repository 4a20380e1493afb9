"""Shuffle-BN: key batches in another order than query batches (MoCo, arXiv 1911.05722, §3.3).

Batch norm mixes information within the group of samples that share statistics. If a query and its
key always sat in the same group, the statistics would give the key away. So keys are encoded in a
random order of the global batch, and put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rhyme import distributed
from rhyme.errors import ConfigError, DataError
from rhyme.transfer import sent

Restore = Callable[[Tensor], Tensor]


class BatchShuffle:
    """Permutes the rows of the global batch, over all ranks.

    With batch norm in G groups of neighbouring rows of the *global* batch, one permutation drawn
    from the step's generator gives the same statistics on any number of ranks.

    Args:
        norm_groups: G of the encoder; with 1 all rows share their statistics and nothing is
            shuffled.

    Raises:
        ConfigError: ``norm_groups`` is below 1.
    """

    def __init__(self, norm_groups: int) -> None:
        if norm_groups < 1:
            raise ConfigError("norm_groups must be at least 1", value=norm_groups)
        self.norm_groups = norm_groups

    @property
    def backend(self) -> Literal["distributed", "local", "none"]:
        """Which form is active: over ranks, over groups on one rank, or none."""
        if self.norm_groups == 1:
            return "none"
        return "distributed" if distributed.world_size() > 1 else "local"

    def shuffle(self, x: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Restore]:
        """Rows in a random order of the global batch, and the way back.

        Args:
            x: ``[b, ...]``, the local rows, as many on every rank.
            generator: CPU generator in the same state on all ranks.

        Returns:
            This rank's rows ``[b, ...]`` of the shuffled global batch, and a function that puts the
            rows of any ``[b, ...]`` made from them back in the order of ``x``.

        Raises:
            DataError: the number of rows differs between ranks, or from ``b`` in the way back.
        """
        if self.backend == "none":
            return x, _identity
        rows = len(x)
        order = torch.randperm(rows * distributed.world_size(), generator=generator)
        back = torch.argsort(order)

        def restore(y: Tensor) -> Tensor:
            if len(y) != rows:
                raise DataError("rows were lost between shuffle and restore", value=(len(y), rows))
            return _reorder(y, back)

        return _reorder(x, order), restore


def _identity(y: Tensor) -> Tensor:
    return y


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    everyone = distributed.gather(x, grad=True)
    mine = order[distributed.rank_slice(len(order))]
    return everyone[sent(mine, x.device)]
