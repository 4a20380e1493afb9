"""Pictures by TorchCodec, from files that PyAV has opened and judged.

TorchCodec is given the bytes of the file and our frame-time table, never a name and never a guess:

- Only containers that begin with an unmistakable mark, so that it cannot take the bytes for a
  playlist, and in which every stream's codec is allowed.
- Only groups of pictures that PyAV has decoded once in this process without finding damage or a
  picture of another size: only PyAV tells damage, and stand-ins must not depend on the library.

Whatever it cannot do, or does otherwise than the table says, PyAV does.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from rhyme.media.container import AUDIO_CODECS, VIDEO_CODECS, Reader, codec_name
from rhyme.media.decoder import FrameDecoder, Session
from rhyme.media.known import Known
from rhyme.media.orient import UPRIGHT, Orientation
from rhyme.media.sniff import identity_of, open_regular
from rhyme.media.table import FrameTable

_TURNS = frozenset(
    (
        Orientation(),
        Orientation(True, True, False),
        Orientation(False, True, True),
        Orientation(True, False, True),
    )
)
"""Rotations without mirroring."""

_TOLERANCE = 1e-3
"""Seconds by which its time of a frame may differ from the table's."""


class Unfit(Exception):
    """TorchCodec cannot serve this file, or did not serve it as it should; PyAV does."""


class Second:
    """TorchCodec beside PyAV, for one `rhyme.media.Video`.

    Args:
        look: tells how a picture that PyAV decoded is turned.

    Attributes:
        reason: why PyAV serves this file alone; empty while TorchCodec may serve it.
        served: TorchCodec gave the last pictures.
    """

    def __init__(self, look: Callable[[VideoFrame], Orientation]) -> None:
        self.reason = ""
        self.served = False
        self._look = look
        self._file: _TorchCodecFile | None = None

    def pictures(self, session: Session, decoder: FrameDecoder, wanted: list[int]) -> Tensor | None:
        """The pictures of frames, if TorchCodec may and can give them.

        Args:
            session: the file, opened by PyAV, its table known.
            decoder: PyAV's decoder, which judges.
            wanted: ascending frame numbers without repeats.

        Returns:
            uint8 ``[n, h, w, 3]``, RGB, turned; None where PyAV must serve.

        Raises:
            LimitExceeded: a picture is too large.
        """
        known = session.known
        self.served = False
        if self.reason or known is None:
            return None
        try:
            if self._file is None:
                _check(session, known.table)
            if not self._judge(session, decoder, known, wanted):
                return None
            if self._file is None:
                orientation = known.verdicts.orientation or UPRIGHT
                self._file = _TorchCodecFile(session, known.table, orientation)
            pictures = self._file.pictures(wanted)
            self.served = True
            return pictures
        except Unfit as error:
            self.close()
            self.reason = str(error)
            return None

    def _judge(
        self, session: Session, decoder: FrameDecoder, known: Known, wanted: list[int]
    ) -> bool:
        """Whether the groups of pictures of all wanted frames are sound; each is decoded once."""
        table, verdicts = known.table, known.verdicts
        entries = sorted({int(table.entry[k]) for k in wanted})
        for entry in entries:
            if entry in verdicts.sound:
                continue
            whole = True
            for _, frame, sound in decoder.frames(np.flatnonzero(table.entry == entry).tolist()):
                verdicts.orientation = verdicts.orientation or self._look(frame)
                session.limits.check_picture(
                    frame.width, frame.height, file=session.path, stage="decode"
                )
                whole &= sound and (frame.width, frame.height) == (session.width, session.height)
            verdicts.sound[entry] = whole
        return all(verdicts.sound[entry] for entry in entries)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _TorchCodecFile:
    """One file opened by TorchCodec."""

    def __init__(self, session: Session, table: FrameTable, orientation: Orientation) -> None:
        if orientation not in _TURNS:
            raise Unfit("pictures are mirrored")
        self._table = table
        self._size = orientation.size(session.width, session.height)
        self._base = float(session.stream.time_base or 1)
        self._file, _ = open_regular(session.path, limits=session.limits)
        try:
            if identity_of(os.fstat(self._file.fileno())) != session.opened.identity:
                raise Unfit("the file was replaced")
            if not _unmistakable(self._file.read(16)):
                raise Unfit("the container has no unmistakable mark")
            self._file.seek(0)
            self._decoder: Any = self._load(session.stream.index)
        except BaseException:
            self._file.close()
            raise

    def _load(self, stream: int) -> Any:
        try:
            decoders: Any = importlib.import_module("torchcodec.decoders")
            return decoders.VideoDecoder(
                Reader(self._file),
                stream_index=stream,
                num_ffmpeg_threads=1,
                device="cpu",
                custom_frame_mappings=_mappings(self._table),
            )
        except Exception as error:
            raise Unfit(f"TorchCodec refuses it: {error}") from error

    def pictures(self, wanted: list[int]) -> Tensor:
        """The pictures of frames.

        Args:
            wanted: ascending frame numbers without repeats.

        Returns:
            uint8 ``[n, h, w, 3]``, RGB, turned.

        Raises:
            Unfit: decoding failed, or gave other frames than the table names.
        """
        try:
            batch = self._decoder.get_frames_at(wanted)
            shown = np.asarray(batch.pts_seconds, dtype=np.float64)
            pictures: Tensor = batch.data
        except Exception as error:
            raise Unfit(f"TorchCodec failed: {error}") from error
        if np.abs(shown - self._table.stamps[wanted] * self._base).max() > _TOLERANCE:
            raise Unfit("TorchCodec gave other frames")
        width, height = self._size
        if pictures.shape != (len(wanted), 3, height, width) or pictures.dtype != torch.uint8:
            raise Unfit(f"TorchCodec gave pictures of {tuple(pictures.shape)}")
        return pictures.permute(0, 2, 3, 1)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._decoder = None
        self._file.close()


def _mappings(table: FrameTable) -> str:
    """The table as TorchCodec reads it."""
    keys = np.isin(table.stamps, _key_stamps(table))
    steps = np.diff(table.stamps)
    last = int(np.median(steps)) if len(steps) else 1
    lengths = np.append(steps, last)
    rows = zip(table.stamps.tolist(), lengths.tolist(), keys.tolist(), strict=True)
    return json.dumps(
        {"frames": [{"pts": p, "duration": d, "key_frame": int(k)} for p, d, k in rows]}
    )


def _key_stamps(table: FrameTable) -> np.ndarray:
    """Time stamps of the key packets that decoding begins at."""
    return table.packet_stamps[np.isin(table.packet_numbers, np.unique(table.entry))]


def _unmistakable(head: bytes) -> bool:
    """Whether FFmpeg can take these first bytes for one container only."""
    mp4 = head[:2] == b"\0\0" and head[4:8] == b"ftyp"
    avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return mp4 or avi or head[:4] == b"\x1a\x45\xdf\xa3"


def _check(session: Session, table: FrameTable) -> None:
    """Refuse a file before anything of it is decoded.

    TorchCodec's FFmpeg may start a decoder for every stream, so all of them must be allowed.

    Raises:
        Unfit: the file is not one that TorchCodec is given.
    """
    if table.counted or table.partial or table.repaired:
        raise Unfit("time stamps cannot be trusted, or the file is cut")
    for stream in session.opened.container.streams:
        if isinstance(stream, VideoStream):
            allowed = codec_name(stream) in VIDEO_CODECS
        elif isinstance(stream, AudioStream):
            allowed = codec_name(stream) in AUDIO_CODECS
        else:
            allowed = stream.type == "data"
        if not allowed:
            raise Unfit(f"it holds a stream that is not allowed: {stream.type}")
