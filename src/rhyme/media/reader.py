"""One way to open whatever an item is, and to learn facts about a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rhyme.errors import MediaError, NoVideoStream, TruncatedMedia, UnknownName, nearest
from rhyme.media.container import codec_name
from rhyme.media.info import AudioInfo, Depth, Kind, MediaInfo
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.picture import R2V2_SPACING, FrameFolder, Picture
from rhyme.media.sniff import sniff
from rhyme.media.sound import AudioTrack
from rhyme.media.video import Video


@runtime_checkable
class FrameReader(Protocol):
    """What `Video`, `FrameFolder`, `Picture` and `Sound` have in common."""

    @property
    def info(self) -> MediaInfo:
        """Facts about the file."""
        ...

    @property
    def times(self) -> np.ndarray:
        """float64 ``[n]``: frame k is shown from ``times[k]`` seconds, ``times[0] = 0``."""
        ...

    def read(self, times_s: Sequence[float] | np.ndarray | Tensor) -> tuple[Tensor, np.ndarray]:
        """Pictures uint8 ``[t, 3, h, w]`` shown at the times, and their own times ``[t]``."""
        ...

    def frames_at(self, times_s: Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """Pictures uint8 ``[t, 3, h, w]`` shown at the times."""
        ...

    def audio(self, start_s: float, stop_s: float, rate: int) -> Tensor | None:
        """Sound float32 ``[channels, round((stop_s - start_s) * rate)]``, or None."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Sound:
    """A sound file: no pictures, a clock that starts with the first sample.

    Opened lazily, inside the process that reads it.

    Args:
        path: a local path.
        limits: bounds checked before memory is allocated.
    """

    def __init__(self, path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        self.limits = limits
        self.decoded_frames = 0
        self.corrupt = 0
        self._track: AudioTrack | None = None
        self._info: MediaInfo | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "limits": self.limits}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(str(state["path"]), limits=state["limits"])  # pyright: ignore

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._track is not None:
            self._track.close()
            self._track = None

    def _open(self) -> AudioTrack:
        if self._track is None:
            self._track = AudioTrack(self.path, origin=None, limits=self.limits)
        return self._track

    @property
    def info(self) -> MediaInfo:
        """Facts about the sound; width, height, fps and frames are 0.

        Raises:
            MediaError: the file cannot be used.
        """
        if self._info is None:
            track = self._open()
            duration, partial, size = track.extent()
            self._info = MediaInfo(
                kind="audio",
                container=track.demuxer,
                duration=duration,
                fps=0.0,
                frames=0,
                width=0,
                height=0,
                codec=codec_name(track.stream),
                audio=AudioInfo(
                    rate=track.rate, channels=track.channels, codec=codec_name(track.stream)
                ),
                start=track.origin,
                usable=((0.0, duration),),
                partial=partial,
                bytes=size,
                depth="packets",
            )
        return self._info

    @property
    def times(self) -> np.ndarray:
        """Empty: there are no frames."""
        return np.zeros(0, dtype=np.float64)

    def read(self, times_s: Sequence[float] | np.ndarray | Tensor) -> tuple[Tensor, np.ndarray]:
        """There are no pictures.

        Args:
            times_s: must be empty.

        Returns:
            An empty tensor and no times.

        Raises:
            NoVideoStream: times are asked for.
        """
        if len(times_s):
            raise NoVideoStream("a sound file has no pictures", file=self.path, stage="read")
        return torch.empty((0, 3, 0, 0), dtype=torch.uint8), self.times

    def frames_at(self, times_s: Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """There are no pictures; see `read`.

        Args:
            times_s: must be empty.

        Returns:
            An empty tensor.
        """
        return self.read(times_s)[0]

    def audio(self, start_s: float, stop_s: float, rate: int) -> Tensor | None:
        """Sound of a window; see `rhyme.media.Video.audio`.

        Args:
            start_s: seconds after the first sample.
            stop_s: end, in seconds.
            rate: samples per second of the result.

        Returns:
            float32 ``[channels, round((stop_s - start_s) * rate)]``.
        """
        return self._open().read(start_s, stop_s, rate)


def open_reader(
    kind: Kind,
    paths: str | Path | Sequence[str | Path],
    *,
    spacing: float = R2V2_SPACING,
    limits: Limits = DEFAULT_LIMITS,
) -> FrameReader:
    """A reader for an item; nothing is opened yet.

    Args:
        kind: ``"video"``, ``"frames"``, ``"image"`` or ``"audio"``.
        paths: the file, or for ``"frames"`` the picture files in order.
        spacing: seconds between frames of a frame folder.
        limits: bounds checked before memory is allocated.

    Returns:
        The reader.

    Raises:
        UnknownName: no such kind.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if kind == "frames":
        return FrameFolder(listed, spacing=spacing, limits=limits)
    makers = {"video": Video, "image": Picture, "audio": Sound}
    if kind not in makers:
        raise UnknownName(
            "no such kind of media", value=kind, remedy=nearest(kind, [*makers, "frames"])
        )
    return makers[kind](listed[0], limits=limits)


def probe(
    path: str | Path, depth: Depth = "header", *, limits: Limits = DEFAULT_LIMITS
) -> MediaInfo:
    """Facts about one file.

    Args:
        path: a video, picture or sound file.
        depth: ``"header"`` trusts what the header says and decodes one picture, ``"packets"``
            reads all packets and decodes one picture, or looks whether a picture file goes on to
            its end, ``"frames"`` decodes everything and finds damage.
        limits: bounds checked before memory is allocated.

    Returns:
        The facts.

    Raises:
        MediaError: the file cannot be used; the subclass says why.
    """
    if sniff(path, limits=limits).kind == "image":
        with Picture(path, limits=limits) as picture:
            info = picture.info
            picture.check(depth)
            return replace(info, depth=depth)
    try:
        with Video(path, limits=limits) as video:
            if depth == "header":
                return video.header()
            info = video.info
            return info if depth == "packets" else _decode_all(video, info)
    except NoVideoStream as refusal:
        try:
            with Sound(path, limits=limits) as sound:
                return replace(sound.info, depth=depth)
        except MediaError:
            raise refusal from None


def _decode_all(video: Video, info: MediaInfo) -> MediaInfo:
    """Decode every frame, and say where the file is sound."""
    bad = video.damaged_frames()
    times = video.times
    if len(bad) == len(times):
        raise TruncatedMedia(
            "no picture could be decoded without damage", file=video.path, stage="decode"
        )
    good = np.ones(len(times), dtype=bool)
    good[bad] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    ends = np.append(times, info.duration)
    ranges = tuple(
        (float(ends[a]), float(ends[b])) for a, b in zip(edges[::2], edges[1::2], strict=True)
    )
    return replace(
        info,
        usable=ranges,
        partial=info.partial or len(bad) > 0,
        corrupt_frames=len(bad),
        depth="frames",
    )
