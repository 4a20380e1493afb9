"""A moment named by file and time, and what the encoder makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rhyme.catalog import find_prepared
from rhyme.catalog.candidates import Candidate
from rhyme.catalog.discover import IMAGE
from rhyme.catalog.frame_runs import frame_runs
from rhyme.encoders import EncoderPackage, InferencePlan
from rhyme.errors import ConfigError, FileMissing, NoVideoStream
from rhyme.loading.inference import eval_transform
from rhyme.media import (
    R2V2_SPACING,
    FrameReader,
    MediaInfo,
    Picture,
    find_member,
    open_reader,
    sniff,
)
from rhyme.media.times import TOLERANCE, shown_at
from rhyme.tasks import encode, normalise
from rhyme.views import clip_times, moments_every

__all__ = [
    "centre_of",
    "embed_moment",
    "moment_of",
    "open_query",
    "parse_query",
    "readable_time",
]


def parse_query(text: str) -> tuple[Path, float | None]:
    """``FILE@SECONDS`` as file and time; without a time, the middle of the file.

    A file whose name holds an ``@`` is meant as it stands where no file of the shorter name exists.

    Args:
        text: what the user typed.

    Returns:
        The path, and seconds or None.

    Raises:
        ConfigError: no file name, or a time that is negative or not finite.
    """
    head, at, tail = text.rpartition("@")
    try:
        time = float(tail) if at else None
    except ValueError:
        time = None
    whole = Path(text)
    if time is None or not head or (whole.exists() and not Path(head).exists()):
        if not text:
            raise ConfigError("the query is empty", stage="search", remedy="give FILE@SECONDS")
        return whole, None
    if not math.isfinite(time) or time < 0:
        raise ConfigError(
            "the time of the query must be 0 or more seconds",
            stage="search",
            value=tail,
            remedy="give FILE@SECONDS, e.g. a.mp4@12.5",
        )
    return Path(head), time


def readable_time(time: float) -> str:
    """Seconds of a moment as a reader may type them in ``FILE@SECONDS`` to find it again.

    A frame is shown from its time on, so what has more than three decimals is rounded up: a little
    less would be the frame before.

    Args:
        time: seconds, as the store keeps them.
    """
    return f"{math.ceil(time * 1000 - 1000 * TOLERANCE / 2) / 1000:.3f}"


def open_query(path: Path, files: Sequence[str] = (), spacing: float = R2V2_SPACING) -> FrameReader:
    """A reader for whatever a path is.

    Args:
        path: a video, a picture, a folder of numbered pictures, a picture in an archive
            (``a.zip!/b.jpg``), a film in a folder of R2V2's (``ab/<id>``), or the name of one of
            them in a folder of prepared shards.
        files: the pictures of a frame folder, where they are known.
        spacing: seconds between them. Where they are not known, the pictures, their order and
            their spacing are those of a scan without options.

    Raises:
        FileMissing: no such file.
        NoVideoStream: a sound file, or a folder that is no film.
    """
    # Items of prepared shards go by the name of their source within the folder of shards.
    if not path.exists() and not any(Path(file).exists() for file in files[:1]):
        prepared = find_prepared(path)
        if prepared is not None:
            return prepared
    if files:
        return open_reader("frames", files, spacing=spacing)
    member = find_member(path)
    if member is not None:
        return Picture(member)
    if path.is_dir():
        return _open_film(path, _film_of(path))
    if not path.exists() and path.parent.is_dir():
        for film in _films(path.parent):
            if film.path == path.name:
                return _open_film(path.parent, film)
    if not path.is_file():
        raise FileMissing(
            "no such file", file=path, stage="search", remedy="give FILE@SECONDS, e.g. a.mp4@12.5"
        )
    return open_reader("image" if sniff(path).kind == "image" else "video", path)


def _films(folder: Path) -> list[Candidate]:
    """The films that a scan makes of the pictures in a folder; ``.`` is the folder's own."""
    names = sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE and not file.name.startswith(".") and file.is_file()
    )
    pictures = [(name, (folder / name).stat()) for name in names]
    return frame_runs("", folder.absolute().name, pictures)[0]


def _film_of(folder: Path) -> Candidate:
    """The film that a folder means: its own, else the only one in it."""
    films = _films(folder)
    for film in films:
        if film.path == "." or len(films) == 1:
            return film
    if films:
        raise NoVideoStream(
            f"the folder holds {len(films)} films",
            file=folder,
            stage="search",
            remedy=f"name one of them: {folder / films[0].path}",
        )
    raise NoVideoStream(
        "the folder is no film: that is two or more pictures whose names are all numbers",
        file=folder,
        stage="search",
        remedy="give a picture or a video of it",
    )


def _open_film(folder: Path, film: Candidate) -> FrameReader:
    return open_reader("frames", [folder / name for name in film.files], spacing=film.spacing)


def moment_of(reader: FrameReader, time: float | None, path: Path) -> float:
    """The time that a query means.

    Args:
        reader: of its file.
        time: seconds, or None for the middle.
        path: named in the error.

    Raises:
        ConfigError: a time beyond the end of the file.
    """
    duration = reader.info.duration
    if time is None:
        return duration / 2
    if time > duration and reader.info.kind != "image":
        raise ConfigError(
            f"the file lasts {duration:.2f} s",
            file=path,
            stage="search",
            value=time,
            remedy=f"give a time from 0 to {math.floor(100 * duration) / 100:.2f}",
        )
    return time


def embed_moment(
    package: EncoderPackage,
    reader: FrameReader,
    time: float,
    device: str | torch.device = "cpu",
    *,
    span: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """The normalised feature ``float32 [d]`` of a moment, made as the store's own are.

    Args:
        package: the encoder.
        reader: of the file.
        time: seconds; a clip is centred there.
        device: where the encoder runs.
        span: start and stop of the item in seconds, in which the clip stays; at its ends frames
            repeat. The whole file by default.
    """
    plan, info = package.plan, reader.info
    frames, _ = reader.read(_clip(plan, info, time, span or (0.0, info.duration)))
    pixels, _ = eval_transform(plan).apply(frames[None], {}, np.array([[info.height, info.width]]))
    module = package.module.eval().to(device)
    with torch.inference_mode():
        found = encode(module, pixels.to(device)).float().cpu().numpy()
    return normalise(found)[0]


def _clip(
    plan: InferencePlan, info: MediaInfo, time: float, span: tuple[float, float]
) -> NDArray[np.floating]:
    """Times ``[t]`` of a clip, as `rhyme.loading.inference_batches` takes them of an item."""
    start, counts, rate = span[0], 1, 0.0
    if info.fps > 0 and info.duration > 0:
        rate = info.fps
        total = info.frames or max(1, round(info.duration * rate))
        begin, end = (round(total * edge / info.duration) for edge in span)
        counts = max(end - begin, 1)
    (times,) = clip_times(
        np.array([time]),
        frames=plan.frames,
        spacing=plan.spacing,
        stride=plan.stride,
        fps=np.array([rate]),
        start=np.array([start]),
        counts=np.array([counts]),
    )
    return times


def centre_of(reader: FrameReader, shown: float, span: tuple[float, float], every: float) -> float:
    """The time, in seconds, on which the clip of a stored moment was centred.

    A store keeps the time from which the frame in the middle is shown. The moment itself lies
    somewhere within that frame, and the frames around it are counted from there.

    Args:
        reader: of the file.
        shown: the time that the store keeps, seconds.
        span: start and stop of its item, seconds.
        every: seconds from one moment to the next.
    """
    _, offsets = moments_every(np.array([span[1] - span[0]]), every)
    centres = span[0] + offsets
    times = reader.times[shown_at(reader.times, centres)]
    found = centres[np.abs(times - shown) < TOLERANCE]
    return float(found[0]) if len(found) else shown
