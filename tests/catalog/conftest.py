from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image


def write_film(path: Path, seconds: float = 0.4, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        film = out.add_stream("mpeg4", rate=10)
        assert isinstance(film, VideoStream)
        film.width, film.height, film.pix_fmt = 32, 24, "yuv420p"
        for i in range(round(seconds * 10)):
            image = np.full((24, 32, 3), (shade + i) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(film.encode(frame))
        out.mux(film.encode(None))
    return path


def write_picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 10, 3), shade % 256, np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def film_bytes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], bytes]:
    folder = tmp_path_factory.mktemp("films")
    kept: dict[float, bytes] = {}

    def make(seconds: float) -> bytes:
        if seconds not in kept:
            kept[seconds] = write_film(folder / f"{seconds}.mp4", seconds).read_bytes()
        return kept[seconds]

    return make


@pytest.fixture
def films(tmp_path: Path, film_bytes: Callable[[float], bytes]) -> Callable[..., Path]:
    """Make ``data/`` with films of the given names."""

    def make(*names: str, seconds: float = 0.4) -> Path:
        root = tmp_path / "data"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(film_bytes(seconds))
        return root

    return make


@pytest.fixture
def picture() -> Callable[..., Path]:
    return write_picture


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("RHYME_DATA")
    if not folder:
        pytest.skip("set RHYME_DATA to the folder with the shared real data")
    return Path(folder)
