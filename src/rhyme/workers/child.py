"""What runs inside a worker process, and how values travel there and back."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, Literal

from rhyme.errors import WorkerError

Status = Literal["done", "error", "start"]
"""The function returned, the function raised, or the worker could not start."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_function: Callable[[Any], Any] | None = None
_start_error: Exception | None = None


class _Pickler(pickle.Pickler):
    """Protocol 5, with plain tensors sent as NumPy arrays instead of shared memory."""

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


def dumps(value: object) -> bytes:
    """Pickle a value, protocol 5, tensors as arrays."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(value)
    return stream.getvalue()


def _one_thread() -> None:
    """Keep this process on one compute thread, also in libraries that load later."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="rhyme-parent-watch").start()


def start(blob: bytes) -> None:
    """Prepare a worker: one thread, the function, the user's initializer."""
    global _function, _start_error
    _end_with_parent()
    _one_thread()
    try:
        function, initializer, initargs = pickle.loads(blob)
        _one_thread()  # loading the function may have brought torch in
        if initializer is not None:
            initializer(*initargs)
        _function = function
    except Exception as error:
        _start_error = error  # told in place of the first result: here nobody could hear it


def run(blob: bytes) -> tuple[Status, bytes]:
    """Apply the function to one item; the answer is a status and a pickled result or error."""
    if _start_error is not None:
        return "start", _dumps_error(_start_error)
    try:
        assert _function is not None
        return "done", dumps(_function(pickle.loads(blob)))
    except BaseException as error:  # SystemExit too: it must not end the parent
        return "error", _dumps_error(error)


def _dumps_error(error: BaseException) -> bytes:
    """An error and its traceback as bytes; one that cannot travel becomes a WorkerError."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, Exception):
        with contextlib.suppress(Exception):
            blob = pickle.dumps((error, trace), protocol=5)
            pickle.loads(blob)  # some exceptions pickle but cannot be rebuilt
            return blob
    stand_in = WorkerError(f"{type(error).__name__}: {error}", stage="workers")
    return pickle.dumps((stand_in, trace), protocol=5)
