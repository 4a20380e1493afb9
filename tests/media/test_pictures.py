"""Pictures and folders of pictures."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rhyme.errors import (
    LimitExceeded,
    MediaError,
    NotMedia,
    TruncatedMedia,
    UnknownName,
    UnsupportedMedia,
)
from rhyme.media import (
    FrameFolder,
    FrameReader,
    Limits,
    Member,
    Picture,
    load_picture,
    members,
    open_reader,
    probe,
)
from rhyme.media import (
    picture as pictures,
)
from rhyme.media.ending import reaches_end


def image(seed: int, width: int = 20, height: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_one_picture(tmp_path: Path) -> None:
    Image.fromarray(image(0)).save(tmp_path / "a.png")
    with Picture(tmp_path / "a.png") as picture:
        assert isinstance(picture, FrameReader)
        assert picture.times.tolist() == [0.0]
        pixels, times = picture.read([0.0, 3.0])
        assert torch.equal(pixels[1], torch.from_numpy(image(0)).permute(2, 0, 1))
        assert times.tolist() == [0.0, 0.0]
        assert picture.audio(0, 1, 8000) is None
    assert probe(tmp_path / "a.png").kind == "image"


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image(0)).save(tmp_path / "a.png", exif=exif)
    with Picture(tmp_path / "a.png") as picture:
        assert (picture.info.width, picture.info.height, picture.info.rotation) == (12, 20, 90)
        upright = np.rot90(image(0), -1)
        assert np.array_equal(picture.frames_at([0])[0].permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    base = Image.fromarray(image(0))
    suffix = "tif" if mode == "CMYK" else "png"
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    else:
        picture = base.convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    with Picture(tmp_path / f"a.{suffix}") as reader:
        pixels = reader.frames_at([0])[0]
    assert pixels.shape == (3, 12, 20)
    gray = np.asarray(base.convert("L"))
    if mode in ("L", "I;16", "LA"):
        assert np.array_equal(pixels[0].numpy(), gray)


def test_sixteen_bits_are_as_bright_in_every_picture(tmp_path: Path) -> None:
    """Whatever else a picture holds: its neighbours must not differ by their brightest points."""
    levels = (250, 255, 256, 300, 4000, 65535)
    for suffix in ("png", "tif"):
        for k, level in enumerate(levels):
            Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / f"{k}.{suffix}")
        folder = FrameFolder([tmp_path / f"{k}.{suffix}" for k in range(6)], spacing=1.0)
        assert folder.frames_at(folder.times)[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 15, 255]


def tiff(values: bytes, bits: int, kind: int) -> bytes:
    """One row of four grey values; `kind` 1 without sign, 2 with one, 3 fractions."""
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(values)}
    tags[339] = kind
    rows = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    place = 8 + len(values)
    return b"II*\0" + struct.pack("<L", place) + values + struct.pack("<H", 10) + rows + bytes(4)


def test_twelve_bits_are_scaled_by_what_they_can_hold(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(bytes.fromhex("000011800fff"), 12, 1))
    assert load_picture(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 1, 127, 255]


@pytest.mark.parametrize(("form", "bits", "kind"), [("f", 32, 3), ("i", 32, 2), ("h", 16, 2)])
def test_values_that_have_no_white_are_refused(
    tmp_path: Path, form: str, bits: int, kind: int
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(struct.pack(f"<4{form}", 0, 1, 1, 1), bits, kind))
    for look in (probe, load_picture):
        with pytest.raises(UnsupportedMedia, match="white") as caught:
            look(path)
        assert caught.value.file == str(path)
        assert "16" in str(caught.value.remedy)


@pytest.mark.parametrize("brand", ["heic", "heix", "heis", "mif1", "avif"])
def test_pictures_in_boxes_are_refused_as_pictures(tmp_path: Path, brand: str) -> None:
    """They begin as films do, without the index of one, and are not cut."""
    form = bytes([0, 0, 0, 16]) + b"ftyp" + brand.encode() + bytes(4)
    data = form + bytes([0, 0, 0, 12]) + b"meta" + bytes(4) + bytes([0, 0, 0, 40]) + b"mdat"
    (tmp_path / "a.heic").write_bytes(data + bytes(32))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.write(tmp_path / "a.heic", "a.heic")
    (member,) = members(tmp_path / "a.zip")
    assert isinstance(member, Member)
    looks = (lambda: probe(tmp_path / "a.heic"), lambda: load_picture(member))
    for look in looks:
        with pytest.raises(UnsupportedMedia, match=brand) as caught:
            look()
        assert "JPEG" in str(caught.value.remedy)


def test_frame_folder_by_time_with_gaps_and_sizes(tmp_path: Path) -> None:
    for number, size in ((1, 20), (2, 20), (5, 20), (6, 40)):
        Image.fromarray(image(number, size, size * 3 // 5)).save(tmp_path / f"{number:03}.png")
    files = sorted(tmp_path.iterdir())
    folder = open_reader("frames", files, spacing=0.5)
    assert isinstance(folder, FrameFolder)
    np.testing.assert_allclose(folder.times, [0.0, 0.5, 2.0, 2.5])
    pixels, times = folder.read([1.9, 2.1, 99.0])
    assert times.tolist() == [0.5, 2.0, 2.5]
    assert torch.equal(pixels[1], torch.from_numpy(image(5)).permute(2, 0, 1))
    assert pixels.shape == (3, 3, 12, 20)
    assert folder.info.duration == pytest.approx(3.0)
    assert folder.info.frames == 4


def test_each_picture_is_decoded_once_a_request(tmp_path: Path) -> None:
    for k in range(3):
        Image.fromarray(image(k)).save(tmp_path / f"{k}.png")
    folder = FrameFolder(sorted(tmp_path.iterdir()), spacing=1.0)
    folder.frames_at([2.0, 0.0, 2.0, 2.5, 0.1])
    assert folder.decoded_frames == 2


def test_damaged_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    buffer = io.BytesIO()
    Image.fromarray(image(0, 300, 300)).save(buffer, "png")
    path.write_bytes(buffer.getvalue()[:2000])
    with pytest.raises(TruncatedMedia):
        probe(path, "frames")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 50)
    with pytest.raises(MediaError):
        probe(path)
    path.write_text("words")
    with pytest.raises(NotMedia):
        Picture(path).frames_at([0])


def stored(form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    blocks = np.kron(image(3, 40, 30), np.ones((6, 6, 1), np.uint8))
    Image.fromarray(blocks).save(out, form, **options)
    return out.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG with another, whole one in its header."""
    data, small = stored("JPEG"), stored("JPEG", quality=5)
    segment = b"Exif\0\0" + small
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


PICTURES: dict[str, Callable[[], bytes]] = {
    "plain.jpg": lambda: stored("JPEG"),
    "progressive.jpg": lambda: stored("JPEG", progressive=True),
    "restarts.jpg": lambda: stored("JPEG", restart_marker_rows=1),
    "thumbnail.jpg": with_thumbnail,
    "plain.png": lambda: stored("PNG"),
    "exif.png": lambda: stored("PNG", exif=exif_upright()),
    "lossy.webp": lambda: stored("WEBP"),
    "lossless.webp": lambda: stored("WEBP", lossless=True),
    "plain.bmp": lambda: stored("BMP"),
    "plain.tif": lambda: stored("TIFF"),
    "packed.tif": lambda: stored("TIFF", compression="tiff_lzw"),
}


def exif_upright() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 1
    return exif


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("name", list(PICTURES))
def test_a_cut_picture_is_found_without_decoding_the_whole_ones(
    name: str, archived: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PICTURES[name]()

    def look(data: bytes) -> None:
        if archived:
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
                opened.writestr(name, data)
            (member,) = members(tmp_path / "a.zip")
            assert isinstance(member, Member)
        else:
            member = tmp_path / name
            member.write_bytes(data)
        picture = Picture(member)
        assert picture.info.width == 240
        picture.check("packets")

    for cut in (len(whole) // 4, len(whole) // 2, len(whole) * 3 // 4, len(whole) - 30):
        with pytest.raises(MediaError) as caught:
            look(whole[:cut])
        assert name in str(caught.value.file)
    decoded: list[object] = []

    def counted(path: Path | Member, *, limits: Limits) -> np.ndarray:
        decoded.append(path)
        return load_picture(path, limits=limits)

    monkeypatch.setattr(pictures, "load_picture", counted)
    look(whole)
    if name.endswith((".jpg", ".png", ".webp")):
        assert decoded == []
    for behind in (b"\0" * 100, b"junk" * 50, whole):  # other programs' notes, further pictures
        look(whole + behind)


def test_what_only_lacks_its_end_mark_is_for_the_decoder_to_judge(tmp_path: Path) -> None:
    whole = stored("PNG")
    assert not reaches_end(whole[:-4])
    (tmp_path / "a.png").write_bytes(whole[:-4])
    for depth in ("header", "packets", "frames"):
        assert probe(tmp_path / "a.png", depth).width == 240


def test_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        sum_ = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + sum_

    size = (65535).to_bytes(4, "big") * 2
    path = tmp_path / "bomb.png"
    header = chunk(b"IHDR", size + b"\x08\x02\0\0\0")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9999))))
    with pytest.raises(LimitExceeded):
        probe(path)
    Image.fromarray(image(0)).save(tmp_path / "b.png")
    with pytest.raises(LimitExceeded):
        probe(tmp_path / "b.png", limits=Limits(max_width=19))


def test_unknown_kind_and_empty_folder() -> None:
    with pytest.raises(UnknownName):
        open_reader("film", "a.mp4")  # pyright: ignore
    with pytest.raises(MediaError):
        open_reader("frames", [])
