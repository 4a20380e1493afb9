"""Single pictures, and folders of pictures as one video."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rhyme.errors import FileMissing, LimitExceeded, NotMedia, TruncatedMedia, UnsupportedMedia
from rhyme.media.archive import Member
from rhyme.media.ending import reaches_end
from rhyme.media.info import Depth, MediaInfo
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.sniff import HEAD, identify, open_regular, refusal, sniff
from rhyme.media.times import check_request, shown_at

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Picture formats that may be decoded."""

R2V2_SPACING = 5.0
"""Nominal seconds between frames of a frame folder (R2V2 keeps one frame every five seconds)."""

Source = str | Path | Member
"""Where a picture lies: a file, or a member of an archive."""

_NUMBER = re.compile(r"(\d+)(?=\.[^.]*$)")


class FrameFolder:
    """Picture files in order, read as one video without sound.

    Frame k is shown at ``(number_k - number_0) / step * spacing`` seconds, where the numbers are
    the last digits in the file names and ``step`` is their smallest difference: gaps in the
    numbering stay gaps in time. Files without numbers are evenly spaced.

    Args:
        paths: the picture files, in order of time; members of archives are files too.
        spacing: nominal seconds between neighbouring frames; above 0.
        limits: bounds checked before memory is allocated.

    Raises:
        FileMissing: no path is given.
    """

    def __init__(
        self,
        paths: Sequence[Source],
        *,
        spacing: float = R2V2_SPACING,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if not paths:
            raise FileMissing("a frame folder needs at least one picture", stage="open")
        self.paths = tuple(p if isinstance(p, Member) else Path(p) for p in paths)
        self.path = self.paths[0]
        self.spacing = spacing
        self.limits = limits
        self.decoded_frames = 0
        self.corrupt = 0
        self._info: MediaInfo | None = None
        self._times = frame_times([p.name for p in self.paths], spacing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open between calls."""

    @property
    def times(self) -> np.ndarray:
        """float64 ``[n]``: frame k is shown from ``times[k]`` seconds, ``times[0] = 0``."""
        return self._times

    @property
    def info(self) -> MediaInfo:
        """Facts; sizes are those of the first picture.

        Raises:
            MediaError: the first picture cannot be used.
        """
        if self._info is None:
            self._info = self._facts()
        return self._info

    def _facts(self) -> MediaInfo:
        width, height, codec, rotation, _ = picture_header(self.path, limits=self.limits)
        n = len(self.paths)
        span = float(self._times[-1])
        duration = span + self.spacing
        steps = np.diff(self._times)
        return MediaInfo(
            kind="frames",
            container="folder",
            duration=duration,
            fps=(n - 1) / span if span > 0 else 1.0 / self.spacing,
            frames=n,
            width=width,
            height=height,
            codec=codec,
            rotation=rotation,
            usable=((0.0, duration),),
            variable=n > 2 and float(steps.max() - steps.min()) > 0.1 * float(np.median(steps)),
            depth="packets",
        )

    def check(self, depth: Depth) -> None:
        """Look for damage in every picture.

        Args:
            depth: ``"packets"`` looks whether each goes on to its end, ``"frames"`` decodes each.

        Raises:
            MediaError: a picture is cut or damaged; it names the file.
        """
        for path in self.paths if depth != "header" else ():
            if depth == "frames" or not reaches_end(_read(path, self.limits)):
                load_picture(path, limits=self.limits)  # the decoder judges

    def frames_at(self, times_s: Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """The pictures shown at the given times; see `rhyme.media.Video.frames_at`.

        Args:
            times_s: seconds, ``[t]``, any order, repeats allowed, clamped to the ends.

        Returns:
            uint8 ``[t, 3, h, w]``, RGB, turned upright; pictures of another size than the first
            are scaled to it.

        Raises:
            MediaError: a picture cannot be used, or the request passes the limits.
        """
        return self.read(times_s)[0]

    def read(self, times_s: Sequence[float] | np.ndarray | Tensor) -> tuple[Tensor, np.ndarray]:
        """The pictures shown at the given times, and when each of them was first shown.

        Args:
            times_s: as in `frames_at`.

        Returns:
            uint8 ``[t, 3, h, w]`` and float64 ``[t]``.

        Raises:
            MediaError: a picture cannot be used, or the request passes the limits.
        """
        index = shown_at(self._times, times_s)
        info = self.info
        check_request(len(index), info.width, info.height, self.limits, str(self.path))
        out = torch.empty((len(index), info.height, info.width, 3), dtype=torch.uint8)
        wanted, where = np.unique(index, return_inverse=True)
        for place, k in enumerate(wanted):
            image = load_picture(self.paths[k], limits=self.limits, size=(info.width, info.height))
            self.decoded_frames += 1
            out[torch.from_numpy(where == place)] = torch.from_numpy(image)
        return out.permute(0, 3, 1, 2), self._times[index]

    def audio(self, start_s: float, stop_s: float, rate: int) -> None:
        """Pictures have no sound.

        Args:
            start_s: ignored.
            stop_s: ignored.
            rate: ignored.

        Returns:
            None.
        """


class Picture(FrameFolder):
    """One picture as a video of one frame at time 0.

    Args:
        path: the picture file, or a member of an archive.
        limits: bounds checked before memory is allocated.
    """

    def __init__(self, path: Source, *, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__([path], spacing=1.0, limits=limits)

    def _facts(self) -> MediaInfo:
        width, height, codec, rotation, animated = picture_header(self.path, limits=self.limits)
        return MediaInfo(
            animated=animated,
            kind="image",
            container="image",
            duration=0.0,
            fps=0.0,
            frames=1,
            width=width,
            height=height,
            codec=codec,
            rotation=rotation,
            usable=((0.0, 0.0),),
            bytes=self.path.size if isinstance(self.path, Member) else self.path.stat().st_size,
            depth="packets",
        )

    def read(self, times_s: Sequence[float] | np.ndarray | Tensor) -> tuple[Tensor, np.ndarray]:
        """The picture for each of the times; see `FrameFolder.read`. It is opened once."""
        index = shown_at(self._times, times_s)
        image = load_picture(self.paths[0], limits=self.limits)
        self.decoded_frames += 1
        height, width = image.shape[:2]
        check_request(len(index), width, height, self.limits, str(self.path))
        pixels = torch.from_numpy(np.repeat(image[None], len(index), axis=0))
        return pixels.permute(0, 3, 1, 2), self._times[index]


def frame_times(names: Sequence[str], spacing: float) -> np.ndarray:
    """Times of numbered pictures; see `FrameFolder`.

    Args:
        names: file names in order of time.
        spacing: seconds between neighbouring frames.

    Returns:
        float64 ``[n]``, ascending from 0.
    """
    n = len(names)
    even = np.arange(n, dtype=np.float64) * spacing
    found = [_NUMBER.search(name) for name in names]
    if n < 2 or any(match is None for match in found):
        return even
    numbers = [int(match[1]) for match in found if match is not None]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    if min(steps) <= 0 or max(numbers) > 1 << 52:
        return even
    offsets = np.array([number - numbers[0] for number in numbers], dtype=np.float64)
    return offsets / min(steps) * spacing


def picture_header(path: Source, *, limits: Limits) -> tuple[int, int, str, int, bool]:
    """Size, format and rotation of a picture, without decoding it.

    Args:
        path: the picture file, or a member of an archive.
        limits: bounds.

    Returns:
        Width and height after rotation, the format in small letters, degrees clockwise,
        and whether it is an animation.

    Raises:
        MediaError: not a picture that can be used.
    """
    with _Opened(path, limits) as image:
        exif = int(image.getexif().get(0x0112, 1))
        turned = exif in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        rotation = {3: 180, 4: 180, 5: 270, 6: 90, 7: 90, 8: 270}.get(exif, 0)
        # Several pictures of other formats are pages, or one picture in several forms.
        animated = image.format in ("PNG", "WEBP") and bool(getattr(image, "is_animated", False))
        return width, height, str(image.format).lower(), rotation, animated


def load_picture(
    path: Source, *, limits: Limits = DEFAULT_LIMITS, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode one picture to RGB, turned upright; transparency is dropped, not blended.

    Grey values of 16 bits are taken as they are meant, 65535 as white, whatever a picture holds.

    Args:
        path: the picture file, or a member of an archive.
        limits: bounds.
        size: width and height to scale to; None keeps the picture's own.

    Returns:
        uint8 ``[h, w, 3]``.

    Raises:
        MediaError: not a picture that can be used.
    """
    with _Opened(path, limits) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            values = np.asarray(upright, dtype=np.uint32) * 255 // _white(image)
            upright = Image.fromarray(values.astype(np.uint8))
        rgb = upright.convert("RGB")
        if size is not None and rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BILINEAR)
        return np.array(rgb, dtype=np.uint8)


def _white(image: Image.Image) -> int:
    """The value of white in a grey picture of more than 8 bits: 4095 in a TIFF of 12 bits."""
    bits = getattr(image, "tag_v2", {}).get(258, (16,))
    return (1 << int(bits[0])) - 1


def _read(path: Source, limits: Limits) -> bytes:
    """A picture's bytes, or as many of them as a member of an archive may have."""
    if isinstance(path, Member):
        return path.read(limits=limits)
    file, _ = open_regular(path, limits=limits)
    with file:
        return file.read(limits.max_member_bytes)


class _Opened:
    """An open picture whose every failure is a typed error."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source, self._limits = source, limits
        self._path = str(source)

    def __enter__(self) -> Image.Image:
        if isinstance(self._source, Member):
            data = self._source.read(limits=self._limits)
            kind, self._file = identify(data[:HEAD]), io.BytesIO(data)
            if kind is None:
                raise refusal(data[:HEAD], self._path)
        else:
            kind = sniff(self._source, limits=self._limits).demuxer
        if kind not in ("pillow", "gif"):
            raise UnsupportedMedia("not a single picture", file=self._path, stage="open")
        if not isinstance(self._source, Member):
            self._file, _ = open_regular(self._source, limits=self._limits)
        self._image: Image.Image | None = None
        try:
            # Pillow warns about large pictures; our own limit decides instead.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._image = Image.open(self._file, formats=PICTURE_FORMATS)
            width, height = self._image.size
            self._limits.check_picture(width, height, file=self._path, stage="open")
            if self._image.mode in ("I", "F") and self._image.format == "TIFF":
                raise UnsupportedMedia(
                    "values with a sign, of 32 bits or with fractions: nothing says which is white",
                    file=self._path,
                    stage="open",
                    value=self._image.mode,
                    remedy="convert the picture to 8 bits, or to 16 bits without a sign",
                )
        except Exception as error:
            self._file.close()
            self._translate(error)
            raise
        return self._image

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is not None:
            self._translate(error)

    def _translate(self, error: BaseException) -> None:
        """Raise the typed error for what Pillow raised; return for errors of ours."""
        path = self._path
        if isinstance(error, Image.DecompressionBombError):
            raise LimitExceeded(str(error), file=path, stage="open") from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise NotMedia("not a picture Pillow can read", file=path, stage="open") from error
        if isinstance(error, OSError | EOFError) and "truncated" in str(error).lower():
            raise TruncatedMedia(
                "the picture ends early",
                file=path,
                stage="decode",
                remedy="copy or download the file again",
            ) from error
        if isinstance(error, OSError | SyntaxError | ValueError | EOFError | IndexError | KeyError):
            raise NotMedia(f"the picture is damaged: {error}", file=path, stage="decode") from error
