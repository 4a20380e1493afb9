"""A file becomes frames, sound and facts.

Everything is addressed by time, in seconds after the first shown frame. Every open goes through
an allow-list of containers and codecs; a file never makes us read another file.
"""

from __future__ import annotations

from rhyme.media.archive import ARCHIVES, MARK, PACKED, Member, find_member, members
from rhyme.media.choice import Backend, backends
from rhyme.media.container import AUDIO_CODECS, VIDEO_CODECS
from rhyme.media.info import AudioInfo, Depth, Kind, MediaInfo
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.picture import R2V2_SPACING, FrameFolder, Picture, frame_times, load_picture
from rhyme.media.prepared import PreparedFrames
from rhyme.media.reader import FrameReader, Sound, open_reader, probe
from rhyme.media.sniff import Sniffed, identify, sniff
from rhyme.media.table import FrameTable
from rhyme.media.video import Video

__all__ = [
    "ARCHIVES",
    "AUDIO_CODECS",
    "DEFAULT_LIMITS",
    "MARK",
    "PACKED",
    "R2V2_SPACING",
    "VIDEO_CODECS",
    "AudioInfo",
    "Backend",
    "Depth",
    "FrameFolder",
    "FrameReader",
    "FrameTable",
    "Kind",
    "Limits",
    "MediaInfo",
    "Member",
    "Picture",
    "PreparedFrames",
    "Sniffed",
    "Sound",
    "Video",
    "backends",
    "find_member",
    "frame_times",
    "identify",
    "load_picture",
    "members",
    "open_reader",
    "probe",
    "sniff",
]
