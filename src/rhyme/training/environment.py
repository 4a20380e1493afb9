"""Where a run computes: its device, its versions, and whether its operations are deterministic."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rhyme
from rhyme import distributed
from rhyme.errors import ConfigError
from rhyme.systems.base import System


def resolve_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        ConfigError: the device is not here.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        number and not (kind == "cuda" and number.isdigit())
    ):
        raise ConfigError(
            "unknown device", stage="device", value=name, remedy="choose auto, cpu, cuda or cuda:0"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{distributed.local_rank()}"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                "the device is not available",
                stage="train",
                value=name,
                remedy=f"{count} CUDA device(s) found; use --device cpu or --device auto",
            )
    return device


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and settings that may change the last bits of a result."""
    return {
        "rhyme": rhyme.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "ranks": distributed.world_size(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def process() -> dict[str, Any]:
    """Which process this is, so that others can tell later whether it still lives."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "began": _began(pid)}


def alive(known: Mapping[str, Any]) -> bool | None:
    """Whether a process of :func:`process` lives; None where this machine cannot tell."""
    if known.get("host") != socket.gethostname() or not isinstance(known.get("pid"), int):
        return None
    pid = int(known["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives and is somebody else's
    return _began(pid) == known.get("began")


def _began(pid: int) -> int | None:
    """Clock tick at which a process began, which tells it from a later one of the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None  # no such file system: the number alone must do
    return int(fields[19])


@contextmanager
def deterministic(on: bool) -> Generator[None]:
    """Within it torch chooses deterministic operations and warns where there is none."""
    if not on:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.backends.cudnn.benchmark = benchmark


def lay_out(system: System, channels_last: bool) -> System:
    """Give 4-D and 5-D weights and buffers the channels-last layout, where asked for."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if channels_last:
        for tensor in (*system.parameters(), *system.buffers()):
            if tensor.dim() in formats:
                tensor.data = tensor.data.contiguous(memory_format=formats[tensor.dim()])
    return system
