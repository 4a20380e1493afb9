"""Inner products at the rate of the machine, for kernels whose gradients are their own.

PyTorch hands float32 products of matrices to MKL, which keeps to AVX2 on processors of other makers
than its own. oneDNN, which PyTorch uses for convolutions, takes AVX-512 wherever it is: the same
sums in the same precision, twice as fast there. On any other machine nothing changes.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor

_CPU_FACTS = Path("/proc/cpuinfo")
_SMALL = 2**20  # multiplications, below which PyTorch's own product is done sooner


@functools.cache
def _held_back() -> bool:
    """Whether MKL leaves half of this processor unused and oneDNN does not."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    facts = _CPU_FACTS.read_text() if _CPU_FACTS.is_file() else platform.processor()
    return "GenuineIntel" not in facts


def by_onednn(x: Tensor) -> bool:
    """Whether products with this tensor are oneDNN's: float32, on such a processor.

    ``torch.backends.mkldnn.enabled = False`` switches it off.
    """
    return (
        x.dtype is torch.float32
        and x.device.type == "cpu"
        and _held_back()
        and bool(torch.backends.mkldnn.enabled)
    )


def inner(
    left: Tensor, right: Tensor, room: Tensor | None = None, columns: Tensor | None = None
) -> Tensor:
    """``left @ right.T`` without a gradient.

    Args:
        left: ``[m, d]``.
        right: ``[n, d]``.
        room: ``[m, n]`` to be filled where that is possible.
        columns: ``[n]`` numbers, one added to each column.

    Returns:
        ``[m, n]``, ``room`` or new.
    """
    if _served(left, right):
        return _onednn(left, right, columns)
    if columns is None:
        return torch.mm(left, right.T, out=room)
    return torch.addmm(columns, left, right.T, out=room)


def fill_inner(room: Tensor, left: Tensor, right: Tensor) -> None:
    """As :func:`inner`, but always into ``room``: a copy where the product brings its memory."""
    found = inner(left, right, room)
    if found is not room:
        room.copy_(found)


def worth_onednn(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN serves and its call, some 10 µs longer, is made up for.

    A walk over parts of a matrix asks once for the whole, ``[m, d]`` and ``[n, d]``: were ragged
    ends multiplied by the other library, equal rows would not have equal products.
    """
    return left.numel() * len(right) >= _SMALL and _served(left, right)


def inner_by(onednn: bool, left: Tensor, right: Tensor, room: Tensor | None = None) -> Tensor:
    """As :func:`inner`, by the library that was found worth it; with oneDNN ``room`` is unused."""
    if onednn and left.numel() and right.numel():
        return _onednn(left, right)
    return torch.mm(left, right.T, out=room)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, of ``[m, k]`` and ``[k, n]``, by what is quicker at this size.

    ``left`` should be contiguous; how ``right`` and ``total`` lie is nearly all the same.
    """
    if left.numel() * right.shape[1] >= _SMALL and _served(left, right):
        total.add_(_onednn(left, right.T))
    else:
        total.addmm_(left, right)


def _served(left: Tensor, right: Tensor) -> bool:
    return by_onednn(left) and left.numel() > 0 and right.numel() > 0


def _onednn(left: Tensor, right: Tensor, columns: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, columns, "none", [], "")
