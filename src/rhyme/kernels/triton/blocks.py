"""Block sizes of the kernels: a table, so that a result never depends on what a timing chose.

The sizes are those that ran fastest on an H100 where ``benchmarks/gpu`` says so; elsewhere they
fit. :func:`using` puts others in their place, which is how the benchmark tries them.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
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


def _table(name: Name, half: bool, width: int) -> Blocks:
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


_instead: dict[Name, Blocks] = {}


def blocks(name: Name, dtype: torch.dtype, width: int) -> Blocks:
    """The sizes for a kernel, the type it computes products in and the number of dimensions."""
    return _instead.get(name) or _table(name, dtype is not torch.float32, width)


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


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; a few for the interpreter, so that it splits the keys as well."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 4


def power(width: int) -> int:
    """The power of two, at least 16, that holds a number of dimensions."""
    return max(16, 1 << (width - 1).bit_length())
