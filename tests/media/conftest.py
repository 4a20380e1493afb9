from __future__ import annotations

import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream


def picture(i: int, n: int, width: int, height: int) -> np.ndarray:
    """A frame that differs from all others and from its mirror images."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width * i // n + 1] = (255, (i * 37) % 256, 40)
    image[: height // 4, : width // 4] = (20, 250, 90)
    return image


def write_film(
    path: Path,
    *,
    n: int = 50,
    width: int = 64,
    height: int = 48,
    fps: int = 25,
    gop: int = 12,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    faststart: bool = False,
    stamps: list[int] | None = None,
    rotation: float | None = None,
    flip: bool = False,
    sound: Callable[[np.ndarray], np.ndarray] | None = None,
    sound_codec: str = "aac",
    rate: int = 22050,
    seconds: float | None = None,
    picture_of: Callable[[int, int, int, int], np.ndarray] = picture,
) -> Path:
    extra = {"movflags": "faststart"} if faststart and path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=extra) as out:
        film = out.add_stream(codec, rate=fps, options=options or {})
        assert isinstance(film, VideoStream)
        film.width, film.height, film.pix_fmt = width, height, pixels
        film.codec_context.gop_size = gop
        if rotation is not None:
            film.set_display_rotation(rotation, hflip=flip)
        track: Any = None
        if sound is not None:
            track = out.add_stream(sound_codec, rate=rate, layout="mono")
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(picture_of(i, n, width, height), format="rgb24")
            frame.pts = i if stamps is None else stamps[i]
            frame.time_base = Fraction(1, fps)
            out.mux(film.encode(frame))
        out.mux(film.encode(None))
        if sound is not None:
            count = int(rate * (n / fps if seconds is None else seconds))
            wave = sound(np.arange(count) / rate).astype(np.float32)
            form = "fltp" if sound_codec == "aac" else "s16"
            for k in range(0, count, 1024):
                block = wave[None, k : k + 1024]
                if form == "s16":
                    block = (block * 32767).astype(np.int16)
                samples = av.AudioFrame.from_ndarray(block, format=form, layout="mono")
                samples.sample_rate, samples.pts = rate, k
                samples.time_base = Fraction(1, rate)
                out.mux(track.encode(samples))
            out.mux(track.encode(None))
    return path


def write_sound(path: Path, wave: np.ndarray, rate: int, codec: str = "pcm_s16le") -> Path:
    with av.open(str(path), "w") as out:
        track: Any = out.add_stream(codec, rate=rate, layout="mono")
        for k in range(0, len(wave), 1024):
            block = (wave[None, k : k + 1024] * 32767).astype(np.int16)
            samples = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = rate, k, Fraction(1, rate)
            out.mux(track.encode(samples))
        out.mux(track.encode(None))
    return path


def oracle(path: Path) -> torch.Tensor:
    """All frames by plain sequential decoding, stored orientation."""
    with av.open(io.BytesIO(path.read_bytes())) as source:
        frames = [f.to_ndarray(format="rgb24") for f in source.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("RHYME_DATA")
    if not folder:
        pytest.skip("set RHYME_DATA to the folder with the shared real data")
    return Path(folder)


@pytest.fixture
def film(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "film.mp4", **options: Any) -> Path:
        return write_film(tmp_path / name, **options)

    return make


@pytest.fixture
def plain_decode() -> Callable[[Path], torch.Tensor]:
    return oracle


@pytest.fixture
def wave_file() -> Callable[..., Path]:
    return write_sound
