"""What runs inside a worker process."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, Literal

from rhyme.errors import WorkerError
from rhyme.workers.memory import map_file
from rhyme.workers.packing import Constant, Room, dumps

Status = Literal["ready", "done", "error", "start"]
"""Started; the function returned; it raised; the worker could not start."""
DUMP = signal.SIGUSR2 if hasattr(signal, "SIGUSR2") else None
"""Asks a worker for its stack."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_DEATH_SIGNAL = 1  # prctl: the signal to get when the parent ends


def main(
    channel: connection.Connection,
    work: Constant,
    constants: Any,
    results: Any,
    size: int,
    stack: Any,
) -> None:
    """Serve items until the parent closes the channel.

    Args:
        channel: to the parent.
        work: the function, the initializer and its arguments.
        constants: descriptor (to be detached) of the memory that holds their arrays, or None.
        results: descriptor of the memory for results, or None.
        size: bytes of a region there.
        stack: descriptor of the file that takes stacks of a crash or a hang, or None.
    """
    end_with_parent()
    _quiet(None if stack is None else stack.detach())
    _one_thread()
    function = None
    descriptor = None if results is None else results.detach()
    try:
        function, initializer, initargs = work.load(constants and constants.detach())
        _one_thread()  # loading the function may have brought torch in
        if initializer is not None:
            initializer(*initargs)
    except Exception as error:
        _answer(channel, "start", _dumps_error(error))
        return
    _answer(channel, "ready", b"")
    regions: memoryview | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            region, blob = channel.recv_bytes(), channel.recv_bytes()
            channel.send_bytes(b"")  # taken: from here on the item is to blame
            place = int(region)
            if regions is None and descriptor is not None and place >= 0:
                whole = os.fstat(descriptor).st_size
                regions = memoryview(map_file(descriptor, whole))
            part = None
            if regions is not None and place >= 0:
                part = regions[place * size : (place + 1) * size]
            _serve(channel, function, blob, part)


def _serve(
    channel: connection.Connection,
    function: Callable[[Any], Any],
    blob: bytes,
    part: memoryview | None,
) -> None:
    """Apply the function to one item and answer with what it returns or raises."""
    room = None if part is None else Room(part)
    status: Status = "done"
    try:
        stream = dumps(function(pickle.loads(blob)), None if room is None else room.keep)
    except BaseException as error:  # SystemExit too: it must not end the parent
        status, stream, room = "error", _dumps_error(error), None
    _answer(channel, status, stream, room)


def _answer(
    channel: connection.Connection, status: Status, stream: bytes, room: Room | None = None
) -> None:
    spans, missed = ([], 0) if room is None else (room.spans, room.missed)
    channel.send((status, spans, missed, len(stream)))
    channel.send_bytes(stream)


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


def _one_thread() -> None:
    """Keep this process on one compute thread, also in libraries that load later."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _quiet(stack: int | None) -> None:
    """Leave signals to the parent, which decides when its workers end; keep stacks for it.

    A scheduler that wants a job saved signals all of its processes.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if stack is not None:
        faulthandler.enable(stack)
        if DUMP is not None:
            faulthandler.register(DUMP, stack, all_threads=True)


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even if it hangs or is stopped.

    Where the kernel cannot be asked for it, a thread watches; a loop that never lets go of the
    interpreter's lock keeps it from doing so.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent.pid:
        os._exit(1)

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="rhyme-parent-watch").start()
