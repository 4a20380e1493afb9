"""The frame-time table: which frame is shown when, and which packets it takes to decode it.

It is made from packets alone; nothing is decoded. Times are seconds after the first shown frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.video.stream import VideoStream

from rhyme.errors import EmptyMedia, LimitExceeded, MediaError, TruncatedMedia
from rhyme.media.container import Opened, encrypted, guard, is_encrypted
from rhyme.media.limits import Limits

_REORDERING = frozenset(("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"))


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Shown frames in order of time, and the packets behind them.

    Args:
        times: float64 ``[n]``; frame k is shown from ``times[k]``, seconds, ``times[0] = 0``.
        stamps: int64 ``[n]``; the time stamp that the decoder puts on frame k, in time-base units;
            empty where stamps cannot be trusted and frames are counted from the start instead.
        entry: int64 ``[n]``; number (in file order) of the key packet from which decoding must
            begin to get frame k right.
        packet_stamps: int64 ``[p]``, stamps of all packets, sorted.
        packet_numbers: int64 ``[p]``, their numbers in file order.
        duration: seconds from the first shown frame to the end of the last.
        start: time of the first shown frame on the file's clock, in seconds.
        partial: the packets end before the header says so, or reading them failed.
        repaired: stamps were missing, repeated, or went backwards.
    """

    times: np.ndarray
    stamps: np.ndarray
    entry: np.ndarray
    packet_stamps: np.ndarray
    packet_numbers: np.ndarray
    duration: float
    start: float
    partial: bool
    repaired: bool

    @property
    def counted(self) -> bool:
        """Frames are found by counting from the start, not by their time stamps."""
        return len(self.stamps) == 0

    def number(self, stamp: int | None) -> int | None:
        """The number in file order of the packet with this time stamp, or None."""
        if stamp is None or self.counted:
            return None
        place = int(np.searchsorted(self.packet_stamps, stamp))
        if place == len(self.packet_stamps) or self.packet_stamps[place] != stamp:
            return None
        return int(self.packet_numbers[place])

    def index(self, stamp: int | None) -> int | None:
        """The shown frame with this time stamp, or None where no shown frame carries it."""
        if stamp is None or self.counted:
            return None
        place = int(self.stamps.searchsorted(stamp))
        return place if place < len(self.stamps) and self.stamps[place] == stamp else None


@dataclass
class _Packets:
    """What one pass over the packets of a stream collects."""

    stamps: list[int]
    orders: list[int]
    keys: list[bool]
    hidden: list[bool]
    last: int = 0
    missing: bool = False
    partial: bool = False
    encrypted: bool = False


def scan_packets(opened: Opened, stream: VideoStream, limits: Limits) -> FrameTable:
    """Read all packets of a stream and build its frame-time table.

    Args:
        opened: the container, at any position; it is left at its end.
        stream: the video stream.
        limits: bounds for frames and duration.

    Returns:
        The table; at least one frame.

    Raises:
        EmptyMedia: the stream holds no packet.
        TruncatedMedia: the file ends before its first whole picture.
        UnsupportedMedia: the stream is encrypted.
        LimitExceeded: too many frames, or too long.
    """
    path = opened.path
    found = _Packets([], [], [], [])
    try:
        with guard(path, "scan"):
            _collect(opened, stream, limits, found)
    except LimitExceeded:
        raise
    except MediaError:
        # Damage ends the pass; what came before it stays usable.
        found.partial = True
    if found.encrypted:
        raise encrypted(path)
    if not found.stamps:
        if found.partial or stream.frames > 0:
            raise TruncatedMedia("the file ends before its first picture", file=path, stage="scan")
        raise EmptyMedia("the video stream holds no picture", file=path, stage="scan")
    table = _build(opened, stream, found)
    limits.check("duration", table.duration, file=path, stage="scan")
    return table


def _collect(opened: Opened, stream: VideoStream, limits: Limits, found: _Packets) -> None:
    for packet in opened.container.demux(stream):
        if packet.size == 0 and packet.pts is None and packet.dts is None:
            continue
        if packet.is_corrupt and opened.cuts_packets:
            found.partial = True
            continue
        if not found.stamps and is_encrypted(packet):
            found.encrypted = True
            return
        stamp, order = packet.pts, packet.dts
        found.missing |= stamp is None
        found.stamps.append(0 if stamp is None else stamp)
        found.orders.append(len(found.orders) if order is None else order)
        found.keys.append(packet.is_keyframe)
        found.hidden.append(packet.is_discard)
        found.last = int(packet.duration or 0)
        if len(found.stamps) > limits.max_frames:
            limits.check("frames", len(found.stamps), file=opened.path, stage="scan")


def _build(opened: Opened, stream: VideoStream, found: _Packets) -> FrameTable:
    base = float(stream.time_base or 1)
    stamps = np.array(found.stamps, dtype=np.int64)
    keys = np.flatnonzero(np.array(found.keys, dtype=bool))
    hidden = np.array(found.hidden, dtype=bool)
    first = int(keys[0]) if len(keys) else 0
    # Packets before the first key picture cannot be decoded, so they are not shown.
    hidden[:first] = True
    if hidden.all():
        hidden[first:] = False
    shown = np.flatnonzero(~hidden)
    order = shown[np.argsort(stamps[shown], kind="stable")]
    rate = float(stream.average_rate or stream.guessed_rate or 25) or 25.0
    reordered = opened.demuxer == "avi" and codec_reorders(stream)
    unsure = found.missing or reordered or bool(np.any(np.diff(stamps[order]) <= 0))
    n = len(shown)
    partial = found.partial or opened.cut or _ends_early(opened, stream, stamps)
    if unsure or opened.demuxer == "gif":
        ranked = np.sort(stamps[shown])
        steps = np.diff(ranked)
        if found.missing or np.any(steps <= 0):
            times = np.arange(n) / rate
        else:
            times = (ranked - ranked[0]) * base
        none = np.zeros(0, dtype=np.int64)
        entry = np.zeros(n, dtype=np.int64)
        stamped = kept = numbers = none
    else:
        times = (stamps[order] - stamps[order[0]]) * base
        stamped = stamps[order]
        entry = _entries(stamps, order, keys, first)
        numbers = np.argsort(stamps, kind="stable")
        kept = stamps[numbers]
    times = times.astype(np.float64)
    step = float(np.median(np.diff(times))) if n > 1 else found.last * base or 1.0 / rate
    tail = min(found.last * base, 10 * step) if found.last > 0 else step
    return FrameTable(
        times=times,
        stamps=stamped,
        entry=entry,
        packet_stamps=kept,
        packet_numbers=numbers,
        duration=float(times[-1] + (tail or step)),
        start=float(stamps[order[0]] * base),
        partial=partial,
        repaired=unsure,
    )


def _entries(stamps: np.ndarray, order: np.ndarray, keys: np.ndarray, first: int) -> np.ndarray:
    """For each shown frame the key packet before it in the file that is also not after it in time.

    The second condition matters for open groups of pictures, whose leading pictures follow a key
    picture in the file, precede it in time, and lean on the group before.
    """
    if len(keys) == 0:
        return np.full(len(order), first, dtype=np.int64)
    place = np.searchsorted(keys, order, side="right") - 1
    place = np.maximum(place, 0)
    leading = stamps[keys[place]] > stamps[order]
    place = np.maximum(place - leading.astype(np.int64), 0)
    return keys[place].astype(np.int64)


def codec_reorders(stream: VideoStream) -> bool:
    """Whether pictures of this stream may leave the decoder in another order than its packets."""
    context = stream.codec_context
    return context.codec.canonical_name in _REORDERING and context.reorder_depth > 0


def _ends_early(opened: Opened, stream: VideoStream, stamps: np.ndarray) -> bool:
    """Whether there are fewer packets than the header promises, or none near its end."""
    packets = len(stamps)
    if opened.demuxer == "mov":
        return 0 < packets < stream.frames
    total = opened.container.duration
    rate = float(stream.average_rate or 0)
    if opened.demuxer in ("matroska", "avi") and total and rate > 0:
        # A late start or uneven frames make few packets reach far.
        reached = max(packets / rate, float(stamps.max()) * float(stream.time_base or 0))
        return reached < total / 1e6 * 0.95 - max(1.0, 2 / rate)
    return False
