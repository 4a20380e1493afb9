"""A tar file that is cut or damaged anywhere: all that can be read is kept, and it is told."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rhyme.errors import FileMissing, MediaError, TruncatedMedia
from rhyme.media import Member, members

BLOCK = 512
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def packed(form: int = tarfile.USTAR_FORMAT, count: int = 6) -> tuple[bytes, dict[str, bytes]]:
    """A tar file of members of 0 to several blocks, and what they hold.

    Every header but USTAR's stands behind one or two others, with a long name or a fine time.
    """
    content: dict[str, bytes] = {}
    for k in range(count):
        long = "deep/" * 30 if form != tarfile.USTAR_FORMAT and k % 2 else ""
        content[f"{long}{k}.png"] = random.Random(k).randbytes(k * 300)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=form) as opened:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5 if form == tarfile.PAX_FORMAT else 1
            opened.addfile(info, io.BytesIO(data))
    return out.getvalue(), content


def listed(archive: Path) -> tuple[list[Member], list[MediaError]]:
    found = list(members(archive))
    errors = [m for m in found if isinstance(m, MediaError)]
    return [m for m in found if isinstance(m, Member)], errors


def read(member: Member) -> bytes:
    return member.read() if member.size else b""


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_anywhere_is_told_and_what_came_before_is_kept(form: int, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    whole, content = packed(form)
    archive.write_bytes(whole)
    ends = [member.offset + member.size for member in listed(archive)[0]]
    last = -(-ends[-1] // BLOCK) * BLOCK
    for block in range(0, last + 1, BLOCK):
        for cut in {block, block + 1, block + 200, block + 511} - {0}:
            archive.write_bytes(whole[:cut])
            kept, errors = listed(archive)
            wanted = [name for name, end in zip(content, ends, strict=True) if end <= cut]
            assert [m.name for m in kept] == wanted, cut
            assert all(read(m) == content[m.name] for m in kept)
            assert all(isinstance(error, TruncatedMedia) for error in errors)
            assert str(archive) in {str(error.file) for error in errors}, cut


def overwritten(data: bytearray, at: int) -> None:
    data[at : at + BLOCK] = random.Random(at).randbytes(BLOCK)


def one_bit(data: bytearray, at: int) -> None:
    data[at + 130] ^= 1


def zeroed(data: bytearray, at: int) -> None:
    data[at : at + BLOCK] = bytes(BLOCK)


@pytest.mark.parametrize("damage", [overwritten, one_bit, zeroed])
@pytest.mark.parametrize("lost", range(6))
def test_a_damaged_header_costs_its_own_member(
    damage: Callable[[bytearray, int], None], lost: int, tmp_path: Path
) -> None:
    archive = tmp_path / "a.tar"
    whole, content = packed()
    archive.write_bytes(whole)
    before = listed(archive)[0]
    data = bytearray(whole)
    damage(data, before[lost].offset - BLOCK)
    archive.write_bytes(data)
    kept, (error,) = listed(archive)
    assert [m.name for m in kept] == [name for k, name in enumerate(content) if k != lost]
    assert kept == [m for k, m in enumerate(before) if k != lost]
    assert all(read(m) == content[m.name] for m in kept)
    assert isinstance(error, TruncatedMedia)
    assert f"bytes {before[lost].offset - BLOCK:,} to" in error.reason
    with pytest.raises(FileMissing):  # a catalog of before the damage says so when it comes to it
        before[lost].read()


@pytest.mark.parametrize("form", FORMATS)
def test_damage_in_any_block_of_headers_is_told(form: int, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    whole, content = packed(form)
    archive.write_bytes(whole)
    found = listed(archive)[0]
    starts = [0, *(-(-(m.offset + m.size) // BLOCK) * BLOCK for m in found)]
    for start, member in zip(starts, found, strict=False):
        for at in range(start, member.offset, 2 * BLOCK):  # of a name or facts, or the member's
            data = bytearray(whole)
            data[at + 9] ^= 4
            archive.write_bytes(data)
            kept, errors = listed(archive)
            assert len(errors) == 1
            others = [m for m in found if m is not member]
            assert [m for m in kept if m.offset != member.offset] == others
            assert all(read(m) == content[m.name] for m in others)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("zeros", [1, 2, 3, 20, 5000])
def test_any_number_of_zero_blocks_ends_a_whole_archive(
    form: int, zeros: int, tmp_path: Path
) -> None:
    archive = tmp_path / "a.tar"
    whole, content = packed(form)
    archive.write_bytes(whole)
    last = listed(archive)[0][-1]
    end = -(-(last.offset + last.size) // BLOCK) * BLOCK
    archive.write_bytes(whole[:end] + bytes(zeros * BLOCK))
    kept, errors = listed(archive)
    assert errors == []
    assert {m.name: read(m) for m in kept} == content


def test_an_archive_of_nothing_is_whole(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(bytes(20 * BLOCK))
    assert listed(archive) == ([], [])


def test_archives_that_were_joined_are_read_whole_and_told(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"".join(packed(form)[0] for form in FORMATS[:2]))
    kept, errors = listed(archive)
    numbers = [m.name.rpartition("/")[2] for m in kept]
    assert numbers == [*(f"{k}.png" for k in range(6)), "1.png", "3.png", "5.png"]
    assert ["second member" in error.reason for error in errors] == [True] * 3 + [False]
    assert "zeros in place of a header" in errors[-1].reason


def test_room_that_was_reserved_and_never_written_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    whole, content = packed()
    archive.write_bytes(whole)
    with archive.open("r+b") as file:
        file.truncate(40 << 20)  # as a download that was stopped may leave it
    kept, (error,) = listed(archive)
    assert len(kept) == len(content)
    assert "zeros in place of a header" in error.reason


def forged(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that states a size as it stands in its field, with its checksum."""
    info = tarfile.TarInfo("x.png")
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_length_below_nothing_is_no_endless_archive(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    back = forged(b"\xff" * 10 + b"\xf8\x00")  # 2048 bytes back
    archive.write_bytes(packed()[0][:BLOCK] + back + packed()[0])
    kept, errors = listed(archive)
    assert len(kept) == 6
    assert any("below 0" in error.reason for error in errors)


def test_forged_headers_in_numbers_cost_no_time(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    long = forged(b"%011o\0" % (1 << 20), tarfile.GNUTYPE_LONGNAME)
    archive.write_bytes(long * 10_000)
    kept, (error,) = listed(archive)
    assert kept == []
    assert "98 further places" in error.reason
