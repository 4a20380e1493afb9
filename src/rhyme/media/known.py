"""What this process knows of video files it has read, so that opening one again costs little."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from rhyme.media.info import MediaInfo
from rhyme.media.limits import Limits
from rhyme.media.orient import Orientation
from rhyme.media.sniff import Identity, identity_of
from rhyme.media.table import FrameTable


@dataclass(eq=False)
class Verdicts:
    """What decoding by PyAV has shown so far.

    Args:
        sound: by the number of its key packet, whether a group of pictures is without damage.
        late: by the number of a key packet, the first frame that decoding from there gave, where
            an earlier one was wanted.
        orientation: how pictures are turned; None before the first one.
    """

    sound: dict[int, bool] = field(default_factory=dict[int, bool])
    late: dict[int, int] = field(default_factory=dict[int, int])
    orientation: Orientation | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What the first opening of a file found out.

    Args:
        table: its frame-time table.
        width: stored pixels per row.
        height: stored rows.
        reorder: pictures that the decoder holds back to put them in order.
        sound: it has a sound track that may be decoded.
        complete: its header alone says all that a decoder must know.
        info: its facts, once somebody asked for them.
        verdicts: what decoding has shown so far; grows.
    """

    table: FrameTable
    width: int
    height: int
    reorder: int
    sound: bool
    complete: bool
    info: MediaInfo | None = None
    verdicts: Verdicts = field(default_factory=Verdicts)


class Memory:
    """The most recently used files, bounded by their number of frames.

    Args:
        frames: most frames in all tables together; the last file stays whatever its length.
    """

    def __init__(self, frames: int) -> None:
        self._room, self._frames = frames, 0
        self._held: OrderedDict[tuple[Identity, Limits], Known] = OrderedDict()

    def get(self, identity: Identity | None, limits: Limits) -> Known | None:
        """What is known of a file under these limits, or None."""
        if identity is None:
            return None
        found = self._held.get((identity, limits))
        if found is not None:
            self._held.move_to_end((identity, limits))
        return found

    def put(self, identity: Identity, limits: Limits, known: Known) -> None:
        """Remember a file, and forget those not used for longest where room is short."""
        before = self._held.pop((identity, limits), None)
        self._frames -= 0 if before is None else len(before.table.times)
        self._held[identity, limits] = known
        self._frames += len(known.table.times)
        while self._frames > self._room and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            self._frames -= len(gone.table.times)


KNOWN = Memory(frames=2_000_000)
"""This process's memory."""


def identity_at(path: Path) -> Identity | None:
    """The identity of the file at a path; None where there is none."""
    try:
        return identity_of(path.stat())
    except (OSError, ValueError):
        return None
