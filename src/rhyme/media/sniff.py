"""What a file is, by its first bytes, before any decoder sees it.

Only formats named here are ever handed to a demuxer, and the demuxer is named, never guessed.
Playlists (HLS, DASH, ffconcat, SDP, ...) make a demuxer open other files: they are refused
here whatever the file is called.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from rhyme.errors import EmptyMedia, FileMissing, NotMedia, TruncatedMedia, UnsupportedMedia
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.patience import PatientFile, patiently

HEAD = 4096

_PLAYLISTS: tuple[tuple[bytes, str], ...] = (
    (b"#EXTM3U", "HLS"),
    (b"#EXT-X-", "HLS"),
    (b"ffconcat", "ffconcat"),
    (b"<MPD", "DASH"),
    (b"<SmoothStreamingMedia", "Smooth Streaming"),
    (b"v=0\n", "SDP"),
    (b"v=0\r\n", "SDP"),
    (b"[playlist]", "PLS"),
    (b"[Reference]", "ASF reference"),
    (b"[InternetShortcut]", "shortcut"),
    (b"RTSPtext", "RTSP reference"),
    (b"SMILtext", "SMIL"),
    (b"<smil", "SMIL"),
    (b"<asx", "ASX"),
    (b"# EDL", "edit list"),
    (b"mpv EDL", "edit list"),
)

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp")

_STILLS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"avis", b"avci")
"""Brands of pictures that lie in boxes like those of MP4 (HEIC, also of 10 bits, and AVIF)."""


@dataclass(frozen=True)
class Sniffed:
    """What the first bytes say.

    Args:
        demuxer: the FFmpeg demuxer to use; ``"pillow"`` for a single picture.
        kind: ``"av"`` for video or sound, ``"image"`` for a single picture.
        size: the file's size, in bytes.
        cut: the container says that it goes on beyond the end of the file.
    """

    demuxer: str
    kind: Literal["av", "image"]
    size: int
    cut: bool = False


Identity = tuple[int, int, int, int]
"""Device, inode, size in bytes and time of change in nanoseconds."""


def identity_of(facts: os.stat_result) -> Identity:
    """What tells a file, and a state of it, from all others."""
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def open_regular(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> tuple[BinaryIO, int]:
    """Open a regular file for reading; pipes, devices, folders and URLs are never opened.

    Args:
        path: a local path, taken literally (``"http:x"`` is a file of that name).
        limits: bounds; ``max_bytes`` is checked.

    Returns:
        The open file and its size in bytes.

    Raises:
        FileMissing: no such regular file, or it may not be read.
        EmptyMedia: zero bytes.
        LimitExceeded: too many bytes.
        StorageError: the disk or the network fails again and again, now or while reading.
    """
    try:
        # Non-blocking, so that a pipe in the place of a file cannot hang the caller.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
        handle = patiently(lambda: os.open(path, flags), path)
    except (OSError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) else str(error)
        raise FileMissing(
            f"the file cannot be opened: {detail}", file=path, stage="open"
        ) from error
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        raise FileMissing("not a regular file", file=path, stage="open")
    try:
        if facts.st_size == 0:
            raise EmptyMedia("the file has no bytes", file=path, stage="open")
        limits.check("bytes", facts.st_size, file=path, stage="open")
    except Exception:
        os.close(handle)
        raise
    return io.BufferedReader(PatientFile(handle, path)), facts.st_size


def sniff(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Sniffed:
    """Say what a file is by its first bytes.

    Args:
        path: a local path.
        limits: bounds for the file's size.

    Returns:
        The demuxer to use, the kind and the size.

    Raises:
        FileMissing: no such regular file.
        EmptyMedia: zero bytes.
        NotMedia: text, a playlist, or bytes of no known format.
        UnsupportedMedia: a known format that is not on the list of allowed ones.
        TruncatedMedia: an MP4 or MOV file without its index.
    """
    file, size = open_regular(path, limits=limits)
    with file:
        head = file.read(HEAD)
        demuxer = identify(head)
        cut = demuxer == "mov" and _walk_boxes(file, size, path)
        if demuxer == "gif":  # its last block ends with a zero, and it with a semicolon
            file.seek(max(size - HEAD, 0))
            cut = not file.read(HEAD).rstrip(b"\0").endswith(b"\0;")
    cut = cut or (demuxer == "matroska" and _segment_end(head) > size)
    if demuxer in ("avi", "wav") and len(head) >= 8:
        declared = int.from_bytes(head[4:8], "little")
        cut = declared < 0xFFFFFFFF and declared + 8 > size
    if demuxer is None:
        raise refusal(head, path)
    if demuxer == "pillow":
        return Sniffed("pillow", "image", size)
    return Sniffed(demuxer, "av", size, cut)


def identify(head: bytes) -> str | None:
    """The allowed format of a file that starts with these bytes.

    Args:
        head: the first bytes of the file, 400 or more where it has them.

    Returns:
        An FFmpeg demuxer name, ``"pillow"`` for a single picture, or None.
    """
    if head[4:8] == b"ftyp" and head[8:12] in _STILLS:
        return None
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:4] == b"RIFF":
        return {b"AVI ": "avi", b"WAVE": "wav", b"WEBP": "pillow"}.get(head[8:12])
    for magic, name in (
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"OggS", "ogg"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"fLaC", "flac"),
        (b"ID3", "mp3"),
        (b"\x00\x00\x01\xba", "mpeg"),
        (b"FLV\x01", "flv"),
        (b"\x89PNG\r\n\x1a\n", "pillow"),
        (b"\xff\xd8\xff", "pillow"),
        (b"II*\x00", "pillow"),
        (b"MM\x00*", "pillow"),
    ):
        if head.startswith(magic):
            return name
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "pillow"
    for packet, offset in ((188, 0), (192, 4)):
        marks = head[offset::packet][:10]
        if len(marks) >= 2 and set(marks) == {0x47}:
            return "mpegts"
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] & 0xF0 != 0xF0:
        return "mp3"
    return None


def refusal(head: bytes, path: str | Path) -> NotMedia | UnsupportedMedia:
    """The error that fits bytes of no allowed format."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    shown = head[:32]
    for magic, name in _PLAYLISTS:
        if text.lower().startswith(magic.lower()) or (
            magic[:1] == b"<" and magic.lower() in text.lower()
        ):
            return NotMedia(
                f"a playlist ({name}); playlists name other files and are never followed",
                file=path,
                stage="open",
                value=shown,
                remedy="give the media file that the playlist names",
            )
    for magic, name in (
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF/WMV"),
        (b".RMF", "RealMedia"),
        (b"YUV4MPEG2", "YUV4MPEG2"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b", "gzip"),
        (b"%PDF", "PDF"),
    ):
        if head.startswith(magic):
            return UnsupportedMedia(
                f"container not allowed: {name}", file=path, stage="open", value=shown
            )
    if head[4:8] == b"ftyp":
        return UnsupportedMedia(
            f"container not allowed: {head[8:12].decode('latin-1')}",
            file=path,
            stage="open",
            remedy="convert the picture to JPEG, PNG or WebP",
        )
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:512])
    if printable >= 0.95 * len(head[:512]):
        page = b"<html" in text.lower() or b"<!doctype html" in text.lower()
        return NotMedia(
            "the file is a web page, not media" if page else "the file is text, not media",
            file=path,
            stage="open",
            value=shown,
            remedy="download the file again: a server's error page may have been saved in its place"
            if page
            else None,
        )
    return NotMedia(
        "the first bytes are of no known media format", file=path, stage="open", value=shown
    )


def _segment_end(head: bytes) -> int:
    """The byte at which a Matroska file says it ends; 0 where it does not say."""
    place = head.find(b"\x18\x53\x80\x67")
    if place < 0 or place + 12 > len(head):
        return 0
    first = head[place + 4]
    length = 9 - first.bit_length() if first else 9
    if length > 8:
        return 0
    data = head[place + 4 : place + 4 + length]
    value = int.from_bytes(data, "big") & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    return 0 if unknown else place + 4 + length + value


def _walk_boxes(file: BinaryIO, size: int, path: str | Path) -> bool:
    """Walk the top-level boxes of an MP4 or MOV file, and refuse one without an index.

    Returns:
        True where a box goes on beyond the end of the file.

    Raises:
        TruncatedMedia: there is no whole index.
    """
    position, seen, index = 0, False, False
    for _ in range(100_000):
        if position + 8 > size:
            break
        file.seek(position)
        header = file.read(16)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if name == b"moov":
            if length and position + length > size:
                raise TruncatedMedia(
                    "the file ends inside its index (moov box)", file=path, stage="open"
                )
            index = True
        seen = seen or name in _MOV_BOXES
        if length < 8:
            break
        position += length
    if index:
        return position > size
    raise TruncatedMedia(
        "the file has no index (moov box): it was cut, or its recording never finished"
        if seen
        else "the first bytes look like MP4 but no index follows",
        file=path,
        stage="open",
        remedy="copy the file again; a repair tool with an intact file of the same camera may help",
    )
