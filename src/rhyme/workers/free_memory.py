"""Memory that is still free for this process: of the machine, or of a container or job.

Linux keeps files that were read in memory for as long as nobody else wants the room, and counts
them to the group of processes (cgroup) that read them. A job that reads a collection larger than
its memory soon seems to have none left. So what the system gives up when asked counts as free here,
as it does in ``MemAvailable`` for the machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_UNKNOWN = 8 << 30
_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")  # the last one is of version 1
_USED = ("memory.current", "memory.usage_in_bytes")
_GIVEN_UP = ("inactive_file", "active_file", "slab_reclaimable")


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes that the machine, or the tightest of the groups that we are in, has left.

    A limit may stand with any group around ours: with that of the container, of the job, or of a
    step of the job. 8 GiB where nothing tells.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    found = [_UNKNOWN]
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (root / "proc/meminfo").read_text(encoding="ascii")
        found = [int(text.split("MemAvailable:")[1].split()[0]) * 1024]
    for group in _groups(root):
        limits = [number for name in _LIMITS if (number := _number(group / name)) is not None]
        used = [number for name in _USED if (number := _number(group / name)) is not None]
        if limits and used:
            found.append(min(limits) - max(used[0] - _given_up(group), 0))
    return max(min(found), 0)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of our group and of those around it, outwards; some may not be there.

    In a container the name of the group may be that of the machine outside, which is not to be
    found within; the outermost folder is the container's own then.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = ["0::/", "1:memory:/"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = PurePosixPath(path).parts[1:]
        if ".." in names:  # a group outside of what we may see
            names = ()
        for depth in range(len(names), -1, -1):
            yield top.joinpath(*names[:depth])


def _given_up(group: Path) -> int:
    """Bytes of a group that the system gives up when asked: files, and its notes on them."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            found[name] = int(value)
    # In version 1 the plain names leave out the groups within.
    return sum(found.get(f"total_{name}", found.get(name, 0)) for name in _GIVEN_UP)


def _number(file: Path) -> int | None:
    """The number that a file holds; None where it is not there, or says ``max``."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
