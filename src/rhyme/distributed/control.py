"""What ranks agree on and hand each other: small, without gradient, on the CPU where possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from rhyme.distributed.membership import rank, world_size
from rhyme.errors import ConfigError

Value = TypeVar("Value")


def control_device() -> torch.device:
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
    votes = torch.tensor(int(flag), device=control_device())
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def broadcast_object(value: Value, source: int = 0) -> Value:
    """The object of rank ``source``, on every rank. It is pickled: only for our own ranks."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=source, device=control_device())
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
