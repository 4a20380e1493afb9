"""A forward pass in parts, equal to that of all rows at once.

Only batch norm looks across rows. Where every part holds whole norm groups (``norm_groups`` a
multiple of parts x ranks) each row is normalised by the very rows that it would be normalised by
in one pass. The running statistics ``r`` move by ``r ← (1 − f) r + f s``, which is affine in the
statistics ``s`` of the batch, and those are the mean over its groups. So each part starts from the
same ``r``, and the mean of what the parts make of it is what one pass would have made: also where a
module is entered several times in a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from rhyme.encoders.norm import GroupBatchNorm
from rhyme.errors import ConfigError

Result = TypeVar("Result")


def in_parts(
    module: nn.Module, parts: int, run: Callable[[int], Result], *, remember: bool = True
) -> list[Result]:
    """Call ``run(0)`` to ``run(parts - 1)``, each a pass of its part of the rows.

    Args:
        module: what the rows pass through; its batch norms are told of the parts.
        parts: number of parts, of equally many rows; 1 is a plain call.
        run: passes a part through the module.
        remember: whether the running statistics move, once for all parts.

    Returns:
        What ``run`` returned, in order.

    Raises:
        ConfigError: a batch norm whose groups lie across parts.
    """
    if parts == 1 and remember:
        return [run(0)]
    norms = _norms(module, parts)
    buffers = [b for norm in norms if norm.training for b in norm.buffers()]
    moving = [b for b in buffers if b.is_floating_point()]
    before = [b.clone() for b in buffers]
    total = [torch.zeros_like(b) for b in moving]
    results: list[Result] = []
    try:
        for norm in norms:
            norm.parts = parts
        for i in range(parts):
            _put(buffers, before)
            results.append(run(i))
            for mean, buffer in zip(total, moving, strict=True):
                mean.add_(buffer, alpha=1 / parts)
    finally:
        for norm in norms:
            norm.parts = 1
    _put(moving, total) if remember else _put(buffers, before)
    return results


def _norms(module: nn.Module, parts: int) -> list[GroupBatchNorm]:
    """Batch norms that take part; all others have to be in evaluation mode."""
    norms: list[GroupBatchNorm] = []
    for name, norm in module.named_modules():
        if isinstance(norm, GroupBatchNorm):
            norms.append(norm)
        elif isinstance(norm, _BatchNorm) and norm.training and parts > 1:
            raise ConfigError(
                f"{name}: batch norm over the whole batch cannot be taken in parts",
                stage="batch norm",
                value=type(norm).__name__,
                remedy="use rhyme.encoders.GroupBatchNorm2d with norm_groups, or do not "
                "accumulate (train.accumulate=1)",
            )
    return norms


@torch.no_grad()
def _put(buffers: list[Tensor], values: list[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
