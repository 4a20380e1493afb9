"""Rows and means of the global batch, with the gradient that one process would compute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from rhyme.distributed.control import control_device
from rhyme.distributed.membership import rank, world_size
from rhyme.errors import DataError, TrainingError


class _Gather(torch.autograd.Function):
    """All ranks' rows; backward: the sum over ranks of the gradient of the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return _all_gather(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = rank() * ctx.rows
        return total[start : start + ctx.rows]


class _SumAll(torch.autograd.Function):
    """Sum over ranks; backward: the sum over ranks of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduce(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _all_reduce(grads[0])


class _SumSame(torch.autograd.Function):
    """Sum over ranks whose result is used alike on all of them; backward without communication."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduce(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * world_size()


def _all_reduce(x: Tensor) -> Tensor:
    total = x.detach().contiguous().clone()
    dist.all_reduce(total)
    return total


def _all_gather(x: Tensor) -> Tensor:
    x = x.detach().contiguous()
    if x.dtype is torch.bool:  # not every backend moves booleans
        return _all_gather(x.to(torch.uint8)).to(torch.bool)
    out = x.new_empty((world_size() * x.shape[0], *x.shape[1:]))
    dist.all_gather(list(out.chunk(world_size())), x)
    return out


def _check_equal_shapes(x: Tensor) -> None:
    """Refuse ragged local batches before a backend hangs or mixes up rows."""
    device = control_device()
    mine = torch.full((9,), -1, dtype=torch.int64, device=device)
    mine[: x.ndim] = torch.tensor(x.shape, device=device)
    mine[8] = x.dtype.itemsize
    all_shapes = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(all_shapes, mine)
    if any(not torch.equal(other, mine) for other in all_shapes):
        raise DataError(
            "ranks hold local batches of different shapes",
            stage="gather",
            value=[tuple(int(n) for n in s[:8] if n >= 0) for s in all_shapes],
            remedy="drop the last, smaller batch (drop_last) or pad it and mask the padding",
        )


def gather(x: Tensor, *, grad: bool = False) -> Tensor:
    """The rows of all ranks in rank order.

    Args:
        x: ``[b, ...]`` with the same shape and type on every rank, at most 8 dimensions.
        grad: let gradients flow back: each rank gets the sum over all ranks of the gradient of its
            own rows. Without it the result is detached.

    Returns:
        ``[world * b, ...]``; on one rank ``x`` itself (detached without ``grad``).

    Raises:
        DataError: the ranks' shapes differ. Raised on every rank.
    """
    if world_size() == 1:
        return x if grad else x.detach()
    _check_equal_shapes(x)
    return cast(Tensor, _Gather.apply(x)) if grad and x.requires_grad else _all_gather(x)


@torch.no_grad()
def gather_items(rows: Tensor, n: int) -> Tensor:
    """All ``[n, ...]`` rows of state that is cut by :func:`item_slice`, on every rank.

    Args:
        rows: this rank's rows.
        n: items in all.
    """
    if world_size() == 1:
        return rows.detach()
    padded = rows.new_zeros((-(-n // world_size()), *rows.shape[1:]))
    padded[: len(rows)] = rows
    return _all_gather(padded)[:n]


def sum_all(x: Tensor, *, grad: bool = False) -> Tensor:
    """The sum of ``x`` over all ranks, elementwise; the same on every rank.

    Args:
        x: any shape, equal on all ranks.
        grad: let gradients flow back: the sum over ranks of the gradient of the result.
    """
    if world_size() == 1:
        return x if grad else x.detach()
    return cast(Tensor, _SumAll.apply(x)) if grad and x.requires_grad else _all_reduce(x)


def mean(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """The mean of the valid entries over the *global* batch, with the right gradient.

    The value is equal on all ranks. Its gradient with respect to a local valid entry is
    W / (global count), so that parameter gradients averaged over the W ranks are those of a single
    process. Enter it on every rank, and build the same loss from it on every rank.

    Args:
        values: any shape; half precision is summed in float32.
        valid: boolean, same shape; ``None`` = all. Entries that are not valid may be anything,
            also NaN.

    Returns:
        A scalar; 0 with a zero gradient when nothing is valid.

    Raises:
        DataError: the shapes differ.
    """
    if valid is not None and valid.shape != values.shape:
        raise DataError(
            "values and valid must have the same shape",
            stage="mean",
            value=(tuple(values.shape), tuple(valid.shape)),
        )
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    if valid is None:
        total = values.sum()
        count = torch.full_like(total, values.numel(), requires_grad=False)
    else:
        total = torch.where(valid, values, torch.zeros_like(values)).sum()
        count = valid.sum().to(total)
    if world_size() > 1:
        both = torch.stack([total, count])  # one collective for the two
        both = cast(Tensor, _SumSame.apply(both)) if both.requires_grad else _all_reduce(both)
        total, count = both[0], both[1].detach()
    return total / count.clamp(min=1)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the ranks, for training without DDP.

    One flat bucket for each type and device. A parameter without gradient on some ranks counts as
    zero there; one without gradient on all ranks keeps none.

    Raises:
        TrainingError: a gradient is sparse.
    """
    if world_size() == 1:
        return
    buckets: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            buckets.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for (dtype, device), members in buckets.items():
        if any(p.grad is not None and p.grad.is_sparse for p in members):
            raise TrainingError("sparse gradients cannot be averaged", stage="ranks")
        present = torch.tensor([p.grad is not None for p in members], dtype=dtype, device=device)
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in members]
            + [present]
        )
        dist.all_reduce(flat)
        flat /= world_size()
        *pieces, present = flat.split([p.numel() for p in members] + [len(members)])
        for parameter, piece, here in zip(members, pieces, present.tolist(), strict=True):
            if here > 0:
                parameter.grad = piece.view_as(parameter).clone()
