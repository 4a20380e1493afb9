"""Writing in the background: copies of the state as it is now, and a thread that saves them.

The training goes on while a checkpoint is written. The copies are taken before that, so what is
saved is the state at the call, whatever the next steps do. One save is in flight at a time, and the
buffers of its copies serve the next: it costs the memory of one copy of the state. The thread
spends its time in the library that writes, in hashing and in the system, which all let other
threads run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Copies:
    """Copies of tensors in host memory, in buffers that are used again."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors as they are now.

        Args:
            tensors: tensors by name, on any device, in any layout.

        Returns:
            Contiguous tensors on the CPU; the next call overwrites them.
        """
        held: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            buffer = self._held.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype)
            held[name] = buffer.copy_(tensor.detach())
        self._held = held
        return dict(held)


class Background:
    """Runs one job at a time in a thread of its own.

    The thread dies with the process: a command that is interrupted does not wait for it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, job: Callable[[], object]) -> None:
        """Begin a job; the one before must have been waited for."""
        assert self._thread is None, "one job at a time"

        def work() -> None:
            try:
                job()
            except BaseException as error:  # handed to the thread that waits
                self._failure = error

        self._thread = threading.Thread(target=work, name="rhyme-save", daemon=True)
        self._thread.start()

    def wait(self) -> BaseException | None:
        """Wait for the job, if there is one.

        Returns:
            What it raised, told once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        return failure
