"""The sound of a file, on the clock of its pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from torch import Tensor

from rhyme.errors import EmptyMedia, MediaError, UnsupportedMedia
from rhyme.media.container import Opened, audio_stream, codec_name, guard
from rhyme.media.info import AudioInfo
from rhyme.media.limits import Limits

_PREROLL = 0.25
"""Seconds decoded before the wanted window: codecs need a few blocks to settle, filters a tail."""

_GAP = 0.02
"""Seconds by which time stamps may jitter before a hole or an overlap in the sound is believed."""


def audio_info(opened: Opened) -> AudioInfo | None:
    """What is known of a file's main sound track from its header; None without one."""
    stream = audio_stream(opened)
    if stream is None:
        return None
    context = stream.codec_context
    return AudioInfo(rate=context.sample_rate, channels=context.channels, codec=codec_name(stream))


class AudioTrack:
    """The main sound track of one file.

    Args:
        path: a local path.
        origin: time on the file's clock that counts as 0, in seconds; None takes the first sample.
        limits: bounds.

    Raises:
        UnsupportedMedia: there is no sound track that may be decoded.
    """

    def __init__(self, path: str | Path, *, origin: float | None, limits: Limits) -> None:
        self.path = Path(path)
        self.limits = limits
        self._opened = Opened(path, limits)
        self._owner = os.getpid()
        stream = audio_stream(self._opened)
        if stream is None:
            self._opened.close()
            raise UnsupportedMedia("no sound track that can be decoded", file=path, stage="audio")
        self.stream: AudioStream = stream
        self.rate = int(stream.codec_context.sample_rate)
        self.channels = int(stream.codec_context.channels)
        base = float(stream.time_base or 1)
        self.origin = float((stream.start_time or 0) * base) if origin is None else origin
        self._base = base
        self._fresh = True

    @property
    def demuxer(self) -> str:
        """The container format."""
        return self._opened.demuxer

    def extent(self) -> tuple[float, bool, int]:
        """Seconds of sound by its packets, whether it ends early, and the file's bytes.

        Raises:
            EmptyMedia: there is no sound in the track.
        """
        last, partial = self.origin, False
        try:
            with guard(self.path, "scan"):
                for packet in self._opened.container.demux(self.stream):
                    if packet.pts is not None:
                        last = max(last, (packet.pts + int(packet.duration or 0)) * self._base)
                    partial |= packet.is_corrupt
        except MediaError:
            partial = True
        self._fresh = False
        duration = float(last - self.origin)
        if duration <= 0:
            raise EmptyMedia("the sound track holds no sample", file=self.path, stage="scan")
        self.limits.check("duration", duration, file=self.path, stage="scan")
        declared = float((self.stream.duration or 0) * self._base)
        cut = partial or self._opened.cut or duration < 0.95 * declared
        return duration, cut, self._opened.size

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def read(self, start_s: float, stop_s: float, rate: int) -> Tensor:
        """Sound of a window.

        Args:
            start_s: seconds after the origin; may be negative.
            stop_s: end, in seconds.
            rate: samples per second of the result.

        Returns:
            float32 ``[channels, round((stop_s - start_s) * rate)]``, finite, silence where there
            is none.

        Raises:
            MediaError: the window is empty or not finite, or the request passes the limits.
        """
        if not (math.isfinite(start_s) and math.isfinite(stop_s)) or stop_s < start_s or rate < 1:
            raise MediaError(
                "a sound window needs finite start <= stop and a rate of 1 or more",
                file=self.path,
                stage="audio",
                value=(start_s, stop_s, rate),
            )
        if self._owner != os.getpid():
            raise MediaError(
                "a decoder opened in one process is used in another",
                file=self.path,
                stage="audio",
                remedy="hand the path to the worker and open the file there",
            )
        count = round((stop_s - start_s) * rate)
        window = (stop_s - start_s + 4 * _PREROLL) * max(rate, self.rate)
        needed = window * self.channels * 4
        self.limits.check("request_bytes", needed, file=self.path, stage="audio")
        begin = math.floor((start_s - _PREROLL) * self.rate)
        length = math.ceil((stop_s + _PREROLL) * self.rate) - begin
        source = self._window(begin, length)
        if rate != self.rate:
            source = resample(source, self.rate, rate)
        offset = round((start_s - begin / self.rate) * rate)
        out = np.zeros((self.channels, count), dtype=np.float32)
        part = source[:, offset : offset + count]
        out[:, : part.shape[1]] = part
        return torch.from_numpy(out)

    def _window(self, begin: int, length: int) -> np.ndarray:
        """Samples ``begin .. begin + length`` after the origin at the file's own rate."""
        out = np.zeros((self.channels, length), dtype=np.float32)
        self._place(begin / self.rate + self.origin - _PREROLL)
        run: list[np.ndarray] = []
        offsets: list[float] = []
        filled = 0
        for frame in self._frames():
            data = self._samples(frame)
            place = float(filled)
            if frame.pts is not None:
                clock = float(frame.pts * (frame.time_base or self._base))
                place = (clock - self.origin) * self.rate - begin
            offset = place - filled
            if offsets and abs(offset - offsets[-1]) > _GAP * self.rate:
                _write(out, run, offsets)
                run, offsets, offset, filled = [], [], place, 0
            if place >= length + _GAP * self.rate:
                break
            run.append(data)
            offsets.append(offset)
            filled += data.shape[1]
        _write(out, run, offsets)
        return out

    def _place(self, clock: float) -> None:
        """Go to a time on the file's clock, or to the first packet where that is not after it."""
        first = float((self.stream.start_time or 0) * self._base)
        if clock > first + _PREROLL:
            try:
                with guard(self.path, "audio"):
                    self._opened.container.seek(
                        int(clock / self._base), stream=self.stream, backward=True
                    )
                self._fresh = False
                return
            except MediaError:
                self._fresh = False
        if not self._fresh:
            # A fresh container is the only sure way to the very first packet (encoder delay).
            self._opened.close()
            self._opened = Opened(self.path, self.limits)
            stream = audio_stream(self._opened)
            if stream is None:
                raise UnsupportedMedia("the sound track is gone", file=self.path, stage="audio")
            self.stream = stream
        self._fresh = False

    def _frames(self) -> Iterator[AudioFrame]:
        """Decoded blocks from here on; damaged packets are skipped, damage in the file ends it."""
        packets = iter(self._opened.container.demux(self.stream))
        context = self.stream.codec_context
        while True:
            try:
                with guard(self.path, "audio"):
                    packet = next(packets, None)
            except MediaError:
                return
            if packet is None:
                return
            end = packet.size == 0 and packet.pts is None
            try:
                with guard(self.path, "audio"):
                    frames = context.decode(None if end else packet)
            except MediaError:
                frames = []
            yield from frames
            if end:
                return

    def _samples(self, frame: AudioFrame) -> np.ndarray:
        """One block as finite float32 ``[channels, n]`` at the track's rate."""
        with guard(self.path, "audio"):
            data = frame.to_ndarray()
            if not frame.format.is_planar:
                data = data.reshape(-1, frame.layout.nb_channels).T
        if data.dtype.kind == "u":
            values = (data.astype(np.float32) - 128.0) / 128.0
        elif data.dtype.kind == "i":
            values = data.astype(np.float32) / float(1 << (8 * data.dtype.itemsize - 1))
        else:
            values = np.nan_to_num(data.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        if frame.sample_rate not in (0, self.rate):
            values = resample(values, frame.sample_rate, self.rate)
        if values.shape[0] != self.channels:
            values = np.broadcast_to(
                values.mean(0, keepdims=True), (self.channels, values.shape[1])
            )
        return values


def _write(out: np.ndarray, run: list[np.ndarray], offsets: list[float]) -> None:
    """Put blocks that follow each other without a gap in their place.

    Some containers round time stamps to milliseconds, many samples. The blocks themselves join
    without a seam, so each stamp bounds the place of the run, and the middle of what all bounds
    leave is right to about a sample. Blocks of whole milliseconds (Opus) are all rounded alike, so
    there half a millisecond may stay.
    """
    if not run:
        return
    data = np.concatenate(run, axis=1)
    place = round((max(offsets) + min(offsets)) / 2)
    low, high = max(place, 0), min(place + data.shape[1], out.shape[1])
    if low < high:
        out[:, low:high] = data[:, low - place : high - place]


def resample(source: np.ndarray, old: int, new: int) -> np.ndarray:
    """Band-limited resampling, one channel at a time so that any channel layout will do.

    Args:
        source: float32 ``[channels, n]``.
        old: its samples per second.
        new: samples per second wanted.

    Returns:
        float32 ``[channels, m]``; sample 0 stays at the time of sample 0.
    """
    rows: list[np.ndarray] = []
    for row in source:
        filtering = AudioResampler(format="fltp", layout="mono", rate=new)
        block = AudioFrame.from_ndarray(row[None].copy(), format="fltp", layout="mono")
        block.sample_rate = old
        parts = [f.to_ndarray() for f in [*filtering.resample(block), *filtering.resample(None)]]
        rows.append(np.concatenate([*parts, np.zeros((1, 0), dtype=np.float32)], axis=1)[0])
    length = min((len(row) for row in rows), default=0)
    return np.stack([row[:length] for row in rows]) if rows else source
