"""The memory of files that were read before: bounded by frames, counted right over every change."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rhyme.media.known import Memory
from rhyme.media.limits import DEFAULT_LIMITS


def known(frames: int) -> Any:
    return SimpleNamespace(table=SimpleNamespace(times=range(frames)))


def test_the_least_used_files_leave_when_frames_are_too_many() -> None:
    memory = Memory(frames=10)
    names: list[Any] = [Path(name) for name in "abc"]
    a, b, c = names
    memory.put(a, DEFAULT_LIMITS, known(4))
    memory.put(b, DEFAULT_LIMITS, known(4))
    for _ in range(5):
        memory.put(a, DEFAULT_LIMITS, known(4))  # the same file again takes no more room
    assert memory.get(b, DEFAULT_LIMITS) is not None
    memory.put(c, DEFAULT_LIMITS, known(6))
    assert memory.get(a, DEFAULT_LIMITS) is None
    assert memory.get(b, DEFAULT_LIMITS) is not None
    assert memory.get(c, DEFAULT_LIMITS) is not None
    memory.put(a, DEFAULT_LIMITS, known(100))  # the last stays whatever its length
    assert memory.get(a, DEFAULT_LIMITS) is not None
    assert memory.get(c, DEFAULT_LIMITS) is None
