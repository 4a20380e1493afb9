"""Pictures in zip and tar files: read where they lie, hostile and broken members named."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhyme.errors import (
    EmptyMedia,
    FileMissing,
    LimitExceeded,
    MediaError,
    NotMedia,
    TruncatedMedia,
    UnsupportedMedia,
)
from rhyme.media import Limits, Member, Picture, find_member, load_picture, members


def png(shade: int = 0, size: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((size, size + 2, 3), shade, np.uint8)).save(out, "PNG")
    return out.getvalue()


def make(archive: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip or tar file, by its suffix."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", method) as opened:
            for name, data in content.items():
                opened.writestr(name, data)
    else:
        with tarfile.open(archive, "w:") as opened:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                opened.addfile(info, io.BytesIO(data))
    return archive


def sound(archive: Path, **limits: int) -> list[Member]:
    return [m for m in members(archive, limits=Limits(**limits)) if isinstance(m, Member)]


def faults(archive: Path, **limits: int) -> list[MediaError]:
    return [m for m in members(archive, limits=Limits(**limits)) if isinstance(m, MediaError)]


FORMS = [("a.zip", zipfile.ZIP_DEFLATED), ("a.zip", zipfile.ZIP_STORED), ("a.tar", 0)]


@pytest.mark.parametrize(("name", "method"), FORMS)
def test_members_are_read_where_they_lie(name: str, method: int, tmp_path: Path) -> None:
    long = "deep/" * 30 + "ä" * 60 + ".png"  # longer than a plain tar header holds
    content = {"cat/1.png": png(3), long: png(4, size=40), "dog/2.png": png(5)}
    archive = make(tmp_path / name, content, method)
    found = sound(archive)
    assert [m.name for m in found] == list(content)
    assert faults(archive) == []
    for member in reversed(found):
        assert member.read() == content[member.name]
        assert str(member) == f"{archive}!/{member.name}"
    picture = Picture(found[1])
    assert (picture.info.width, picture.info.height, picture.info.kind) == (42, 40, "image")
    assert picture.info.bytes == len(content[long])
    frames = picture.frames_at([0.0, 3.0])
    assert frames.shape == (2, 3, 40, 42)
    assert (frames == 4).all()
    assert (load_picture(found[2]) == 5).all()


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize(
    "hostile", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "C:/x.png", "\\\\h\\x.png"]
)
def test_names_that_lead_out_are_refused(name: str, hostile: str, tmp_path: Path) -> None:
    archive = make(tmp_path / name, {"1.png": png(), hostile: png(), "2.png": png()})
    assert [m.name for m in sound(archive)] == ["1.png", "2.png"]
    (fault,) = faults(archive)
    assert isinstance(fault, UnsupportedMedia)
    assert "outside of its folder" in str(fault)
    assert str(fault.file) == f"{archive}!/{hostile}"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_of_two_members_of_one_name_the_first_counts(name: str, tmp_path: Path) -> None:
    archive = tmp_path / name
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("1.png", png(1))
            opened.writestr("1.png", png(2))
    else:
        with tarfile.open(archive, "w:") as opened:
            for shade in (1, 2):
                info = tarfile.TarInfo("1.png")
                info.size = len(png(shade))
                opened.addfile(info, io.BytesIO(png(shade)))
    (member,) = sound(archive)
    assert (load_picture(member) == 1).all()
    assert "second member" in str(faults(archive)[0])


def test_links_and_devices_of_a_tar_are_refused(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar", {"1.png": png()})
    with tarfile.open(archive, "a:") as opened:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            opened.addfile(info)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        opened.addfile(folder)
    assert len(sound(archive)) == 1
    found = faults(archive)
    assert len(found) == 4
    assert all("link, device" in str(fault) for fault in found)


def test_links_and_secrets_of_a_zip_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
        opened.writestr("folder/", b"")
        opened.writestr("secret.png", png())
        opened.writestr("odd.png", png(), zipfile.ZIP_BZIP2)
    data = bytearray(archive.read_bytes())
    place = data.rfind(b"PK\1\2", 0, data.rfind(b"secret.png"))
    data[place + 8] |= 1  # marked as encrypted in the directory
    archive.write_bytes(data)
    assert sound(archive) == []
    assert ["link" in str(f) or "encrypted" in str(f) or "packed" in str(f)
            for f in faults(archive)] == [True] * 3  # fmt: skip


def test_a_zip_of_a_later_format_is_not_called_damaged(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"1.png": png()})
    data = bytearray(archive.read_bytes())
    data[data.rfind(b"PK\1\2") + 6] = 99  # the version that it takes to read the member
    archive.write_bytes(data)
    (fault,) = faults(archive)
    assert isinstance(fault, UnsupportedMedia)
    assert "9.9" in str(fault)
    assert "deflate" in str(fault.remedy)


def test_bombs_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"zeros.png": bytes(3_000_000), "1.png": png()})
    assert isinstance(faults(archive, max_member_bytes=1_000_000)[0], LimitExceeded)
    (member, _) = sound(archive)
    with pytest.raises(LimitExceeded):
        member.read(limits=Limits(max_member_bytes=1_000_000))
    with pytest.raises(NotMedia):
        load_picture(member)
    # a directory that promises less than there is: no more is unpacked than was promised
    small = Member(
        archive=archive, name=member.name, offset=member.offset, stored=member.stored, size=1000
    )
    with pytest.raises(TruncatedMedia, match="1001 bytes where 1000"):
        small.read()
    # and one that promises more than deflate can hold
    data = bytearray(archive.read_bytes())
    place = data.find(b"PK\1\2")
    struct.pack_into("<L", data, place + 24, 120_000_000)
    archive.write_bytes(data)
    assert "larger than its bytes" in str(faults(archive)[0])
    many = make(tmp_path / "b.tar", {f"{k}.png": png() for k in range(5)})
    assert len(sound(many, max_members=3)) == 3
    assert isinstance(faults(many, max_members=3)[0], LimitExceeded)


def test_a_forged_header_of_a_tar_costs_no_memory(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
    with archive.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(5 << 30)  # a sparse file: nothing of it is on the disk
    (fault,) = faults(archive)
    assert isinstance(fault, TruncatedMedia)
    assert "longer than any honest one" in str(fault)


def test_what_was_before_the_cut_of_a_tar_is_kept(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar", {f"{k}.png": png(k, 30) for k in range(4)})
    whole = archive.read_bytes()
    third = sound(archive)[2]
    archive.write_bytes(whole[: third.offset + third.size // 2])
    assert [m.name for m in sound(archive)] == ["0.png", "1.png"]
    assert any(isinstance(f, TruncatedMedia) for f in faults(archive))
    with pytest.raises(TruncatedMedia):
        third.read()


def test_a_cut_zip_has_no_directory(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"1.png": png(), "2.png": png()})
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    (fault,) = faults(archive)
    assert isinstance(fault, TruncatedMedia)
    assert fault.file == str(archive) or fault.file == archive
    archive.write_bytes(b"")
    assert isinstance(faults(archive)[0], EmptyMedia)
    assert isinstance(faults(tmp_path / "none.zip")[0], FileMissing)
    archive.write_bytes(b"no archive at all" * 100)
    assert isinstance(faults(archive)[0], TruncatedMedia)


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_an_archive_that_changed_is_noticed(name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / name, {"1.png": png(), "2.png": png(9, 20)})
    member = sound(archive)[1]
    make(archive, {"other.png": png(1, 30), "2.png": png()})
    with pytest.raises(MediaError):
        member.read()


def test_damaged_bytes_of_a_zip_are_noticed(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"1.png": png()}, zipfile.ZIP_STORED)
    (member,) = sound(archive)
    data = bytearray(archive.read_bytes())
    data[member.offset + 60] ^= 1
    archive.write_bytes(data)
    with pytest.raises(TruncatedMedia, match="checksum"):
        member.read()


class Pipe(io.BytesIO):
    """A file that cannot be gone back in, as a network connection."""

    def seek(self, *place: int) -> int:
        raise OSError("a pipe")

    tell = seek


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("mark", [True, False])
def test_damaged_bytes_of_a_streamed_zip_are_noticed(
    tmp_path: Path, method: int, mark: bool
) -> None:
    """Its checksums stand behind the data, with a mark before them or without."""
    out = Pipe()
    with zipfile.ZipFile(out, "w", method) as opened:
        opened.writestr("1.png", png())
    data = bytearray(out.getvalue())
    if not mark:
        place = data.index(b"PK\7\10")
        del data[place : place + 4]
        (directory,) = struct.unpack_from("<L", data, len(data) - 6)
        struct.pack_into("<L", data, len(data) - 6, directory - 4)
    archive = tmp_path / "a.zip"
    archive.write_bytes(data)
    (member,) = sound(archive)
    assert member.read() == png()
    behind = data.index(struct.pack("<L", zlib.crc32(png())))
    for place in (behind, behind - 20) if method == zipfile.ZIP_STORED else (behind,):
        flipped = data.copy()
        flipped[place] ^= 1
        archive.write_bytes(flipped)
        with pytest.raises(TruncatedMedia, match="checksum"):
            member.read()


def test_a_member_that_is_no_picture_says_what_it_is(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"1.png": b"#EXTM3U\nhttp://x", "2.jpg": png()[:40]})
    playlist, cut = sound(archive)
    with pytest.raises(NotMedia, match="playlist"):
        load_picture(playlist)
    with pytest.raises(MediaError):
        load_picture(cut)


def test_a_member_is_found_by_its_path(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"cat/1.png": png(7), "../2.png": png()})
    found = find_member(f"{archive}!/cat/1.png")
    assert found is not None
    assert (load_picture(found) == 7).all()
    assert find_member(archive) is None
    assert find_member(tmp_path / "none.zip!/cat/1.png") is None
    for name in ("cat/2.png", "../2.png"):
        with pytest.raises(FileMissing):
            find_member(f"{archive}!/{name}")
