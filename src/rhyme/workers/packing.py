"""Values as bytes: pickle protocol 5, tensors as arrays, large arrays laid into shared memory."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rhyme.workers.memory import ALIGN, Span, anonymous_file, map_file

SMALL = 1 << 14
"""Arrays below these bytes go through the pipe: keeping one of them must not hold a region."""


class _Pickler(pickle.Pickler):
    """Protocol 5, with plain tensors sent as NumPy arrays instead of PyTorch's shared memory."""

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or type(obj) is not torch.Tensor or obj.layout != torch.strided:
            return NotImplemented
        tensor = obj.detach().cpu().contiguous()
        flat = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else None
        name = str(tensor.dtype).removeprefix("torch.")
        return _tensor, (None if flat is None else flat.numpy(), name, tuple(tensor.shape))


def _tensor(flat: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """Rebuild a tensor from its bytes, its type and its shape."""
    import torch

    kind = getattr(torch, dtype)
    if flat is None:
        return torch.empty(shape, dtype=kind)
    return torch.from_numpy(flat).view(kind).reshape(shape)


def dumps(
    value: object, keep: Callable[[pickle.PickleBuffer], bool] | None = None
) -> bytes:  # fmt: skip
    """Pickle a value; ``keep`` may take large arrays out, and returns False for those it took."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=keep).dump(value)
    return stream.getvalue()


@dataclass
class Room:
    """Memory of a fixed size that takes the arrays of one value.

    Attributes:
        view: the memory.
        spans: what lies where.
        end: bytes used.
        missed: bytes of arrays that did not fit.
    """

    view: memoryview

    def __post_init__(self) -> None:
        self.spans: list[Span] = []
        self.end = self.missed = 0

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Lay an array down; True leaves it in the stream: it is small, or there is no room."""
        raw = buffer.raw()
        start = -(-self.end // ALIGN) * ALIGN
        if raw.nbytes < SMALL:
            return True
        if start + raw.nbytes > len(self.view):
            self.missed += raw.nbytes
            return True
        # NumPy copies without holding the interpreter's lock.
        target = np.frombuffer(self.view, np.uint8, raw.nbytes, start)
        np.copyto(target, np.frombuffer(raw, np.uint8))
        self.spans.append((start, raw.nbytes))
        self.end = start + raw.nbytes
        return False


@dataclass(frozen=True)
class Constant:
    """A value that every worker gets, its arrays in memory that all of them map.

    Attributes:
        stream: the rest of it.
        spans: the arrays in the file.
        size: bytes of the file.
    """

    stream: bytes
    spans: tuple[Span, ...]
    size: int

    def load(self, descriptor: int | None) -> Any:
        """The value; arrays are shared with the others until somebody writes to his."""
        if descriptor is None:
            return pickle.loads(self.stream)
        whole = np.frombuffer(map_file(descriptor, self.size, private=True), np.uint8)
        os.close(descriptor)
        return pickle.loads(self.stream, buffers=[whole[a : a + n] for a, n in self.spans])


def constant(value: object) -> tuple[Constant, int | None]:
    """A value for all workers, and the memory file that holds its arrays, if it has large ones."""
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < SMALL:
            return True
        buffers.append(buffer)
        return False

    stream = dumps(value, keep)
    if not buffers:
        return Constant(stream, (), 0), None
    size = sum(-(-b.raw().nbytes // ALIGN) * ALIGN for b in buffers)
    descriptor = anonymous_file("rhyme-constant", size)
    if descriptor is None:
        return Constant(dumps(value), (), 0), None
    room = Room(memoryview(map_file(descriptor, size)))
    for buffer in buffers:
        room.keep(buffer)
    return Constant(stream, tuple(room.spans), size), descriptor
