"""Functions that the pool tests run in worker processes (spawn needs them importable)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from rhyme.errors import TruncatedMedia

state: dict[str, Any] = {}


def square(x: int) -> int:
    time.sleep(0.02 if x % 3 == 0 else 0.0)  # so that results finish out of order
    return x * x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def pid(_: object) -> int:
    time.sleep(0.05)
    return os.getpid()


def exit_on(x: str) -> str:
    if x == "exit":
        os._exit(7)
    if x == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if x == "system":
        sys.exit(3)
    return x


def truncated(x: str) -> str:
    if x == "bad":
        raise TruncatedMedia(
            "ends early", file="clips/a.mp4", stage="decode", value=3, remedy="mend"
        )
    if x == "odd":
        raise Odd(1, 2)
    if x == "stop":
        raise StopIteration
    return x


class Odd(Exception):
    """Pickles, but cannot be rebuilt from its arguments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"odd {a + b}")


def remember(key: str, path: str) -> None:
    state[key] = state.get(key, 0) + 1
    with Path(path).open("a", encoding="utf8") as file:
        file.write(f"{os.getpid()}\n")


def recall(key: str) -> int:
    return state[key]


def refuse() -> None:
    raise TruncatedMedia("no decoder", stage="start")


def threads(_: object) -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def tensors(n: int) -> dict[str, Any]:
    import torch

    base = torch.arange(n * 4, dtype=torch.float32).reshape(n, 4)
    return {
        "slice": base[1:, ::2],
        "half": base.to(torch.bfloat16),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 3, dtype=torch.int64),
        "grad": base.clone().requires_grad_(),
        "array": np.arange(n, dtype=np.uint8),
        "large": torch.arange(100_000).reshape(10, 10_000)[:, ::2],
    }


def large(n: int) -> bytes:
    return bytes(n)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("stays here")


def unpicklable(_: object) -> Unpicklable:
    return Unpicklable()


def filled(x: tuple[int, int]) -> dict[str, Any]:
    """An array of ``n`` bytes that all tell the item."""
    value, n = x
    return {"data": np.full(n, value % 251, dtype=np.uint8), "item": value}


def spin(how: str) -> str:
    """Hang in one of several ways."""
    if how == "loop":
        while True:
            pass
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)
    if how == "lock":  # in C, with the interpreter's lock held
        ctypes.PyDLL(None).sleep(60)
    return how


def crash(x: str) -> str:
    if x == "crash":
        ctypes.string_at(0)
    return x


class Table:
    """Holds a large array; counts how often its own copy was written."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __call__(self, row: int) -> tuple[int, float, float, int]:
        before = float(self.values[row])
        self.values[row] += 1.0
        return os.getpid(), before, float(self.values[-1]), private_bytes()


def private_bytes() -> int:
    """Memory that belongs to this process alone."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return int(text.split("Private_Dirty:")[1].split()[0]) * 1024
