"""Pictures within zip and tar files, read where they lie; nothing is ever unpacked to disk.

A member is found once, when a collection is scanned, and its place is kept: reading it later costs
one look at the archive and no list of its members. A name in an archive is a name and never a path:
no folder is made of it, no link is followed. Members that could only mean harm are named all the
same, so that a collection with such a guest is noticed.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from rhyme.errors import (
    EmptyMedia,
    FileMissing,
    LimitExceeded,
    MediaError,
    NotMedia,
    TruncatedMedia,
    UnsupportedMedia,
    printable,
)
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.sniff import open_regular
from rhyme.media.tar import BLOCK, is_header, tar_headers

ARCHIVES = (".zip", ".tar")
"""Suffixes of archives whose pictures can be read."""

PACKED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4)|t[gbx]z|rar|7z)$", re.IGNORECASE)
"""Names of archives that would have to be unpacked from their start for any one picture."""

MARK = "!/"
"""Between the name of an archive and that of a member: ``train.zip!/cat/1.jpg``."""

_HEADER = struct.Struct("<4s5H3L2H")  # of a member of a zip file
_BEHIND = b"PK\7\10"  # may stand before the checksum of a member that was written in one go
_DENSEST = 1032  # deflate cannot pack more bytes into one
_IN_PASSING = 1 << 10  # bytes of a member that is read while the archive is listed


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file within an archive.

    Args:
        archive: the zip or tar file.
        name: the member's name there.
        offset: byte at which its header (zip) or its data (tar) begins.
        stored: bytes that it takes there.
        size: bytes of the file.
        data: its bytes, where `members` was asked to read them in passing.
    """

    archive: Path
    name: str
    offset: int
    stored: int
    size: int
    data: bytes | None = None

    def __str__(self) -> str:
        return f"{self.archive}{MARK}{self.name}"

    def read(self, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
        """The file's bytes, checked against the header before them, of a zip with its checksum.

        Args:
            limits: bounds; ``max_member_bytes`` is checked before memory is taken.

        Raises:
            FileMissing: no such archive, or the member is not where it was.
            TruncatedMedia: the archive ends before the member does, or a checksum differs.
            LimitExceeded: too many bytes.
        """
        limits.check("member_bytes", max(self.size, self.stored), file=str(self), stage="open")
        file, _ = open_regular(self.archive, limits=limits)
        with file:
            data = self.read_from(file)
        if not data:
            raise EmptyMedia("the member has no bytes", file=str(self), stage="open")
        return data

    def read_from(self, file: BinaryIO) -> bytes:
        """The file's bytes from the archive where it is open already; none for an empty file.

        Args:
            file: the archive.

        Raises:
            FileMissing: the member is not where it was.
            TruncatedMedia: the archive ends before the member does, or a checksum differs.
        """
        zipped = self.archive.suffix.lower() == ".zip"
        return self._from_zip(file) if zipped else self._from_tar(file)

    def _from_tar(self, file: BinaryIO) -> bytes:
        file.seek(max(self.offset - BLOCK, 0))
        if not is_header(file.read(BLOCK), self.size):
            raise self._moved()
        return self._whole(file.read(self.size), self.size)

    def _from_zip(self, file: BinaryIO) -> bytes:
        file.seek(self.offset)
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:4] != b"PK\3\4":
            raise self._moved()
        _, _, flags, method, _, _, checksum, _, _, named, extra = _HEADER.unpack(head)
        if file.read(named) not in (self.name.encode(), self.name.encode("cp437", "replace")):
            raise self._moved()
        file.seek(extra, 1)
        data = self._whole(file.read(self.stored), self.stored)
        if method == zipfile.ZIP_DEFLATED:
            data = self._inflate(data)
        data = self._whole(data, self.size)
        stated = {checksum.to_bytes(4, "little")}
        if flags & 8:  # written in one go: the checksum stands behind the data, perhaps marked
            behind = file.read(8)
            stated.add(behind[4:] if behind.startswith(_BEHIND) else behind[:4])
        if zlib.crc32(data).to_bytes(4, "little") not in stated:
            raise TruncatedMedia(
                "the member's checksum differs: the archive is damaged",
                file=str(self),
                stage="open",
                remedy="copy or download the archive again",
            )
        return data

    def _inflate(self, data: bytes) -> bytes:
        try:
            return zlib.decompressobj(-15).decompress(data, self.size + 1)
        except zlib.error as error:
            raise NotMedia(
                f"the member is damaged: {error}", file=str(self), stage="open"
            ) from error

    def _whole(self, data: bytes, size: int) -> bytes:
        if len(data) != size:
            raise TruncatedMedia(
                f"the member has {len(data)} bytes where {size} are stated",
                file=str(self),
                stage="open",
                remedy="copy or download the archive again",
            )
        return data

    def _moved(self) -> FileMissing:
        return FileMissing(
            "the member is not where it was at the scan", file=str(self), stage="open",
            remedy="scan again",
        )  # fmt: skip


def members(
    archive: Path, *, limits: Limits = DEFAULT_LIMITS, read: tuple[str, ...] = ()
) -> Iterator[Member | MediaError]:
    """The members of an archive, and an error in place of each that must not or cannot be read.

    Folders are passed over. A damaged archive gives what can be found, and its error at the end: a
    tar file what lies before the damage and behind it, a zip file, whose list is at its end, what
    the list names.

    Args:
        archive: a ``.zip`` or ``.tar`` file.
        limits: bounds; ``max_members``, ``max_member_bytes``.
        read: suffixes, in lower case, of members whose bytes are read in passing, so that the
            archive is gone through once; those above 1 KiB are not.

    Yields:
        Members in the archive's order; errors carry ``archive!/name``, or the archive where it is
        damaged itself.
    """
    seen: set[str] = set()
    listed = _zipped if archive.suffix.lower() == ".zip" else _tarred
    try:
        file, size = open_regular(archive, limits=limits)
        with file:
            for number, (member, fault) in enumerate(listed(archive, file, size)):
                limits.check("members", number + 1, file=archive, stage="scan")
                fault = fault or _fault(member, size, seen, limits)
                seen.add(member.name)
                if fault is None and member.name.lower().endswith(read):
                    yield _read_in_passing(member, file)
                else:
                    yield member if fault is None else fault
    except MediaError as error:
        yield error
    except NotImplementedError as error:  # a zip file of a later version of the format
        yield UnsupportedMedia(
            f"the archive cannot be read here: {error}",
            file=archive,
            stage="scan",
            remedy="pack it anew, without compression or with deflate",
        )
    except (zipfile.BadZipFile, OSError, EOFError, ValueError,
            struct.error, RuntimeError, zlib.error) as error:  # fmt: skip
        yield TruncatedMedia(
            f"the archive is cut or damaged: {error}",
            file=archive,
            stage="scan",
            remedy="copy or download the archive again",
        )


def find_member(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> Member | None:
    """The member that a path such as ``train.zip!/cat/1.jpg`` names.

    Args:
        path: the path.
        limits: bounds.

    Returns:
        The member; None where the path names none, or there is no such archive.

    Raises:
        FileMissing: the archive holds no such member, or none that may be read.
    """
    outer, mark, name = str(path).partition(MARK)
    archive = Path(outer)
    if not mark or archive.suffix.lower() not in ARCHIVES or not archive.is_file():
        return None
    for found in members(archive, limits=limits):
        if isinstance(found, Member) and found.name == name:
            return found
    raise FileMissing("the archive holds no such picture", file=path, stage="open")


_Found = Iterator[tuple[Member, MediaError | None]]


def _zipped(archive: Path, file: BinaryIO, size: int) -> _Found:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            member = Member(
                archive=archive,
                name=info.filename,
                offset=info.header_offset,
                stored=info.compress_size,
                size=info.file_size,
            )
            kind = stat.S_IFMT(info.external_attr >> 16)
            fault = None
            if kind not in (0, stat.S_IFREG):
                fault = _refused(member, "a link or device")
            elif info.flag_bits & 1:
                fault = _refused(member, "encrypted", "give the archive without a password")
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                fault = _refused(
                    member, "packed in a way that is not read here", "zip -0 or zip -6"
                )
            elif info.file_size > _DENSEST * info.compress_size + BLOCK:
                fault = _refused(member, "said to be larger than its bytes can hold")
            yield member, fault


def _tarred(archive: Path, file: BinaryIO, size: int) -> _Found:
    for info in tar_headers(file, size, archive):
        if info.isdir():
            continue
        member = Member(
            archive=archive,
            name=info.name,
            offset=info.offset_data,
            stored=info.size,
            size=info.size,
        )
        plain = info.isreg() and not info.issparse()
        yield member, None if plain else _refused(member, "a link, device or sparse file")


def _fault(member: Member, size: int, seen: set[str], limits: Limits) -> MediaError | None:
    """Why a member is not taken; None where it is."""
    parts = member.name.replace("\\", "/").split("/")
    if member.name.startswith(("/", "\\")) or ".." in parts or parts[0].endswith(":"):
        return _refused(member, "named as if to be written outside of its folder")
    if member.name in seen:
        return _refused(member, "a second member of this name", "keep one of them")
    if member.offset + member.stored > size:
        return TruncatedMedia(
            "the archive ends before this member does",
            file=_label(member),
            stage="scan",
            remedy="copy or download the archive again",
        )
    try:
        limits.check(
            "member_bytes", max(member.size, member.stored), file=_label(member), stage="scan"
        )
    except LimitExceeded as error:
        return error
    return None


def _read_in_passing(member: Member, file: BinaryIO) -> Member | MediaError:
    """A small member with its bytes; a larger one without; the error of a damaged one."""
    if max(member.size, member.stored) > _IN_PASSING:
        return member
    try:
        return replace(member, data=member.read_from(file))
    except MediaError as error:
        return error


def _refused(member: Member, why: str, remedy: str = "leave it out") -> UnsupportedMedia:
    return UnsupportedMedia(
        f"a member of the archive is {why}", file=_label(member), stage="scan", remedy=remedy
    )


def _label(member: Member) -> str:
    return printable(str(member).encode(errors="backslashreplace").decode())
