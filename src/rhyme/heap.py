"""Freed memory is kept for the next step, not handed back to the system after each one.

Tensors of a training step on a CPU are some megabytes each. The C library of Linux (glibc) takes
every one from the system anew and gives it back at once, and the system clears each page before it
hands it over: thousands of page faults a step, over a quarter of its time with a small encoder.
Where the library is asked to keep what is freed, the same pages serve all steps. No value changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable
from typing import Final

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
KEPT: Final = 512 << 20
"""Bytes at the heap's end that are kept; more goes back to the system."""
LARGE: Final = 256 << 20
"""An array of so many bytes or more still comes from the system alone and goes back when freed."""
LARGEST_BEFORE: Final = 32 << 20
"""The most that glibc before 2.35 takes for it."""
CHOSEN: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
"""Who has set one of these in the environment has chosen, as with ``glibc.malloc`` in
``GLIBC_TUNABLES``: nothing is changed then."""


@functools.cache
def keep_freed() -> bool:
    """Ask the C library once to keep freed memory for later use by this process.

    Returns:
        Whether it does now. False where the environment has chosen (:data:`CHOSEN`) and where the
        C library is not glibc: nothing changes there.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc" in tunables or any(os.environ.get(name) for name in CHOSEN):
        return False
    set_option = _mallopt()
    if set_option is None:
        return False
    large = set_option(MMAP, LARGE) or set_option(MMAP, LARGEST_BEFORE)
    return bool(large and set_option(TRIM, KEPT))


def give_back() -> None:
    """Hand free memory back to the system now, so that what is resident is what is in use."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _mallopt() -> Callable[[int, int], int] | None:
    """The C function ``mallopt``, None where there is none."""
    try:
        return ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
