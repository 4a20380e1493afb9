"""Block sizes of the kernels: a table, so that a result never depends on what a timing chose.

On GPUs of compute capability 9 the sizes are those that ran fastest on an H100 where
``benchmarks/gpu`` says so. Others share less memory among the threads of a program, 99 KiB on cards
for desktops and 163 KiB on an A100 instead of 227, and have other matrix units: their sizes fit
into 99 KiB and keep their sums in registers, by the compiler's own account; no timing chose them.
:func:`using` puts others in their place, which is how the benchmark tries them.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

Name = Literal["queue_forward", "queue_backward", "queue_keys", "batch_sums", "batch_weights"]
Precision = Literal["ieee", "tf32", "tf32x3", "bf16x3", "bf16x6"]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How a kernel cuts its work.

    Attributes:
        rows: queries of a tile.
        keys: keys of a tile.
        depth: dimensions at a time; 0 takes all at once and keeps the queries' tile.
        warps: warps of a program.
        stages: tiles that are loaded ahead, and the one in use.
        resident: programs that share a multiprocessor, by which the keys are split.
        chunk: bytes of the gradient of inner products that are held at once.
        exact: how float32 is multiplied: ``"tf32x3"`` and ``"bf16x6"`` are as exact as float32,
            ``"bf16x3"`` leaves 16 bits.
    """

    rows: int
    keys: int
    depth: int = 0
    warps: int = 8
    stages: int = 2
    resident: int = 1
    chunk: int = 2**28
    exact: Precision = "tf32x3"


def _tuned(name: Name, half: bool, width: int) -> Blocks:
    """Sizes for compute capability 9."""
    if name.startswith("batch"):
        if not half:
            return Blocks(rows=64, keys=64, depth=32, warps=4, stages=3)
        if name == "batch_sums":
            if width <= 256:
                return Blocks(rows=128, keys=128, warps=8, stages=2)
            return Blocks(rows=128, keys=128, depth=64, warps=8, stages=3)
        chunk = 2**29 if width <= 256 else 2**28
        return Blocks(rows=128, keys=256, depth=64, warps=8, stages=3, chunk=chunk)
    if name == "queue_keys":
        return Blocks(rows=32, keys=64 if half else 32, warps=8 if half else 4, stages=1)
    if half:
        if width <= 128:
            return Blocks(rows=64, keys=64, warps=4, stages=3, resident=2)
        return Blocks(rows=64, keys=64, warps=8, stages=2)
    if width <= 128:
        return Blocks(rows=128, keys=32, warps=8, stages=1, exact="bf16x6")
    return Blocks(rows=64, keys=32, warps=8, stages=1)


def _common(name: Name, half: bool, width: int, major: int) -> Blocks:
    """Sizes for all others, where those of an H100 do not fit or compile."""
    if name == "batch_weights" and half:
        return Blocks(rows=128, keys=128, depth=64, warps=8, stages=3)
    if name == "batch_sums" and half:
        # wider tiles of columns do not compile for capability 10 (Triton 3.9)
        return Blocks(rows=128, keys=64 if major == 10 else 128, depth=64, warps=8, stages=2)
    if name in ("queue_forward", "queue_backward"):
        if not half:
            return Blocks(rows=32, keys=32, warps=4, stages=1, resident=2, exact="bf16x6")
        if width <= 128:
            return Blocks(rows=64, keys=64, warps=4, stages=2)
        return Blocks(rows=64, keys=32, warps=8, stages=2)
    if name == "queue_keys" and not half and width > 128:
        return Blocks(rows=16, keys=16, warps=4, stages=1)
    return _tuned(name, half, width)


_instead: dict[Name, Blocks] = {}


def blocks(name: Name, dtype: torch.dtype, width: int, device: torch.device) -> Blocks:
    """The sizes for a kernel, the type it computes products in, the number of dimensions, a GPU."""
    if name in _instead:
        return _instead[name]
    half, major = dtype is not torch.float32, capability(device)[0]
    return _tuned(name, half, width) if major == 9 else _common(name, half, width, major)


@contextmanager
def using(name: Name, sizes: Blocks) -> Generator[None]:
    """Other sizes for a kernel, for as long as the block lasts."""
    before = _instead.get(name)
    _instead[name] = sizes
    try:
        yield
    finally:
        del _instead[name]
        if before is not None:
            _instead[name] = before


_exact: list[Precision | None] = [None]


def precision(dtype: torch.dtype, best: Precision = "tf32x3") -> Precision:
    """How float32 is multiplied: in parts, or as TF32 where PyTorch may do so too.

    Args:
        dtype: of the vectors; others than float32 are multiplied as they are.
        best: the way to take where nothing else is said.
    """
    if dtype is torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return _exact[0] or ("tf32x3" if interpreted() else best)


@contextmanager
def exactly(how: Precision) -> Generator[None]:
    """Another way to multiply float32, for as long as the block lasts."""
    before = _exact[0]
    _exact[0] = how
    try:
        yield
    finally:
        _exact[0] = before


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU and to test them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU; the interpreter has that of an H100."""
    return _capability(device.index) if device.type == "cuda" else (9, 0)


@cache
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def unfit(device: torch.device) -> str | None:
    """Why the kernels do not run on a device, or None."""
    if device.type != "cuda":
        return None if interpreted() else f"it takes tensors on a GPU, not on {device.type!r}"
    if torch.version.hip is not None:
        return "it is made for GPUs of NVIDIA"
    if capability(device) < (8, 0):
        found = ".".join(str(number) for number in capability(device))
        return f"it takes a GPU of compute capability 8.0 or later, not {found}"
    return None


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; a few for the interpreter, so that it splits the keys as well."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 4


def power(width: int) -> int:
    """The power of two, at least 16, that holds a number of dimensions."""
    return max(16, 1 << (width - 1).bit_length())
