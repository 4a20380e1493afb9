"""Opening a file with FFmpeg, and nothing but that file.

Python opens the file and FFmpeg reads it through three methods; the demuxer is named after the
first bytes; any further file that a demuxer would open is refused; decoders that are not on the
list are never started, not even to look at a stream.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

import av
import av.error
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from rhyme.errors import FileMissing, MediaError, NotMedia, NoVideoStream, UnsupportedMedia
from rhyme.media.limits import Limits
from rhyme.media.sniff import identity_of, open_regular, sniff

VIDEO_CODECS = frozenset(
    (
        *("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video"),
        *("mjpeg", "prores", "ffv1", "theora", "gif", "png", "apng"),
    )
)
"""Picture codecs that may be decoded."""

AUDIO_CODECS = frozenset(
    (
        *("aac", "mp3", "mp2", "vorbis", "opus", "flac", "alac", "ac3", "eac3"),
        *("pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"),
        *("pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be"),
        *("pcm_alaw", "pcm_mulaw"),
    )
)
"""Sound codecs that may be decoded."""

_BUILDS = frozenset(("libdav1d", "libvpx", "libvpx-vp9", "mp3float", "mp2float"))
_DECODERS = VIDEO_CODECS | AUDIO_CODECS | _BUILDS

_FAR = 1 << 52
"""A time stamp behind every picture."""

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,wav,mp3,flac,gif"


class Reader:
    """The three methods FFmpeg needs, without the file's name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte; returns its place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place of the next byte."""
        return self._file.tell()


class Opened:
    """A container opened for reading, and the file under it.

    Args:
        path: a local path.
        limits: bounds; streams and bytes are checked here.
        probe: decode the first pictures and sounds to complete what the header says of a stream.

    Raises:
        MediaError: the file cannot be used; see `rhyme.media.sniff.sniff`.
    """

    def __init__(self, path: str | Path, limits: Limits, *, probe: bool = True) -> None:
        found = sniff(path, limits=limits)
        if found.kind != "av":
            raise UnsupportedMedia(
                "a single picture, not a video",
                file=path,
                stage="open",
                remedy="read it with media.Picture",
            )
        self.path = path
        self.demuxer = found.demuxer
        self.cut = found.cut
        self._file, self.size = open_regular(path, limits=limits)
        self.identity = identity_of(os.fstat(self._file.fileno()))
        try:
            with guard(path, "open"):
                self.container: InputContainer = av.open(
                    Reader(self._file),
                    mode="r",
                    format=found.demuxer,
                    options={"max_pixels": str(limits.max_pixels)},
                    container_options={
                        "protocol_whitelist": "file",
                        "format_whitelist": _FORMATS,
                        # Where no decoder may start, FFmpeg believes the header at once.
                        "codec_whitelist": ",".join(sorted(_DECODERS)) if probe else "none",
                    },
                    metadata_errors="replace",
                    buffer_size=1 << 16,
                    io_open=_refuse,
                )
        except Exception:
            self._file.close()
            raise
        try:
            limits.check("streams", len(self.container.streams), file=path, stage="open")
        except Exception:
            self.close()
            raise

    @property
    def cuts_packets(self) -> bool:
        """Whether a packet marked as damaged was cut off by the end of the file."""
        return self.demuxer in ("mov", "matroska", "avi", "flv")

    def believable(self, stream: VideoStream, duration: float) -> bool:
        """Whether the header's duration agrees with the last picture.

        MP4 says in its index where and when that is; it must lie inside the file. In Matroska the
        end is sought and its last pictures are read, so that the reading place moves. No other
        container is believed.

        Args:
            stream: the video stream.
            duration: what the header says, in seconds.
        """
        if self.cut:
            return False
        if self.demuxer == "mov":
            entries = stream.index_entries
            if len(entries) == 0:
                return False
            last = entries[len(entries) - 1]
            if last.pos + last.size > self.size:
                return False
            span = last.timestamp - entries[0].timestamp
        elif self.demuxer == "matroska":
            try:
                self.container.seek(_FAR, stream=stream)
                stamps = [p.pts for p in self.container.demux(stream) if p.pts is not None]
            except av.error.FFmpegError:
                return False
            span = max(stamps, default=0) - (stream.start_time or 0)
        else:
            return False
        # Sound may go on a little, and the last picture is shown for a while.
        rate = float(stream.average_rate or stream.guessed_rate or 25) or 25.0
        slack = max(min(1.0, 0.05 * duration), 2 / rate)
        return abs(span * float(stream.time_base or 1) - duration) <= slack

    def stated(self, stream: VideoStream) -> tuple[float, float]:
        """What the header says: duration in seconds and frames a second; 0 where it is silent.

        Args:
            stream: the video stream.
        """
        duration = float((stream.duration or 0) * (stream.time_base or 1))
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        return duration or (self.container.duration or 0) / 1e6, rate

    def shown(self, stream: VideoStream, fitting: int) -> int:
        """Number of shown pictures by the header; 0 where it is silent.

        An edit of an MP4 hides pictures that its header counts; its index knows which.

        Args:
            stream: the video stream.
            fitting: number of pictures that duration and rate make; another one is counted again.
        """
        if self.demuxer != "mov" or stream.frames == fitting:
            return int(stream.frames)
        return sum(not entry.is_discard for entry in stream.index_entries)

    def codes(self) -> list[str]:
        """The four-letter codes of the tracks of an MP4 or MOV file, for messages."""
        if self.demuxer != "mov":
            return []
        with self.path_bytes() as file:
            data = file.read(1 << 20) + b"\0" * 16
            file.seek(max(0, self.size - (1 << 20)))
            data += file.read(1 << 20) + b"\0" * 16
        found: list[str] = []
        place = data.find(b"stsd")
        while place >= 0:
            code = data[place + 16 : place + 20].decode("latin-1")
            if code.isprintable() and code.strip() and code not in found:
                found.append(code)
            place = data.find(b"stsd", place + 4)
        return found

    def path_bytes(self) -> BinaryIO:
        """The file opened once more, from its first byte."""
        return open_regular(self.path, limits=Limits())[0]

    def close(self) -> None:
        """Close container and file; safe to call twice."""
        self.container.close()
        self._file.close()

    def __del__(self) -> None:
        # A reader that is dropped without being closed gives its file back, without a warning.
        file = self.__dict__.get("_file")
        if file is not None:
            file.close()


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """No demuxer opens a second file."""
    raise PermissionError(errno.EACCES, "media files may not open other files", url)


def video_stream(opened: Opened, limits: Limits) -> VideoStream:
    """The main video stream: no cover art; default flag first, then largest, then first.

    Args:
        opened: the container.
        limits: bounds for the picture size.

    Returns:
        The stream, its decoder set to one thread.

    Raises:
        NoVideoStream: sound only, or cover art only.
        UnsupportedMedia: the codec is not allowed, not built in, or the stream is encrypted.
        LimitExceeded: the pictures are too large.
    """
    path = opened.path
    listed = [s for s in opened.container.streams if s.type == "video"]
    films = [s for s in listed if isinstance(s, VideoStream) and not _is_cover(s)]
    streams = [s for s in films if codec_name(s) != "unknown"]
    if not streams:
        codes = opened.codes()
        if {"encv", "drmi"} & set(codes):
            raise encrypted(path)
        if films:
            raise UnsupportedMedia(
                f"video codec unknown or not built in: {', '.join(codes) or 'unnamed'}",
                file=path,
                stage="open",
                value=codes,
            )
        held = ", ".join(sorted({str(s.type) for s in opened.container.streams})) or "no stream"
        raise NoVideoStream(
            f"the file holds no video ({held}{', cover art' if listed else ''})",
            file=path,
            stage="open",
        )
    stream = min(streams, key=_rank)
    context = stream.codec_context
    codec = codec_name(stream)
    if codec not in VIDEO_CODECS:
        raise UnsupportedMedia(
            f"video codec not allowed: {codec}", file=path, stage="open", value=codec
        )
    if context.codec_tag in ("encv", "drmi"):
        raise encrypted(path)
    limits.check_picture(context.width, context.height, file=path, stage="open")
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_pixels)}
    return stream


def audio_stream(opened: Opened) -> AudioStream | None:
    """The main sound stream, or None where there is none or its codec is not allowed.

    Args:
        opened: the container.
    """
    for stream in opened.container.streams:
        if isinstance(stream, AudioStream) and codec_name(stream) in AUDIO_CODECS:
            context = stream.codec_context
            if context.sample_rate > 0 and context.channels > 0 and context.codec_tag != "enca":
                context.thread_count = 1
                return stream
    return None


def codec_name(stream: VideoStream | AudioStream) -> str:
    """The codec's own name, whichever decoder serves it, e.g. ``"av1"`` for libdav1d."""
    context: object = stream.codec_context
    if not isinstance(context, CodecContext):
        return "unknown"
    return str(context.codec.canonical_name)


def is_encrypted(packet: Packet) -> bool:
    """Whether the container says that the bytes of a packet are encrypted.

    FFmpeg names the codec of a protected track and hands its packets out as they are.
    """
    return packet.has_sidedata("encryption_info")


def encrypted(path: str | Path) -> UnsupportedMedia:
    """The error of a file whose pictures are encrypted."""
    return UnsupportedMedia(
        "the video is encrypted", file=path, stage="open", remedy="give an unprotected copy"
    )


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _rank(stream: VideoStream) -> tuple[bool, int, int]:
    context = stream.codec_context
    default = bool(stream.disposition & Disposition.default)
    return (not default, -(context.width * context.height), stream.index)


@contextmanager
def guard(path: str | Path, stage: str) -> Generator[None]:
    """Turn every error of the decoder or of the disk into a typed one.

    Args:
        path: the file, for the message.
        stage: what was being done, for the message.

    Raises:
        MediaError: in place of anything FFmpeg, PyAV or the file raised.
    """
    try:
        yield
    except MediaError:
        raise
    except (av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError) as error:
        raise UnsupportedMedia(f"no decoder: {_words(error)}", file=path, stage=stage) from error
    except (av.error.FFmpegError, EOFError) as error:
        raise NotMedia(
            f"the data is damaged: {_words(error)}",
            file=path,
            stage=stage,
            remedy="copy or download the file again, or leave it out",
        ) from error
    except OSError as error:
        raise FileMissing(f"reading failed: {_words(error)}", file=path, stage=stage) from error
    except (ValueError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise UnsupportedMedia(
            f"the file cannot be read: {_words(error)}", file=path, stage=stage
        ) from error
    except MemoryError as error:
        raise UnsupportedMedia(
            "not enough memory for its pictures", file=path, stage=stage
        ) from error


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
