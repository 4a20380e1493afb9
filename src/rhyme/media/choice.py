"""Which library turns packets into pictures: PyAV always, TorchCodec where it loads.

``RHYME_DECODER`` chooses: ``pyav``, ``torchcodec`` or ``auto`` (the default, which is PyAV: it was
the faster one wherever both were measured). PyAV opens and judges every file in either case.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import av
import numpy as np
from av.video.stream import VideoStream

from rhyme.errors import ConfigError, UnknownName, nearest

VARIABLE = "RHYME_DECODER"
"""The environment variable that chooses."""

CHOICES = ("auto", "pyav", "torchcodec")

Decoder = Literal["pyav", "torchcodec"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A decoding library.

    Args:
        name: ``"pyav"`` or ``"torchcodec"``.
        version: its version; empty where it is not installed.
        reason: why it cannot be used; empty where it can.
    """

    name: Decoder
    version: str
    reason: str = ""

    @property
    def usable(self) -> bool:
        """It was loaded and decoded a small film."""
        return not self.reason


def backends() -> list[Backend]:
    """All decoding libraries, and why those that cannot be used cannot."""
    return [
        Backend(name="pyav", version=av.__version__),
        Backend(name="torchcodec", version=_version(), reason=_torchcodec_fails()),
    ]


def chosen() -> Decoder:
    """The library that ``RHYME_DECODER`` asks for.

    Raises:
        UnknownName: the variable names none.
        ConfigError: the library cannot be used here; the message says why.
    """
    name = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if name in ("auto", "pyav"):
        return "pyav"
    if name != "torchcodec":
        raise UnknownName(f"{VARIABLE} names no decoder", value=name, remedy=nearest(name, CHOICES))
    reason = _torchcodec_fails()
    if reason:
        raise ConfigError(
            f"{VARIABLE}=torchcodec, but TorchCodec cannot be used: {reason}",
            value=name,
            remedy=f"pip install rhyme-ssl[torchcodec] beside a system FFmpeg, or unset {VARIABLE}",
        )
    return "torchcodec"


def _version() -> str:
    try:
        return importlib.metadata.version("torchcodec")
    except importlib.metadata.PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def _torchcodec_fails() -> str:
    """Why TorchCodec cannot be used; tried once by loading it and decoding three pictures."""
    try:
        library: Any = importlib.import_module("torchcodec.decoders")
    except ModuleNotFoundError as error:
        absent = (error.name or "").split(".")[0] == "torchcodec"
        return "not installed" if absent else f"it does not load: {_first_line(error)}"
    except Exception as error:
        # A library that does not fit raises whatever its loader raises.
        return f"it does not load: {_first_line(error)}"
    try:
        decoder = library.VideoDecoder(io.BytesIO(_film()), num_ffmpeg_threads=1, device="cpu")
        shape = tuple(decoder.get_frames_at([0, 2]).data.shape)
    except Exception as error:
        return f"it loads but does not decode: {_first_line(error)}"
    return "" if shape == (2, 3, 32, 48) else f"it gave pictures of {shape} for a film of 48x32"


def _film() -> bytes:
    """Three gray pictures in a Matroska file."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for k in range(3):
            picture = np.full((32, 48, 3), 80 * k, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
