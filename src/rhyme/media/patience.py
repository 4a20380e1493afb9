"""Storage that fails for a moment: tried again, then told apart from a damaged file."""

from __future__ import annotations

import errno
import time
import warnings
from collections.abc import Callable
from io import FileIO, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rhyme.errors import StorageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

PAUSES = (0.1, 0.5, 2.0)
"""Seconds to wait before each new try."""

_FULL = frozenset((errno.EMFILE, errno.ENFILE))
_PASSING = _FULL | {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}


def patiently(action: Callable[[], T], path: str | Path) -> T:
    """What an action on a file gives, tried again where the storage and not the file failed.

    Args:
        action: may be called several times.
        path: the file, for messages.

    Raises:
        StorageError: the last try failed like the first.
        OSError: an error of another kind, at once.
    """
    for pause in (*PAUSES, None):
        try:
            return action()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            code = errno.errorcode[error.errno]
            if pause is None:
                raise StorageError(
                    f"the storage failed {len(PAUSES) + 1} times: {error.strerror} ({code})",
                    file=path,
                    stage="read",
                    remedy="raise the limit of open files (ulimit -n), or use fewer workers"
                    if error.errno in _FULL
                    else None,
                ) from error
            warnings.warn(f"{path}: {error.strerror} ({code}), tried again", stacklevel=2)
            time.sleep(pause)
    raise AssertionError


class PatientFile(RawIOBase):
    """A file open for reading whose reads are tried again; see `patiently`.

    Args:
        handle: the open file, closed with this object.
        path: the file, for messages.
    """

    def __init__(self, handle: int, path: str | Path) -> None:
        self._file = FileIO(handle, "rb")
        self._path = path

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Fill a buffer from here on; returns the number of bytes."""
        return patiently(lambda: self._file.readinto(buffer), self._path)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: it is a regular file."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a byte; returns its place."""
        return self._file.seek(offset, whence)

    def fileno(self) -> int:
        """The number of the open file."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
