"""Memory that processes share without a name: gone with its last holder, whoever is killed.

An anonymous memory file (``memfd_create``) lies in no folder, so a small or full ``/dev/shm`` does
not matter, nothing has to be cleaned up after a kill, and nothing can block the next start. It is
sparse: what nobody has written takes no memory.

:class:`Arena` is the place for results, a fixed number of regions of bounded size. The parent hands
a region to a worker together with an item; the worker writes the arrays of its result there; the
parent gets views of them, and the region is free again when the last view has gone. Only the parent
keeps the books, so a worker that dies loses nothing. Where no region is free, or a result is too
large, arrays travel through the pipe. Regions are not pinned: a copy to a GPU has left them when
the call returns, even one that does not wait for the device.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

REGION = 1 << 30
"""Bytes of address space of a region; memory is taken only for what is written."""
ALIGN = 64
Span = tuple[int, int]
"""Where a buffer lies: offset and length in bytes."""


def anonymous_file(name: str, size: int = 0) -> int | None:
    """Descriptor of a memory file without a name, or None where the system has none."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def map_file(descriptor: int, size: int, *, private: bool = False) -> mmap.mmap:
    """Map a memory file; ``private`` shares its pages until this process writes to them."""
    flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
    return mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


class _Lease(np.ndarray[Any, Any]):
    """A region on loan. A type of its own, so that NumPy keeps it as the base of its views."""


class Arena:
    """Regions for results, in the parent.

    Args:
        regions: how many.
        size: bytes of each.

    Raises:
        OSError: the system has no anonymous memory files, or no room for the map.
    """

    def __init__(self, regions: int, size: int = REGION) -> None:
        descriptor = anonymous_file("rhyme-results", regions * size)
        if descriptor is None:
            raise OSError("anonymous memory files are not available here")
        weakref.finalize(self, os.close, descriptor)
        self.descriptor = descriptor
        self.size, self.regions = size, regions
        self._map = map_file(descriptor, regions * size)
        # Appending to a deque and taking from it are atomic: leases may end in any thread, also
        # inside a garbage collection. The region used last comes first, so few are ever written.
        self._free: deque[int] = deque(range(regions))
        self._lent: set[int] = set()
        self._retired: set[int] = set()
        _arenas.add(self)

    def take(self) -> int | None:
        """A free region, or None."""
        try:
            return self._free.pop()
        except IndexError:
            return None

    def give_back(self, region: int) -> None:
        """A region is no longer used."""
        self._lent.discard(region)
        if region not in self._retired:
            self._free.append(region)

    def lend(self, region: int, spans: Sequence[Span]) -> list[NDArray[np.uint8]]:
        """Views ``uint8`` of what a worker wrote; the region comes back with the last of them."""
        used = max(offset + length for offset, length in spans)
        whole = np.frombuffer(self._map, np.uint8, used, region * self.size).view(_Lease)
        self._lent.add(region)
        weakref.finalize(whole, self.give_back, region).atexit = False
        return [whole[offset : offset + length] for offset, length in spans]

    def retire_lent(self) -> None:
        """Never use again what is lent now: a forked process sees the same pages."""
        self._retired |= self._lent


_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()


def _before_fork() -> None:
    for arena in list(_arenas):
        arena.retire_lent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
