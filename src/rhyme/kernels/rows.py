"""Inner products of rows with their counterparts, without wide copies of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from rhyme.kernels.common import full_precision, transformed

_ELEMENTS = 2**24  # of each matrix at a time: 64 MiB in float32


class _Products(torch.autograd.Function):
    """Saves the rows in their own type; a product of halves is exact in float32."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        pieces = (full_precision(*piece) for piece in _pieces(first, second))
        return torch.cat([(a * b).sum(1) for a, b in pieces])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        first, second = ctx.saved_tensors
        (slope,) = grads
        if torch.is_grad_enabled():  # a second derivative is asked for
            slope = slope[:, None]
            return (slope * second).to(first.dtype), (slope * first).to(second.dtype)
        sides = ((first, second), (second, first))
        return tuple(
            torch.cat([(g[:, None] * x).to(side.dtype) for g, x in _pieces(slope, other)])
            if need
            else None
            for need, (side, other) in zip(ctx.needs_input_grad, sides, strict=True)
        )


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of all tensors, some at a time."""
    rows = _ELEMENTS // max(tensors[-1].shape[1], 1) + 1
    return zip(*(t.split(rows) for t in tensors), strict=True)


def row_products(first: Tensor, second: Tensor) -> Tensor:
    """``a_i · b_i`` of each row, ``[b]``, in float32, or float64 if an input is.

    Args:
        first: ``[b, d]``.
        second: ``[b, d]``.
    """
    if transformed():
        first, second = full_precision(first, second)
        return (first * second).sum(1)
    return cast(Tensor, _Products.apply(first, second))
