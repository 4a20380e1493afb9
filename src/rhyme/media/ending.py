"""Whether a picture goes on to its end, by its bytes alone: far cheaper than to decode it."""

from __future__ import annotations

import re

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a JPEG: one that is no part of a scan
_END_OF_JPEG = 0xD9
_END_OF_PNG = b"\0\0\0\0IEND\xae\x42\x60\x82"


def reaches_end(data: bytes) -> bool:
    """Whether a picture's end is where its format says.

    A JPEG is followed from segment to segment, so that the end of a thumbnail in its header does
    not count, and bytes behind its end do not matter.

    Args:
        data: a picture's bytes.

    Returns:
        True where a JPEG, PNG or WebP is whole as far as its bytes say. False proves nothing: of a
        file that is cut, of one that is only without its end mark, and of every other format.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_ends(data)
    if data.startswith(b"\x89PNG"):
        return data.endswith(_END_OF_PNG)
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return False


def _jpeg_ends(data: bytes) -> bool:
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        at = found.end()
        if data[at - 1] == _END_OF_JPEG:
            return True
        at += int.from_bytes(data[at : at + 2], "big")
    return False
