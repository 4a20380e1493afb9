"""Freed memory serves the next step: the system is asked for pages once."""

import ctypes
import os
import subprocess
import sys

import pytest

from rhyme import heap

ROUNDS, SIZE = 50, 8 << 20
FAULTS = f"""
import resource
import torch
from rhyme.heap import keep_freed
kept = [keep_freed(), keep_freed()]
for _ in range(20):  # the heap finds its size
    torch.ones({SIZE}, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    torch.ones({SIZE}, dtype=torch.uint8)
print(*kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[list[str], int]:
    """What the call said twice, and the page faults of arrays that are made and freed."""
    clean = {k: v for k, v in os.environ.items() if k not in (*heap.CHOSEN, "GLIBC_TUNABLES")}
    out = subprocess.run(
        [sys.executable, "-c", FAULTS], env=clean | environment, check=True, capture_output=True
    ).stdout.split()
    return [word.decode() for word in out[:2]], int(out[2])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_pages_are_taken_from_the_system_once() -> None:
    said, kept = faults()
    assert said == ["True", "True"]
    assert kept < SIZE // 4096  # less than one array's pages


def test_an_older_library_takes_a_smaller_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*heap.CHOSEN, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    asked: list[tuple[int, int]] = []

    def old(option: int, value: int) -> int:
        asked.append((option, value))
        return int(option != heap.MMAP or value <= 32 << 20)

    monkeypatch.setattr(heap, "_mallopt", lambda: old)
    assert heap.keep_freed.__wrapped__()
    assert asked[1:] == [(heap.MMAP, 32 << 20), (heap.TRIM, heap.KEPT)]
    monkeypatch.setattr(heap, "_mallopt", lambda: None)
    assert not heap.keep_freed.__wrapped__()


@pytest.mark.parametrize(
    "chosen",
    [
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
)
def test_what_the_environment_has_chosen_stays(chosen: dict[str, str]) -> None:
    said, taken = faults(**chosen)
    assert said == ["False", "False"]
    assert taken > ROUNDS // 2 * SIZE // (2 << 20)  # each array anew, in pages of 2 MiB at most
