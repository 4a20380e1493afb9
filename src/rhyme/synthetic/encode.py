"""Frames and sound to an mp4 file whose bytes depend on nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from rhyme.errors import MissingExtra
from rhyme.synthetic.config import CHROMA_SIZE

AUDIO_BIT_RATE = 64_000
# x264's macroblock tree is off: its AVX-512 code gives other bits in about one run of thirty, and
# its reciprocals are approximations that differ between makers of processors.
X264 = "scenecut=0:bframes=0:mbtree=0:threads=1:lookahead-threads=1"


def encode(
    path: Path,
    blocks: Iterable[NDArray[np.uint8]],
    *,
    size: int,
    rate: Fraction,
    gop: int,
    sound: NDArray[np.float32] | None = None,
    sound_rate: int = 16000,
) -> None:
    """Write H.264 pictures and AAC sound.

    Below 64 pixels colour is kept in full (yuv444p, crf 12), because half resolution would cost
    6 dB there; from 64 on yuv420p and crf 20. There is a key frame exactly every ``gop`` frames
    and no frame refers to a later one. The encoders run on one thread and write no dates and no
    version of the container library, so that the same input gives the same bytes.

    Args:
        path: the file to write.
        blocks: uint8 ``[t, size, size, 3]`` each, RGB, in order.
        size: side of the frame in pixels, even from 64 on.
        rate: frames a second.
        gop: distance of key frames in frames.
        sound: float32 ``[n]`` mono, or ``None`` for no track.
        sound_rate: samples a second.

    Raises:
        MissingExtra: this build of PyAV brings no H.264 encoder.
        OSError: the file cannot be written.
    """
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        try:
            video: VideoStream = container.add_stream("libx264", rate=rate)
        except UnknownCodecError as error:
            raise MissingExtra(
                "this build of PyAV has no H.264 encoder",
                stage="encode",
                value="libx264",
                remedy="install PyAV from its wheel, which brings one",
            ) from error
        half = size >= CHROMA_SIZE
        video.width = video.height = size
        video.pix_fmt = "yuv420p" if half else "yuv444p"
        video.codec_context.thread_count = 1
        video.codec_context.time_base = 1 / rate
        video.options = {
            "crf": "20" if half else "12",
            "preset": "medium",
            "flags": "+bitexact",
            "x264-params": f"keyint={gop}:min-keyint={gop}:{X264}",
        }
        audio = None if sound is None else _audio_stream(container, sound_rate)
        number = 0
        for block in blocks:
            for image in block:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number
                frame.time_base = 1 / rate
                container.mux(video.encode(frame))
                number += 1
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            samples.sample_rate = sound_rate
            samples.pts = 0
            samples.time_base = Fraction(1, sound_rate)
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))


def _audio_stream(container: OutputContainer, rate: int) -> AudioStream:
    stream: AudioStream = container.add_stream("aac", rate=rate, layout="mono")
    stream.bit_rate = AUDIO_BIT_RATE
    stream.codec_context.thread_count = 1
    # The fast coder takes a tenth of the time and is as deterministic as the other.
    stream.options = {"flags": "+bitexact", "aac_coder": "fast"}
    return stream
