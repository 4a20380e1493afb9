"""Damaged and hostile files: a typed error each, nothing else is ever read."""

from __future__ import annotations

import builtins
import contextlib
import os
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rhyme.errors import (
    EmptyMedia,
    FileMissing,
    LimitExceeded,
    MediaError,
    NotMedia,
    NoVideoStream,
    TruncatedMedia,
    UnsupportedMedia,
)
from rhyme.media import Limits, Video, backends, identify, probe

Film = Callable[..., Path]


@pytest.fixture(autouse=True, params=["pyav", "torchcodec"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test of this file runs with both decoding libraries."""
    for backend in backends():
        if backend.name == request.param and not backend.usable:
            pytest.skip(f"{backend.name}: {backend.reason}")
    monkeypatch.setenv("RHYME_DECODER", request.param)
    return str(request.param)


def refused(path: Path) -> MediaError:
    """The error of probe and of Video, which must be of the same kind."""
    with pytest.raises(MediaError) as by_probe:
        probe(path)
    with pytest.raises(type(by_probe.value)), Video(path) as video:
        video.frames_at([0.0])
    error = by_probe.value
    assert error.file == str(path)
    assert error.stage
    assert error.remedy
    return error


def test_missing_empty_folder_and_pipe(tmp_path: Path) -> None:
    assert isinstance(refused(tmp_path / "no.mp4"), FileMissing)
    (tmp_path / "zero.mp4").touch()
    assert isinstance(refused(tmp_path / "zero.mp4"), EmptyMedia)
    assert isinstance(refused(tmp_path), FileMissing)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert isinstance(refused(tmp_path / "pipe.mp4"), FileMissing)
    assert isinstance(refused(tmp_path / "nul\0.mp4"), FileMissing)


def lying(path: Path, factor: float) -> Path:
    """The film with another duration in the header of its container; nothing else changes."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".mkv":
        places, form = [(b"\x44\x89\x88", 3)], ">d"
    elif path.suffix == ".avi":
        places, form = [(b"avih", 24), (b"strh", 40)], "<I"  # numbers of frames
    else:
        places, form = [(b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)], ">I"
    for name, offset in places:
        place = data.index(name) + offset
        (true,) = struct.unpack_from(form, data, place)
        struct.pack_into(form, data, place, type(true)(true * factor))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
@pytest.mark.parametrize("factor", [10, 0.25])
def test_a_header_that_lies_about_the_length_is_not_believed(
    film: Film, name: str, factor: float
) -> None:
    path = lying(film(name, n=100), factor)
    for depth in ("header", "packets"):
        info = probe(path, depth)
        assert info.duration == pytest.approx(4.0)
        assert info.frames == 100
    with Video(path) as video:
        assert len(video.times) == 100


@pytest.mark.parametrize("start", [0, 250])
def test_a_true_matroska_header_is_believed(film: Film, start: int) -> None:
    path = film("a.mkv", n=100, stamps=list(range(start, start + 100)), sound=np.sin)
    info = probe(path)
    assert info.duration == pytest.approx(4.0, abs=0.1)
    assert info.depth == ("header" if start == 0 else "packets")
    with Video(path) as video:
        video.header()
        assert torch.equal(video.frames_at([0.0]), video.frames_at(video.times[:1]))


@pytest.mark.parametrize(
    "content",
    [b"a plain text\n" * 9, b"<!DOCTYPE html><html>404</html>", bytes(4000), b"\x07\x9f" * 2000],
)
def test_no_media_shows_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    error = refused(path)
    assert isinstance(error, NotMedia)
    assert error.value == content[:32]


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for seed in range(20):
        path.write_bytes(np.random.default_rng(seed).bytes(3000))
        refused(path)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
    "hls_mark": "\ufeff#EXTM3U\n#EXTINF:9,\nfile://{target}\n",
    "ffconcat": "ffconcat version 1.0\nfile {target}\n",
    "dash": '<?xml version="1.0"?>\n<MPD><BaseURL>{target}</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "pls": "[playlist]\nFile1={target}\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".avi", ".mkv", ".jpg"])
@pytest.mark.parametrize("kind", sorted(PLAYLISTS))
def test_playlists_read_nothing_else(
    film: Film, tmp_path: Path, kind: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = film("canary.mp4", n=3)
    os.utime(canary, (1, 1))
    path = tmp_path / f"list{suffix}"
    path.write_text(PLAYLISTS[kind].format(target=canary))
    opened: list[str] = []
    real = os.open

    def watched(name: object, *rest: object, **more: object) -> int:
        opened.append(str(name))
        return real(name, *rest, **more)  # pyright: ignore

    monkeypatch.setattr(os, "open", watched)
    error = refused(path)
    assert isinstance(error, NotMedia)
    assert "playlist" in error.cause
    assert set(opened) <= {str(path)}
    # Reading would set the access time forward on any mount that keeps it.
    assert canary.stat().st_atime == 1


def test_names_that_look_like_addresses_are_plain_paths(
    film: Film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = film("a.mp4", n=3)
    monkeypatch.chdir(tmp_path)
    for name in ("http:a.mp4", "concat:a.mp4", "subfile,,start,0,end,9,,:a.mp4", "pipe:0"):
        (tmp_path / name).write_bytes(source.read_bytes())
        assert probe(name, "frames").frames == 3
    with pytest.raises(FileMissing):
        probe("http://127.0.0.1:9/a.mp4")
    with pytest.raises(FileMissing):
        probe(f"file://{source}")


def test_ffmpeg_gets_no_name_and_opens_no_second_file(
    film: Film, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    path = film(n=3)
    real = av.open
    calls: list[tuple[object, dict[str, object]]] = []

    def watched(file: object, **options: object) -> object:
        calls.append((file, options))
        return real(file, **options)  # pyright: ignore

    monkeypatch.setattr(av, "open", watched)
    probe(path)
    file, options = calls[0]
    assert not isinstance(file, str | os.PathLike)
    assert not hasattr(file, "name")
    assert options["format"] == "mov"
    assert options["container_options"]["protocol_whitelist"] == "file"  # pyright: ignore
    with pytest.raises(PermissionError):
        options["io_open"]("other.mp4", 0, {})  # pyright: ignore


def test_cut_without_index(film: Film) -> None:
    path = film(n=200)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    error = refused(path)
    assert isinstance(error, TruncatedMedia)
    assert "index" in error.cause


@pytest.mark.parametrize("share", [0.5, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_cut_with_index_keeps_what_is_there(
    film: Film, plain_decode: Callable[[Path], torch.Tensor], name: str, share: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 48, 64, 3), dtype=np.uint8)
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = film(name, n=200, faststart=True, codec=codec, picture_of=lambda i, *_: noise[i])
    whole = plain_decode(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    info = probe(path, "frames")
    assert info.frames is not None
    assert 200 * share * 0.7 < info.frames < 200
    assert info.usable[0][0] == 0
    assert info.usable[-1][1] <= info.frames / 25 + 1e-6
    if not name.endswith("ts"):
        assert info.partial
    with Video(path) as video:
        k = np.arange(int(len(video.times) * 0.9))
        assert torch.equal(video.frames_at(video.times[k]), whole[k])
        video.frames_at([video.info.duration])
    assert probe(path).partial == info.partial or name.endswith("ts")


def test_flipped_bytes_are_counted_and_the_rest_stays(film: Film) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 48, 64, 3), dtype=np.uint8)
    path = film(n=120, faststart=True, picture_of=lambda i, *_: noise[i])
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(len(data) // 2, len(data) * 6 // 10, 12):
        data[place] ^= 0xFF
    path.write_bytes(data)
    info = probe(path, "frames")
    assert info.frames == 120
    assert 0 < info.corrupt_frames < 60
    assert info.partial
    assert len(info.usable) >= 2
    assert info.usable[0][0] == 0
    assert info.usable[-1][1] == pytest.approx(4.8, abs=0.01)
    with Video(path) as video:
        assert video.frames_at(video.times).shape[0] == 120
        assert video.corrupt == info.corrupt_frames


def test_damage_in_the_middle_costs_the_middle(
    film: Film, plain_decode: Callable[[Path], torch.Tensor]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 48, 64, 3), dtype=np.uint8)
    path = film(n=120, faststart=True, picture_of=lambda i, *_: noise[i])
    truth = plain_decode(path)
    data = bytearray(path.read_bytes())
    first, last = len(data) * 5 // 10, len(data) * 6 // 10
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    with Video(path) as video:
        frames = video.frames_at(video.times)
        assert len(frames) == 120
        assert torch.equal(frames[:50], truth[:50])
        assert torch.equal(frames[84:], truth[84:])
        wrong = {k for k in range(120) if not torch.equal(frames[k], truth[k])}
        assert 6 <= len(wrong) < 30
        # Of the two groups of pictures at the edges one may hide what it has lost.
        assert len(wrong & video.damaged) >= len(wrong) // 2


def test_sound_only_is_no_video(tmp_path: Path, wave_file: Callable[..., Path]) -> None:
    path = wave_file(tmp_path / "a.wav", np.zeros(4000), 8000)
    with pytest.raises(NoVideoStream), Video(path) as video:
        video.frames_at([0.0])


@pytest.mark.parametrize(("code", "word"), [(b"encv", "encrypted"), (b"zzzz", "zzzz")])
def test_encrypted_and_unknown_codecs(film: Film, code: bytes, word: str) -> None:
    path = film(faststart=True)
    data = bytearray(path.read_bytes())
    place = data.find(b"avc1", data.find(b"stsd"))
    data[place : place + 4] = code
    path.write_bytes(data)
    error = refused(path)
    assert isinstance(error, UnsupportedMedia)
    assert word in error.cause


def test_a_protected_film_is_told_from_a_damaged_one(
    film: Film, tmp_path: Path, ffmpeg: str
) -> None:
    """Encrypted as players know it: its container names the codec, and its pictures are noise."""
    path = tmp_path / "protected.mp4"
    keys = (
        "-encryption_key",
        "76a6c65c5ea762046bd749a2e632ccbb",
        "-encryption_kid",
        "0" * 31 + "1",
    )
    scheme = ("-c", "copy", "-encryption_scheme", "cenc-aes-ctr", *keys)
    subprocess.run([ffmpeg, "-v", "error", "-i", film(), *scheme, path], check=True, timeout=60)
    for depth in ("header", "packets", "frames"):
        with pytest.raises(UnsupportedMedia, match="encrypted") as caught:
            probe(path, depth)
        assert "unprotected" in str(caught.value.remedy)
    assert isinstance(refused(path), UnsupportedMedia)


def test_codec_not_on_the_list_is_named(film: Film) -> None:
    error = refused(film("a.avi", codec="magicyuv", pixels="gbrp"))
    assert isinstance(error, UnsupportedMedia)
    assert "magicyuv" in error.cause


def test_header_that_claims_a_huge_picture(film: Film) -> None:
    path = film(faststart=True, n=3)
    data = bytearray(path.read_bytes())
    place = data.find(b"avc1", data.find(b"stsd")) + 28
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    # FFmpeg may believe the stream's own header instead; either way nothing huge is made.
    tracemalloc.start()
    with contextlib.suppress(LimitExceeded):
        info = probe(path, "frames", limits=Limits(max_pixels=10_000))
        assert (info.width, info.height) == (64, 48)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


FORGED = {
    "sizes": (b"stsz", 12, ">I", (10**9,)),
    "one size for all": (b"stsz", 8, ">II", (1, 10**9)),
    "durations": (b"stts", 12, ">I", (10**9,)),
    "offsets": (b"ctts", 8, ">I", (10**9,)),
    "chunks": (b"stco", 8, ">I", (10**9,)),
    "entries": (b"stts", 8, ">I", (10**9,)),
}
"""Where an index counts its entries; a thousand million of them would fill the memory."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("table", sorted(FORGED))
def test_an_index_that_claims_a_thousand_million_frames_costs_no_memory(
    film: Film, table: str
) -> None:
    path = film(n=30, faststart=True, options={"bf": "2"})
    name, offset, form, values = FORGED[table]
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(name) + offset, *values)
    path.write_bytes(data)
    before = peak()
    for depth in ("header", "frames"):
        with contextlib.suppress(MediaError):
            assert probe(path, depth).frames == 30
    with contextlib.suppress(MediaError), Video(path) as video:
        assert len(video.frames_at(video.times)) == 30
    assert peak() - before < 100 << 20


def peak() -> int:
    """The most bytes that this process has had in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_a_stated_number_of_frames_that_no_film_has_is_refused(film: Film) -> None:
    path = film(n=30, faststart=True)
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(b"stts") + 12, 10**9)
    path.write_bytes(data)
    with pytest.raises(LimitExceeded, match=r"frames 1e\+09 pass the limit"):
        probe(path)


def test_a_cut_gif_is_used_as_far_as_it_goes(film: Film) -> None:
    path = film("a.gif", n=20, codec="gif", pixels="rgb8")
    whole = path.read_bytes()
    assert not probe(path, "packets").partial
    path.write_bytes(whole + bytes(50))
    assert not probe(path, "packets").partial
    path.write_bytes(whole[: len(whole) // 2])
    for depth in ("header", "packets", "frames"):
        info = probe(path, depth)
        assert info.partial
        assert info.frames is None or 0 < info.frames < 20


def test_cuts_and_flips_never_raise_anything_untyped(film: Film) -> None:
    whole = film(n=20, sound=np.sin, faststart=True).read_bytes()
    path = film("b.mp4", n=1)
    random = np.random.default_rng(3)
    for trial in range(60):
        data = bytearray(whole)
        if trial % 2:
            data = data[: random.integers(1, len(data))]
        for place in random.integers(0, len(data), 1 + trial % 9):
            data[place] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            info = probe(path, "frames")
            assert info.frames is not None
            with Video(path) as video:
                video.frames_at([0.0, info.duration])
                video.audio(0.0, 0.5, 8000)
        except MediaError:
            pass


def test_identify_knows_only_listed_formats() -> None:
    assert identify(b"\0\0\0\x20ftypisom") == "mov"
    assert identify(b"RIFF\0\0\0\0WAVE") == "wav"
    assert identify(b"RIFF\0\0\0\0ACON") is None
    assert identify(b"") is None
    assert builtins.all(identify(p.encode()) is None for p in PLAYLISTS.values())
