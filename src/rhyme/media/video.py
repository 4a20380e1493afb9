"""A video file addressed by time.

The file is opened lazily, inside the process that reads it. Packets alone give the frame-time
table; a request for any number of times is sorted and decodes every group of pictures at most
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from torch import Tensor

from rhyme.errors import TruncatedMedia
from rhyme.media.choice import Decoder, chosen
from rhyme.media.container import codec_name, encrypted, guard, is_encrypted
from rhyme.media.decoder import FrameDecoder, Session
from rhyme.media.info import Depth, MediaInfo
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.orient import UPRIGHT, Orientation, from_display_matrix
from rhyme.media.second import Second
from rhyme.media.sound import AudioTrack, audio_info
from rhyme.media.table import FrameTable, scan_packets
from rhyme.media.times import check_request, shown_at


class Video:
    """One video file: facts, frame times, pictures and sound.

    Nothing is opened before the first use. An object that is open does not cross a fork; it
    pickles as its arguments only.

    Args:
        path: a local path, taken literally.
        limits: bounds checked before memory is allocated.
        decoder: the library that decodes; None leaves it to ``RHYME_DECODER``.

    Attributes:
        path: the path.
        limits: the bounds.
        decoder: as given.
        corrupt: distinct returned pictures that were damaged, or missing and stood in for by the
            one before.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        limits: Limits = DEFAULT_LIMITS,
        decoder: Decoder | None = None,
    ) -> None:
        self.path = Path(path)
        self.limits = limits
        self.decoder: Decoder | None = decoder
        self.corrupt = 0
        self._decoded = 0
        self._damaged: set[int] = set()
        self._clear()

    def _clear(self) -> None:
        self._session: Session | None = None
        self._convert = VideoReformatter()
        self._table: FrameTable | None = None
        self._decoder: FrameDecoder | None = None
        self._info: MediaInfo | None = None
        self._sound: AudioTrack | None = None
        self._orientation: Orientation | None = None
        self._interlaced = False
        self._second: Second | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "limits": self.limits, "decoder": self.decoder}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.corrupt = self._decoded = 0
        self._damaged = set()
        self._clear()

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
        """Close the file; the next use opens it again. Counters are kept."""
        self._decoded = self.decoded_frames
        if self._sound is not None:
            self._sound.close()
        if self._second is not None:
            self._second.close()
        if self._session is not None:
            self._session.close()
        self._clear()

    @property
    def served_by(self) -> Decoder:
        """The library that gave the last pictures; PyAV where TorchCodec could not."""
        second = self._second
        return "torchcodec" if second is not None and second.served else "pyav"

    @property
    def decoded_frames(self) -> int:
        """Pictures that left the decoder so far, wanted or not."""
        return self._decoded + (self._decoder.decoded if self._decoder is not None else 0)

    @property
    def damaged(self) -> frozenset[int]:
        """Numbers of the returned frames that were damaged, or missing and stood in for."""
        return frozenset(self._damaged)

    @property
    def info(self) -> MediaInfo:
        """Facts about the file, from its packets and its first picture.

        Raises:
            MediaError: the file cannot be used.
        """
        session = self._open()
        if self._info is None:
            known = session.known
            if known is None or known.info is None:
                self._info = self._facts()
                self._open().learn(self.table, self._info)
            else:
                self._info = known.info
        return self._info

    @property
    def times(self) -> np.ndarray:
        """float64 ``[n]``: frame k is shown from ``times[k]`` seconds after the first shown frame.

        Raises:
            MediaError: the file cannot be used.
        """
        return self.table.times

    @property
    def table(self) -> FrameTable:
        """The frame-time table; reading it first scans the packets.

        Raises:
            MediaError: the file cannot be used.
        """
        session = self._open()
        if self._table is None:
            if session.known is None:
                session.at_start()
                session.fresh = False
                session.learn(scan_packets(session.opened, session.stream, self.limits))
            assert session.known is not None
            self._table = session.known.table
        return self._table

    def frames_at(self, times_s: Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """The pictures shown at the given times.

        Args:
            times_s: seconds after the first shown frame, ``[t]``, in any order, repeats allowed;
                times before the first frame give the first, times after the last the last.

        Returns:
            uint8 ``[t, 3, h, w]``, RGB, rotation applied; a picture of another size than the
            header's is scaled to it. In memory the three values of a pixel are neighbours
            (``torch.channels_last``), as decoders write and resizing likes them.

        Raises:
            MediaError: the file cannot be used, or the request passes the limits.
        """
        return self.read(times_s)[0]

    def read(self, times_s: Sequence[float] | np.ndarray | Tensor) -> tuple[Tensor, np.ndarray]:
        """The pictures shown at the given times, and when each of them was first shown.

        Args:
            times_s: as in `frames_at`.

        Returns:
            uint8 ``[t, 3, h, w]`` and float64 ``[t]``, the times of the pictures returned.

        Raises:
            MediaError: the file cannot be used, or the request passes the limits.
        """
        table = self.table
        session = self._open()
        index = shown_at(table.times, times_s)
        check_request(len(index), session.width, session.height, self.limits, self.path)
        if len(index) == 0:
            info = self.info
            return torch.empty((0, 3, info.height, info.width), dtype=torch.uint8), table.times[:0]
        wanted, where = np.unique(index, return_inverse=True)
        given = self._by_second(wanted.tolist())
        if given is not None:
            if len(wanted) < len(index) or np.any(np.diff(where) < 0):
                given = given.index_select(0, torch.from_numpy(where))
            return given.permute(0, 3, 1, 2), table.times[index]
        out: Tensor | None = None
        target = np.zeros(0, dtype=np.uint8)
        decoder = self._frame_decoder()
        for place, (k, frame, sound) in enumerate(decoder.frames([int(k) for k in wanted])):
            with guard(self.path, "decode"):
                picture = self._picture(frame, session)
            if out is None:
                out = torch.empty((len(index), *picture.shape), dtype=torch.uint8)
                target = out.numpy()
            for slot in np.flatnonzero(where == place):
                target[slot] = picture
            if not sound and k not in self._damaged:
                self._damaged.add(k)
                self.corrupt += 1
        if out is None:
            raise TruncatedMedia("no picture could be decoded", file=self.path, stage="decode")
        return out.permute(0, 3, 1, 2), table.times[index]

    def audio(self, start_s: float, stop_s: float, rate: int) -> Tensor | None:
        """Sound on the clock of the pictures.

        Args:
            start_s: seconds after the first shown frame; may be negative.
            stop_s: end, in seconds.
            rate: samples per second of the result.

        Returns:
            float32 ``[channels, round((stop_s - start_s) * rate)]``, silence where the file has
            no sound, aligned to the pictures to within one sample of the slower of the two
            rates; Opus in Matroska to within a millisecond, as its stamps are, and MP3 in AVI late
            by its encoder's delay (some 1105 samples), which the file does not tell. None without
            a sound track that may be decoded.

        Raises:
            MediaError: the file cannot be used, or the request passes the limits.
        """
        session = self._open()
        if not session.has_sound:
            return None
        if self._sound is None:
            self._sound = AudioTrack(self.path, origin=self.table.start, limits=self.limits)
        return self._sound.read(start_s, stop_s, rate)

    def damaged_frames(self) -> list[int]:
        """Decode every frame and list those that are damaged or missing.

        Raises:
            MediaError: the file cannot be used.
        """
        decoder = self._frame_decoder()
        return [k for k, _, sound in decoder.frames(list(range(len(self.times)))) if not sound]

    def header(self) -> MediaInfo:
        """Facts as the header states them, one picture decoded, without a scan of a long file.

        A file whose header cannot be believed, e.g. one that was cut, is scanned all the same.

        Raises:
            MediaError: the file cannot be used.
        """
        session = self._open(probe=True)
        duration, rate = session.opened.stated(session.stream)
        if self._table is not None or min(duration, rate) <= 0 or not session.believable(duration):
            return self.info
        self.limits.check("duration", duration, file=self.path, stage="open")
        self.limits.check("frames", session.stream.frames, file=self.path, stage="open")
        first = self._first_picture(session)
        return self._describe(
            duration=duration,
            fps=rate,
            frames=session.opened.shown(session.stream, round(duration * rate)) or None,
            start=float((first.pts or 0) * (session.stream.time_base or 1)),
            depth="header",
        )

    def _open(self, *, probe: bool = False) -> Session:
        """The open file, opened now if need be; with `probe`, its stream's own facts read too."""
        if probe and self._session is not None and not self._session.probed:
            self._decoded, self._decoder = self.decoded_frames, None
            self._session.close()
            self._session = None
        if self._session is None:
            self._session = Session(self.path, self.limits, probe=probe)
        self._session.check()
        return self._session

    def _frame_decoder(self) -> FrameDecoder:
        table = self.table
        if self._decoder is None:
            self._decoder = FrameDecoder(self._open(), table)
        return self._decoder

    def _by_second(self, wanted: list[int]) -> Tensor | None:
        """Pictures uint8 ``[n, h, w, 3]`` by TorchCodec, or None where PyAV serves."""
        if (self.decoder or chosen()) == "pyav":
            return None
        if self._second is None:
            self._second = Second(self._look)
        return self._second.pictures(self._open(), self._frame_decoder(), wanted)

    def _first_picture(self, session: Session) -> VideoFrame:
        """Decode from the start until the first picture comes out, and learn from it."""
        session.at_start()
        with guard(self.path, "decode"):
            for packet in session.packets():
                if is_encrypted(packet):
                    raise encrypted(self.path)
                for frame in session.stream.decode(packet):
                    self._decoded += 1
                    self._look(frame)
                    return frame
        raise TruncatedMedia("no picture could be decoded", file=self.path, stage="decode")

    def _facts(self) -> MediaInfo:
        session = self._open(probe=True)
        table = self.table
        if self._orientation is None:
            for _, frame, _ in self._frame_decoder().frames([0]):
                self._look(frame)
        steps = np.diff(table.times)
        span = float(table.times[-1])
        n = len(table.times)
        return self._describe(
            duration=table.duration,
            fps=(n - 1) / span if span > 0 else float(session.stream.average_rate or 0) or 1.0,
            frames=n,
            start=table.start,
            partial=table.partial,
            repaired=table.repaired,
            variable=n > 2 and float(steps.max() - steps.min()) > 0.1 * float(np.median(steps)),
            depth="packets",
        )

    def _describe(
        self,
        *,
        duration: float,
        fps: float,
        frames: int | None,
        start: float,
        depth: Depth,
        partial: bool = False,
        repaired: bool = False,
        variable: bool = False,
    ) -> MediaInfo:
        """The given facts and those of the streams."""
        session = self._open()
        orientation = self._orientation or UPRIGHT
        width, height = orientation.size(session.width, session.height)
        return MediaInfo(
            kind="video",
            container=session.opened.demuxer,
            duration=duration,
            fps=fps,
            frames=frames,
            width=width,
            height=height,
            codec=codec_name(session.stream),
            rotation=orientation.rotation,
            audio=audio_info(session.opened),
            start=start,
            usable=((0.0, duration),),
            partial=partial,
            repaired=repaired,
            variable=variable,
            interlaced=self._interlaced,
            pixel_aspect=float(session.stream.sample_aspect_ratio or 1) or 1.0,
            bytes=session.opened.size,
            depth=depth,
        )

    def _look(self, frame: VideoFrame) -> Orientation:
        """Learn from a picture how the stream is turned."""
        self.limits.check_picture(frame.width, frame.height, file=self.path, stage="decode")
        data = frame.side_data.get("DISPLAYMATRIX")
        self._orientation = UPRIGHT if data is None else from_display_matrix(bytes(data))
        self._interlaced = self._interlaced or frame.interlaced_frame
        return self._orientation

    def _picture(self, frame: VideoFrame, session: Session) -> np.ndarray:
        """A decoded picture as RGB ``[h, w, 3]`` uint8, turned upright."""
        if self._orientation is None:
            self._look(frame)
        self.limits.check_picture(frame.width, frame.height, file=self.path, stage="decode")
        # One converter for all pictures, on one thread: setting up each anew costs far more.
        upright = self._convert.reformat(frame, session.width, session.height, "rgb24", threads=1)
        return (self._orientation or UPRIGHT).apply(upright.to_ndarray())
