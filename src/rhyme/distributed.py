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

import datetime
import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from rhyme.board import launchers_store
from rhyme.errors import ConfigError, DataError, TrainingError

__all__ = [
    "agree",
    "average_gradients",
    "barrier",
    "broadcast_object",
    "broadcast_tensors",
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

Value = TypeVar("Value")


# ---- who am I


def is_active() -> bool:
    """Whether a process group of several ranks exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 without a group."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """Number of processes, 1 without a group."""
    return dist.get_world_size() if is_active() else 1


def local_rank() -> int:
    """Number of this process on its machine, i.e. of its GPU (torchrun's ``LOCAL_RANK``)."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_active() else 0


def init(
    backend: str | None = None,
    *,
    init_method: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    timeout_s: float = 1800.0,
) -> bool:
    """Join the process group that torchrun, or the arguments, describe.

    Args:
        backend: ``"gloo"``, ``"nccl"``, ...; by default gloo for CPU tensors and, where there is a
            GPU, nccl for CUDA tensors.
        init_method: where the ranks meet, e.g. ``"file:///tmp/meet"``; default ``"env://"``.
        rank: number of this process; default from ``RANK``.
        world_size: number of processes; default from ``WORLD_SIZE``.
        timeout_s: seconds after which a collective that not all ranks enter fails.

    Returns:
        Whether a group is active now. A single process, or none described, needs none.

    Raises:
        ConfigError: ``RANK`` or ``WORLD_SIZE`` are incomplete or no numbers.
    """
    if is_active():
        return True
    size = _number("WORLD_SIZE", 1) if world_size is None else world_size
    if size <= 1:
        return False
    number = _number("RANK", None) if rank is None else rank
    if not 0 <= number < size:
        raise ConfigError("the rank lies outside the world", value=(number, size), stage="ranks")
    cuda = torch.cuda.is_available() and backend != "gloo"
    if cuda:
        torch.cuda.set_device(_number("LOCAL_RANK", 0))
    timeout = datetime.timedelta(seconds=timeout_s)
    dist.init_process_group(
        backend or ("cpu:gloo,cuda:nccl" if cuda else "gloo"),
        init_method=init_method,
        store=None if init_method else launchers_store(size, timeout),
        rank=number,
        world_size=size,
        timeout=timeout,
    )
    return True


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(
            f"environment variable {name} must be a whole number",
            value=text,
            stage="ranks",
            remedy="start with torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK",
        ) from None


def engine_group() -> dist.ProcessGroup:
    """All ranks in a second group, for the collectives of DDP and FSDP.

    An engine reduces a gradient when it is ready, which may be at another moment on each rank; in
    the default group that would cross with the collectives of the loss. Made at the first call,
    which all ranks make together.
    """
    return _group("engine", None)


def saving_group() -> dist.ProcessGroup:
    """All ranks in a third group, on the CPU, for the threads that write checkpoints."""
    return _group("saving", "gloo")


def _group(purpose: str, backend: str | None) -> dist.ProcessGroup:
    if purpose not in _groups:
        _groups[purpose] = cast(dist.ProcessGroup, dist.new_group(backend=backend))
    return _groups[purpose]


_groups: dict[str, dist.ProcessGroup] = {}


def shutdown() -> None:
    """Leave the process group; harmless without one."""
    if is_active():
        _groups.clear()
        dist.destroy_process_group()


# ---- control: small, without gradient, on the CPU where the group allows


def _control_device() -> torch.device:
    """Where small control tensors live: on the CPU if gloo serves it, so that no GPU waits."""
    if "cpu" in str(dist.get_backend_config()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def barrier() -> None:
    """Wait until all ranks are here."""
    agree(False)


def agree(flag: bool) -> bool:
    """Whether the flag is set on *any* rank; every rank gets the same answer."""
    if world_size() == 1:
        return bool(flag)
    votes = torch.tensor(int(flag), device=_control_device())
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def broadcast_object(value: Value, source: int = 0) -> Value:
    """The object of rank ``source``, on every rank. It is pickled: only for our own ranks."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=source, device=_control_device())
    return cast(Value, box[0])


def exchange(value: Value, group: dist.ProcessGroup | None = None) -> list[Value]:
    """The objects of all ranks in rank order. They are pickled: only between our own ranks.

    Args:
        value: this rank's.
        group: a group of all ranks; the default one if not said otherwise.
    """
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, group=group)
    return cast(list[Value], found)


def differing(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same on all ranks, by a sum over their bits."""
    if world_size() == 1:
        return []
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = {
        name: (tuple(t.shape), int(t.detach().contiguous().view(words[t.itemsize]).long().sum()))
        for name, t in tensors.items()
        if t.itemsize in words
    }
    tables = exchange(sums)
    names = {name: None for table in tables for name in table}
    return [n for n in names if any(t.get(n) != tables[0].get(n) for t in tables)]


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor], source: int = 0) -> None:
    """Overwrite each tensor with that of rank ``source``, e.g. all entries of a state dict."""
    if world_size() == 1:
        return
    for tensor in tensors:
        plain = tensor.detach()
        sent = plain.contiguous()
        dist.broadcast(sent, src=source)
        if sent is not plain:
            plain.copy_(sent)


def rank_slice(n: int) -> slice:
    """This rank's rows of a global batch of ``n``.

    Raises:
        ConfigError: ``n`` is no multiple of the number of ranks.
    """
    size = world_size()
    if n % size:
        raise ConfigError(
            "the global batch must be a multiple of the number of ranks",
            value=(n, size),
            stage="ranks",
            remedy=f"use a batch size of {max(n // size, 1) * size}",
        )
    each = n // size
    return slice(rank() * each, (rank() + 1) * each)


def item_slice(n: int) -> slice:
    """This rank's rows of state that is sharded by item index, of ``n`` items in all.

    Runs of ``⌈n / W⌉`` items; the last ranks may hold fewer, or none.
    """
    each = -(-n // world_size())
    start = min(rank() * each, n)
    return slice(start, min(start + each, n))


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


# ---- data: with the right gradient


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
    device = _control_device()
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
        total = cast(Tensor, _SumSame.apply(total)) if total.requires_grad else _all_reduce(total)
        count = _all_reduce(count)
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
