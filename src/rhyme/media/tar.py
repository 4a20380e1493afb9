"""The headers of a tar file, one after the other; what cannot be read is passed over and told.

Python's ``tarfile`` takes the first header that makes no sense, or none, for the end of the
archive: whatever comes behind would be lost without a word. Here an archive ends with zeros and
nothing else; anywhere else the next header is looked for, as GNU tar does.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from rhyme.errors import TruncatedMedia

BLOCK = 512
"""Bytes of a header; all of a tar file is counted in these."""

_MAGIC = (257, b"ustar")  # where it stands in a header, and what; only the oldest tars have none
_AT_ONCE = 1 << 26  # bytes; no honest header is longer
_STRIDE = 1 << 20  # bytes read at once where a header is looked for
_PADDING = 1 << 24  # bytes of zeros at the end; more is room that was reserved and never written
_PLACES = 100  # of damage; reading on behind more of them may cost a forged archive's size squared
_NAMED = 3
_FORGED = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)


def tar_headers(file: BinaryIO, size: int, archive: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, folders and links among them.

    Args:
        file: the archive; it may be read elsewhere between two members.
        size: its bytes.
        archive: its name, for errors.

    Yields:
        One member after the other, in the archive's order, with the place of its data.

    Raises:
        TruncatedMedia: at the end, where parts of the archive hold no member that can be read, or
            its end is missing, so that nobody knows what stood there.
    """
    # Opened on nothing, since opening looks for a first member and gives up without one.
    reader = tarfile.TarFile(fileobj=io.BytesIO(bytes(BLOCK)))
    reader.fileobj = cast(Any, _Bounded(file))
    place, damage = 0, list[str]()
    while True:
        file.seek(place)
        try:
            info = tarfile.TarInfo.fromtarfile(reader)
            if info.size < 0 or reader.offset <= place:
                raise tarfile.ReadError("a length below 0")
        except _FORGED as error:
            found, blank = _next_header(file, place)
            if found is None and blank and BLOCK <= size - place <= _PADDING:
                break
            damage.append(_told(file, place, found, size, error))
            if found is None:
                break
            if len(damage) == _PLACES:
                damage.append(f"what comes behind byte {found:,} was not looked at")
                break
            place = found
        else:
            place = reader.offset
            yield info
    if damage:
        more = f"; and {len(damage) - _NAMED} further places" if len(damage) > _NAMED else ""
        raise TruncatedMedia(
            f"the archive is cut or damaged: {'; '.join(damage[:_NAMED])}{more}",
            file=archive,
            stage="scan",
            remedy="copy or download the archive again; if it is as it was made, pack it anew",
        )


def _next_header(file: BinaryIO, place: int) -> tuple[int | None, bool]:
    """The next byte behind ``place`` where a header stands, and if none, whether all is zeros."""
    file.seek(place)
    start, blank = place, True
    where, magic = _MAGIC
    while chunk := file.read(_STRIDE):
        blank = blank and not chunk.strip(b"\0")
        for at in range(0, len(chunk), BLOCK):
            header = start + at > place and chunk.startswith(magic, at + where)
            if header and is_header(chunk[at : at + BLOCK]):
                return start + at, False
        start += len(chunk)
    return None, blank


def is_header(block: bytes, size: int | None = None) -> bool:
    """Whether a block is the header of a member: its checksum says so.

    Args:
        block: 512 bytes.
        size: bytes that it must state.
    """
    try:
        stated = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
    except tarfile.HeaderError:
        return False
    return size in (None, stated)


def _told(file: BinaryIO, place: int, found: int | None, size: int, error: Exception) -> str:
    """What is wrong at a place, for people."""
    if found is None and size - place < BLOCK:
        return f"it ends at byte {size:,} without an end mark"
    file.seek(place)
    blank = not file.read(BLOCK).strip(b"\0")
    why = "zeros in place of a header" if blank else str(error) or type(error).__name__
    return f"bytes {place:,} to {found or size:,} hold no member that can be read ({why})"


class _Bounded:
    """A file that refuses to read what a forged header says is a very long name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _AT_ONCE:
            raise tarfile.ReadError("a header of the archive is longer than any honest one")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
