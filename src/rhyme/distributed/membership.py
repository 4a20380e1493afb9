"""Who this process is among the ranks; joining the group and leaving it."""

from __future__ import annotations

import datetime
import importlib
import os
from typing import cast

import torch
import torch.distributed as dist

from rhyme.board import launchers_store
from rhyme.errors import ConfigError

# Their functions have the default group as a default value. Loaded after joining (torchvision loads
# the first) they would keep the group, and its connections, beyond ``shutdown``.
_HOLDERS = ("torch.distributed.nn.functional", "torch.distributed.fsdp")


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
    for name in _HOLDERS:
        importlib.import_module(name)
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
