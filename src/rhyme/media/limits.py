"""What a media file may cost, checked before memory is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rhyme.errors import LimitExceeded


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds for one media file and for one request to it.

    Args:
        max_width: widest picture, in pixels.
        max_height: tallest picture, in pixels.
        max_pixels: largest ``width * height`` of one picture.
        max_frames: most frames in one file.
        max_duration: longest file, in seconds.
        max_streams: most streams (video, sound, subtitles, data) in one file.
        max_bytes: largest file, in bytes.
        max_request_bytes: largest tensor that one call may return, in bytes.
        max_members: most members of one archive.
        max_member_bytes: largest picture within an archive, packed or not, in bytes.
    """

    max_width: int = 16_384
    max_height: int = 16_384
    max_pixels: int = 67_108_864
    max_frames: int = 20_000_000
    max_duration: float = 7 * 24 * 3600.0
    max_streams: int = 32
    max_bytes: int = 1 << 40
    max_request_bytes: int = 8 << 30
    max_members: int = 20_000_000
    max_member_bytes: int = 128 << 20

    def check_picture(self, width: int, height: int, *, file: str | Path, stage: str) -> None:
        """Refuse a picture that is too large.

        Args:
            width: pixels per row.
            height: rows.
            file: the file, for the message.
            stage: the stage, for the message.

        Raises:
            LimitExceeded: a bound is passed.
        """
        if width > self.max_width or height > self.max_height or width * height > self.max_pixels:
            raise LimitExceeded(
                f"pictures of {width}x{height} pass the limit of {self.max_width}x"
                f"{self.max_height} and {self.max_pixels} pixels",
                file=file,
                stage=stage,
                value=(width, height),
            )

    def check(self, name: str, value: float, *, file: str | Path, stage: str) -> None:
        """Refuse a value that passes the bound ``max_<name>``.

        Args:
            name: ``"frames"``, ``"duration"``, ``"streams"``, ``"bytes"``, ``"request_bytes"``,
                ``"members"`` or ``"member_bytes"``.
            value: what the file or the request says.
            file: the file, for the message.
            stage: the stage, for the message.

        Raises:
            LimitExceeded: the bound is passed.
        """
        bound = getattr(self, f"max_{name}")
        if value > bound:
            raise LimitExceeded(
                f"{name.replace('_', ' ')} {value:g} pass the limit of {bound:g}",
                file=file,
                stage=stage,
                value=value,
            )


DEFAULT_LIMITS = Limits()
"""The limits used where none are given."""
