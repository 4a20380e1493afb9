"""PyAV and TorchCodec: the same frames, the same flags, and the same refusals."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from rhyme.errors import ConfigError, UnknownName
from rhyme.media import Video, choice
from rhyme.media.choice import Backend, backends, chosen
from rhyme.media.second import _unmistakable

Film = Callable[..., Path]


@pytest.fixture
def torchcodec() -> Backend:
    found = next(b for b in backends() if b.name == "torchcodec")
    if not found.usable:
        pytest.skip(f"TorchCodec: {found.reason}")
    return found


@pytest.fixture
def untried() -> Iterator[None]:
    choice._torchcodec_fails.cache_clear()
    yield
    choice._torchcodec_fails.cache_clear()


CODECS: list[tuple[str, str, str, list[str], dict[str, Any]]] = [
    ("h264", "libx264", "mp4", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"], {}),
    ("hevc", "libx265", "mp4", ["yuv420p", "yuv420p10le"], {"x265-params": "log-level=none"}),
    ("vp9", "libvpx-vp9", "webm", ["yuv420p", "yuv444p"], {"cpu-used": "8"}),
    ("mpeg4", "mpeg4", "mp4", ["yuv420p"], {"bf": "2"}),
    ("mjpeg", "mjpeg", "mov", ["yuvj420p", "yuvj444p"], {}),
    ("ffv1", "ffv1", "mkv", ["gray", "bgr0", "gbrp16le"], {}),
]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "variable": {"stamps": [i + i * i // 10 for i in range(24)]},
    "odd": {"width": 63, "height": 47},
    "later": {"stamps": [i + 30 for i in range(24)]},
    "keys": {"gop": 1},
    "long": {"gop": 250},
    "turned": {"rotation": 90.0},
    "down": {"rotation": 180.0},
}
MATRIX = [
    (codec, encoder, suffix, pixels, options, variant)
    for (codec, encoder, suffix, formats, options), variant in product(CODECS, VARIANTS)
    for pixels in formats
    # Turns are a matter of MP4; encoders of subsampled colours may take even sizes only.
    if not (variant in ("turned", "down") and suffix not in ("mp4", "mov"))
    and not (variant == "odd" and codec in ("h264", "hevc", "mjpeg") and "444" not in pixels)
]


@pytest.mark.parametrize(
    ("codec", "encoder", "suffix", "pixels", "options", "variant"),
    MATRIX,
    ids=[f"{m[0]}-{m[3]}-{m[5]}" for m in MATRIX],
)
def test_both_libraries_give_the_same_frames(
    film: Film,
    torchcodec: Backend,
    codec: str,
    encoder: str,
    suffix: str,
    pixels: str,
    options: dict[str, str],
    variant: str,
) -> None:
    if encoder not in av.codecs_available:
        pytest.skip(f"no encoder for {codec} in this build of PyAV")
    path = film(
        f"a.{suffix}", n=24, codec=encoder, pixels=pixels, options=options, **VARIANTS[variant]
    )
    random = np.random.default_rng(0)
    with Video(path, decoder="pyav") as first, Video(path, decoder="torchcodec") as second:
        assert len(first.times) == len(second.times) == 24
        for k in (random.integers(0, 24, 7), np.arange(24), np.array([23, 0, 0, 11])):
            asked = first.times[k] + 0.002
            ours, times = first.read(asked)
            theirs, shown = second.read(asked)
            assert second.served_by == "torchcodec", second._second and second._second.reason
            np.testing.assert_allclose(shown, times, atol=1e-3)
            assert ours.shape == theirs.shape
            apart = (ours.float() - theirs.float()).abs().flatten(1).mean(1)
            assert apart.max() <= 2
        assert second.corrupt == first.corrupt == 0
        assert second.info == first.info


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("a.ts", {}, "mark"),
        ("reordered.avi", {}, "stamps"),
        ("mirrored.mp4", {"rotation": 90.0, "flip": True}, "mirrored"),
        ("a.gif", {"codec": "gif", "pixels": "rgb8"}, "stamps"),
    ],
)
def test_what_torchcodec_is_not_given_pyav_reads(
    film: Film, torchcodec: Backend, name: str, options: dict[str, Any], why: str
) -> None:
    path = film(name, n=12, **options)
    with Video(path, decoder="torchcodec") as video, Video(path) as plain:
        assert torch.equal(video.frames_at(video.times), plain.frames_at(plain.times))
        assert video.served_by == "pyav"
        assert video._second is not None
        assert why in video._second.reason


def test_damage_is_flagged_by_pyav_for_both(film: Film, torchcodec: Backend) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 48, 64, 3), dtype=np.uint8)
    path = film(n=96, gop=12, faststart=True, picture_of=lambda i, *_: noise[i])
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(len(data) // 2, len(data) * 6 // 10, 24):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with Video(path, decoder="pyav") as first, Video(path, decoder="torchcodec") as second:
        served: list[str] = []
        for start in range(0, 96, 12):
            times = first.times[start : start + 12]
            assert torch.equal(first.frames_at(times), second.frames_at(times))
            served.append(second.served_by)
        assert first.corrupt == second.corrupt > 0
    # Groups of pictures without damage come from TorchCodec all the same.
    assert set(served) == {"pyav", "torchcodec"}
    assert served[0] == served[-1] == "torchcodec"


def test_torchcodec_gets_bytes_and_our_table_and_no_name(
    film: Film, torchcodec: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchcodec.decoders as library

    calls: list[tuple[object, dict[str, object]]] = []
    real = library.VideoDecoder

    def watched(source: object, **options: object) -> object:
        calls.append((source, options))
        return real(source, **options)  # pyright: ignore

    monkeypatch.setattr(library, "VideoDecoder", watched)
    path = film(n=24)
    with Video(path, decoder="torchcodec") as video:
        video.frames_at([0.5])
        assert video.served_by == "torchcodec"
    ((source, options),) = calls
    assert not isinstance(source, str | bytes | os.PathLike)
    assert not hasattr(source, "name")
    assert options["custom_frame_mappings"]
    assert "seek_mode" not in options
    assert options["num_ffmpeg_threads"] == 1


def test_other_frames_or_a_failure_go_back_to_pyav(
    film: Film, torchcodec: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchcodec.decoders as library

    path = film(n=24)
    with Video(path) as video:
        truth = video.frames_at([0.5, 0.6])
    real = library.VideoDecoder

    class Wrong:
        def __init__(self, *given: Any, **options: Any) -> None:
            self.real = real(*given, **options)

        def get_frames_at(self, indices: list[int]) -> object:
            return self.real.get_frames_at([k - 1 for k in indices])

    class Failing(Wrong):
        def get_frames_at(self, indices: list[int]) -> object:
            raise RuntimeError("please report")

    for made, why in ((Wrong, "other frames"), (Failing, "please report")):
        monkeypatch.setattr(library, "VideoDecoder", made)
        with Video(path, decoder="torchcodec") as video:
            assert torch.equal(video.frames_at([0.5, 0.6]), truth)
            assert video.served_by == "pyav"
            assert video._second is not None
            assert why in video._second.reason


def test_groups_are_judged_once_in_a_process(film: Film, torchcodec: Backend) -> None:
    path = film(n=120, gop=12)
    with Video(path, decoder="torchcodec") as video:
        video.frames_at(video.times[[14, 20]])
        assert video.decoded_frames <= 12
    with Video(path, decoder="torchcodec") as video:
        video.frames_at(video.times[[13, 23]])
        assert video.served_by == "torchcodec"
        assert video.decoded_frames == 0
        copy = pickle.loads(pickle.dumps(video))
        copy.frames_at([0.5])
        assert copy.served_by == "torchcodec"
        copy.close()


def test_marks_that_only_one_container_has() -> None:
    assert _unmistakable(b"\0\0\0\x20ftypisom\0\0\x02\0")
    assert _unmistakable(b"\x1a\x45\xdf\xa3" + bytes(12))
    assert _unmistakable(b"RIFF\0\0\0\0AVI LIST")
    # A transport stream may begin with four bytes of anything, e.g. of a session description.
    assert not _unmistakable(b"v=0\nG" + bytes(11))
    assert not _unmistakable(b"v=0\nfree" + bytes(8))
    assert not _unmistakable(b"#EXTM3U\n" + bytes(8))


def test_the_variable_chooses(monkeypatch: pytest.MonkeyPatch, torchcodec: Backend) -> None:
    for value, expected in (("", "pyav"), ("auto", "pyav"), ("PyAV ", "pyav")):
        monkeypatch.setenv("RHYME_DECODER", value)
        assert chosen() == expected
    monkeypatch.setenv("RHYME_DECODER", "torchcodec")
    assert chosen() == "torchcodec"
    monkeypatch.setenv("RHYME_DECODER", "torchcodek")
    with pytest.raises(UnknownName, match="torchcodec"):
        chosen()


@pytest.mark.parametrize("state", ["absent", "broken", "changed"])
def test_a_library_that_cannot_be_used_is_a_reason(
    film: Film, monkeypatch: pytest.MonkeyPatch, untried: None, state: str
) -> None:
    broken = types.ModuleType("torchcodec.decoders")
    if state == "broken":

        class Finder:
            def find_spec(self, name: str, *rest: object) -> None:
                if name.startswith("torchcodec"):
                    raise RuntimeError("libavutil.so.57: cannot open\nmore lines")

        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
        for name in [n for n in sys.modules if n.startswith("torchcodec")]:
            monkeypatch.delitem(sys.modules, name)
    elif state == "absent":
        monkeypatch.setitem(sys.modules, "torchcodec", None)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    else:
        broken.VideoDecoder = lambda *given, **options: object()  # pyright: ignore
        monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", broken)
    found = {b.name: b for b in backends()}
    assert found["pyav"].usable
    assert not found["torchcodec"].usable
    word = {"absent": "not installed", "broken": "libavutil", "changed": "does not decode"}[state]
    assert word in found["torchcodec"].reason
    monkeypatch.setenv("RHYME_DECODER", "torchcodec")
    with pytest.raises(ConfigError, match="torchcodec"), Video(film(n=3)) as video:
        video.frames_at([0.0])
    monkeypatch.setenv("RHYME_DECODER", "auto")
    with Video(film("b.mp4", n=3)) as video:
        assert video.frames_at([0.0]).shape == (1, 3, 48, 64)
