"""From frame numbers to decoded pictures, with as little decoding as the file allows."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rhyme.errors import MediaError, TruncatedMedia
from rhyme.media.container import Opened, audio_stream, codec_name, guard, video_stream
from rhyme.media.info import MediaInfo
from rhyme.media.known import KNOWN, Known, Verdicts, identity_at
from rhyme.media.limits import Limits
from rhyme.media.table import FrameTable

_SKIP = 3
"""Fewest packets worth jumping over; fewer are decoded and dropped."""

_COMPLETE = frozenset(("mov", "matroska"))
"""Containers whose header says all that a decoder must know before the first packet."""

_SPARES = frozenset(("h264", "mpeg4", "mpeg1video", "mpeg2video"))
"""Codecs in which a picture marked as no reference is one that no other picture needs."""


class Session:
    """A video file opened by this process, with its main video stream.

    A stream belongs to one opening: take it from here each time, never keep it.

    Args:
        path: a local path.
        limits: bounds checked while opening.
        probe: decode the first pictures even where the file is known; facts about the file need it.

    Attributes:
        known: what an earlier opening found out, or None; set it with `learn`.
        probed: the stream's own facts were read from its first pictures, not only from the header.

    Raises:
        MediaError: the file cannot be used.
    """

    def __init__(self, path: Path, limits: Limits, *, probe: bool = False) -> None:
        self.path = path
        self.limits = limits
        self.owner = os.getpid()
        self.opened: Opened
        self.stream: VideoStream
        identity = identity_at(path)
        self.known = KNOWN.get(identity, limits)
        self.probed = probe or self.known is None or not self.known.complete
        self._open()
        if self.known is not None and self.opened.identity != identity:
            # The file was replaced between the look and the opening.
            self.opened.close()
            self.known, self.probed = None, True
            self._open()
        if self.known is None:
            context = self.stream.codec_context
            self.width, self.height = int(context.width), int(context.height)
            self._reorder = int(context.reorder_depth)
            self.has_sound = audio_stream(self.opened) is not None
        else:
            self.width, self.height = self.known.width, self.known.height
            self._reorder = self.known.reorder
            self.has_sound = self.known.sound

    def _open(self) -> None:
        self.opened = Opened(self.path, self.limits, probe=self.probed)
        self.fresh = True
        try:
            with guard(self.path, "open"):
                self.stream = video_stream(self.opened, self.limits)
                if self.known is not None and not self.probed:
                    self.stream.codec_context.reorder_depth = self.known.reorder
        except Exception:
            self.opened.close()
            raise

    def learn(self, table: FrameTable, info: MediaInfo | None = None) -> None:
        """Remember what was found out, for this and later openings by this process."""
        self.known = Known(
            table=table,
            width=self.width,
            height=self.height,
            reorder=self._reorder,
            sound=self.has_sound,
            complete=self.opened.demuxer in _COMPLETE,
            info=info,
            verdicts=Verdicts() if self.known is None else self.known.verdicts,
        )
        KNOWN.put(self.opened.identity, self.limits, self.known)

    def check(self) -> None:
        """Refuse use by another process than the one that opened the file.

        Raises:
            MediaError: this is another process.
        """
        if self.owner != os.getpid():
            raise MediaError(
                "a decoder opened in one process is used in another",
                file=self.path,
                stage="open",
                value=(self.owner, os.getpid()),
                remedy="hand the path to the worker and open the video there",
            )

    def at_start(self) -> None:
        """Go to the first packet; by opening again, the only way that is sure in every format."""
        if not self.fresh:
            self.opened.close()
            self._open()

    def believable(self, duration: float) -> bool:
        """Whether the header's duration, in seconds, agrees with the last picture."""
        self.fresh &= self.opened.demuxer == "mov"  # elsewhere the end is sought
        return self.opened.believable(self.stream, duration)

    def packets(self) -> Iterator[Packet]:
        """Packets of the video stream from here on."""
        self.fresh = False
        return iter(self.opened.container.demux(self.stream))

    def close(self) -> None:
        """Close the file."""
        self.opened.close()


class FrameDecoder:
    """Decodes wanted frames of one session in ascending order.

    Pictures that nobody asked for and that no other picture needs are not decoded. A file in which
    a picture turns out to be missing is decoded whole from then on.

    Args:
        session: the open file.
        table: its frame-time table.

    Attributes:
        decoded: pictures that left the decoder so far.
    """

    def __init__(self, session: Session, table: FrameTable) -> None:
        self._session = session
        self._table = table
        self.decoded = 0
        self._packets: Iterator[Packet] | None = None
        self._begun = 0
        self._fed = 0
        self._count = 0
        self._ended = False
        self._ready: deque[tuple[int, VideoFrame]] = deque()
        self._held: tuple[int, VideoFrame] | None = None
        self._spares = not table.counted and _has_spares(session.stream)
        self._wanted: frozenset[int] = frozenset()
        self._last = 0
        self._whole = True
        self._sparing: bool | None = None  # what the decoder was last told
        self._late = {} if session.known is None else session.known.verdicts.late
        self._keys: np.ndarray | None = None

    def frames(self, wanted: list[int]) -> Iterator[tuple[int, VideoFrame, bool]]:
        """Each wanted frame, its picture, and whether that picture is the frame's own and whole.

        A frame that cannot be decoded is stood in for by the last one before it, or by the first
        one of all where there is none before. Going on from where the last call ended costs no
        seek.

        Args:
            wanted: ascending frame numbers without repeats.

        Yields:
            Frame number, picture, and True where the picture is sound.

        Raises:
            TruncatedMedia: not even a stand-in could be decoded.
        """
        if self._spares:
            stamps = self._table.stamps[wanted].tolist()
            self._wanted, self._last = frozenset(stamps), max(stamps, default=0)
        if not self._whole:
            # The last call was given up; pictures that it passed over may be wanted now.
            self._packets, self._held = None, None
        self._whole = False
        for k in wanted:
            self._session.check()
            if self._held is None or self._held[0] != k:
                self._reach(k)
            if self._held is None:
                raise TruncatedMedia(
                    "no picture could be decoded",
                    file=self._session.path,
                    stage="decode",
                    value=k,
                )
            index, frame = self._held
            yield k, frame, index == k and not frame.is_corrupt
        self._whole = True

    def _reach(self, k: int) -> None:
        """Hold frame k, or the last picture before it, or the first of all where none is before.

        A key packet need not give a picture at once: where pictures are refreshed by and by, the
        first whole one may come many frames later, and a damaged one gives none. What is asked for
        before that is begun at an earlier key packet.
        """
        entry = int(self._table.entry[k])
        while self._late.get(entry, -1) > k:
            entry = self._earlier(entry)
        passed = self._packets is None or (self._held is not None and self._held[0] > k)
        if passed or entry >= self._fed + _SKIP:
            self._seek(entry)
        self._advance(k)
        steps = 1
        while self._held is None or (self._spares and self._held[0] != k):
            if self._held is None and self._begun > 0:
                self._late[entry] = self._ready[0][0] if self._ready else len(self._table.times)
                entry = self._earlier(min(entry, self._begun), steps)
                steps *= 2  # long damage is left behind in few tries
            elif self._spares:
                # Damage: the nearest picture before it must stand in, and it may be a spare.
                self._spares = False
            else:
                break
            self._seek(entry)
            self._advance(k)
        if self._held is None and self._ready:
            self._held = self._ready.popleft()

    def _earlier(self, entry: int, steps: int = 1) -> int:
        """The key packet that lies so many before another one, or the first packet."""
        if self._keys is None:
            self._keys = np.unique(self._table.entry)
        place = int(self._keys.searchsorted(entry)) - steps
        return int(self._keys[place]) if place >= 0 else 0

    def _advance(self, k: int) -> None:
        """Decode until frame k is held, or the last one before it; one behind it stays ready."""
        while True:
            item = self._next()
            if item is None:
                return
            if item[0] > k:
                self._ready.appendleft(item)
                return
            self._held = item
            if item[0] == k:
                return

    def _seek(self, entry: int) -> None:
        """Place the next packet at a key packet, or at an earlier one where seeking is inexact."""
        session, table = self._session, self._table
        if entry > 0 and not table.counted:
            place = int(np.flatnonzero(table.packet_numbers == entry)[0])
            stamp = int(table.packet_stamps[place])
            second = int(1 / (session.stream.time_base or 1))
            for back in (0, second, 10 * second):
                try:
                    with guard(session.path, "seek"):
                        session.opened.container.seek(stamp - back, stream=session.stream)
                        packets = session.packets()
                        packet = next(packets, None)
                except MediaError:
                    break
                number = None if packet is None else table.number(packet.pts)
                if packet is not None and number is not None and number <= entry:
                    self._begin(_chain(packet, packets), number)
                    return
        session.at_start()
        self._begin(session.packets(), 0)

    def _begin(self, packets: Iterator[Packet], number: int) -> None:
        self._packets, self._begun, self._fed, self._count = packets, number, number, 0
        self._ended, self._held, self._sparing = False, None, None
        self._ready.clear()

    def _next(self) -> tuple[int, VideoFrame] | None:
        """The next shown picture that the decoder gives, with its number, or None at the end."""
        table = self._table
        while not self._ready:
            if self._ended or self._packets is None:
                return None
            for frame in self._feed(self._packets):
                self.decoded += 1
                index = table.index(frame.pts)
                if table.counted:
                    index = self._count if self._count < len(table.times) else None
                    self._count += 1
                if index is not None:
                    self._ready.append((index, frame))
        return self._ready.popleft()

    def _feed(self, packets: Iterator[Packet]) -> list[VideoFrame]:
        """Give the decoder one packet; damage in it costs its picture, not the rest."""
        session = self._session
        try:
            with guard(session.path, "decode"):
                packet = next(packets, None)
        except MediaError:
            packet = None
        if packet is None or (packet.size == 0 and packet.pts is None and packet.dts is None):
            self._ended = True
            packet = None
        elif packet.is_corrupt and session.opened.cuts_packets:
            # The table leaves out packets that were cut off, so they are not counted here either.
            return []
        else:
            self._fed += 1
        context = session.stream.codec_context
        try:
            with guard(session.path, "decode"):
                sparing = self._spare(packet)
                if sparing is not self._sparing:  # telling it costs more than asking ourselves
                    context.skip_frame = "NONREF" if sparing else "DEFAULT"
                    self._sparing = sparing
                return context.decode(packet)
        except MediaError:
            return []

    def _spare(self, packet: Packet | None) -> bool:
        """Whether this call does without the packet's picture, if other pictures do too.

        Pictures after the last wanted one are decoded: the next call may go on with them.
        """
        if not self._spares or packet is None or packet.pts is None:
            return False
        return packet.pts < self._last and packet.pts not in self._wanted


def _has_spares(stream: VideoStream) -> bool:
    """Whether the decoder may be told to leave out pictures marked as no reference.

    In HEVC the mark speaks of one temporal layer only, so there must be but one.
    """
    codec = codec_name(stream)
    if codec == "hevc":
        extra = stream.codec_context.extradata or b""
        return len(extra) > 22 and extra[0] == 1 and (extra[21] >> 3) & 7 == 1
    return codec in _SPARES


def _chain(first: Packet, rest: Iterator[Packet]) -> Iterator[Packet]:
    yield first
    yield from rest
