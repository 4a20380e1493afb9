"""Facts about one media file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Depth = Literal["header", "packets", "frames"]
Kind = Literal["video", "frames", "image", "audio"]


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The sound track that `audio` reads.

    Args:
        rate: samples per second in the file.
        channels: number of channels.
        codec: the codec's name, e.g. ``"aac"``.
    """

    rate: int
    channels: int
    codec: str


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Facts about one media file; how sure they are depends on the depth of the probe.

    Args:
        kind: ``"video"``, ``"frames"``, ``"image"`` or ``"audio"``.
        container: the container format, e.g. ``"mov"``; ``"folder"`` for a frame folder.
        duration: seconds from the first shown frame to the end of the last one.
        fps: mean frames per second (0 for a picture or sound).
        frames: number of shown frames; None where the header does not say.
        width: pixels per row, after rotation.
        height: rows, after rotation.
        codec: the picture codec's name; the sound codec's for a sound file.
        rotation: degrees clockwise by which stored pictures are turned before they are returned.
        audio: the sound track, or None.
        start: time of the first shown frame on the file's own clock, in seconds.
        usable: ranges ``(start, stop)`` in seconds in which frames can be decoded.
        partial: the file ends early, or parts of it are damaged.
        corrupt_frames: damaged frames; counted at depth ``"frames"`` only, else 0.
        repaired: time stamps were missing or went backwards and were repaired by order.
        variable: frame spacing varies by more than a tenth.
        interlaced: the stream says that pictures are interlaced (they are returned woven).
        pixel_aspect: width of a pixel over its height; pictures are returned unscaled.
        animated: a picture file that holds several; only the first one is used.
        bytes: size of the file, in bytes (sum over a frame folder).
        depth: the depth of the probe that found these facts.
    """

    kind: Kind
    container: str
    duration: float
    fps: float
    frames: int | None
    width: int
    height: int
    codec: str
    rotation: int = 0
    audio: AudioInfo | None = None
    start: float = 0.0
    usable: tuple[tuple[float, float], ...] = ()
    partial: bool = False
    corrupt_frames: int = 0
    repaired: bool = False
    variable: bool = False
    interlaced: bool = False
    pixel_aspect: float = 1.0
    animated: bool = False
    bytes: int = 0
    depth: Depth = "header"
