"""What one can ask of a generated world, checked before anything is drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypedDict

from rhyme.errors import ConfigError, UnknownName, nearest

MIN_SIZE = 24
MAX_SIZE = 256
CHROMA_SIZE = 64
"""From this size on colour is stored at half resolution (yuv420p), below in full (yuv444p)."""

MAX_VIDEOS = 1_000_000
MAX_CREATURES = 9
ALONE = (1, 1)
"""One creature in each video."""

AUDIO_RATES = (8000, 16000, 22050, 32000, 44100, 48000)


class WorldOptions(TypedDict, total=False):
    """The fields of :class:`WorldConfig` as keyword arguments of a function, less ``workers``."""

    videos: int | None
    seed: int
    size: int
    fps: float
    frames: int
    gop: int
    palette_keep: float
    scene_keep: float
    fractions: tuple[float, float, float]
    counts: tuple[int, int, int] | None
    sound: bool
    sound_rate: int
    untrimmed: int
    creatures: tuple[int, int]
    videos_per_group: int
    truth: Literal["full", "labels"]


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Size, length, difficulty and splits of a generated world.

    Attributes:
        videos: number of clips of two movements; may be left out where ``counts`` is given.
        seed: seed of every draw, 0 to 2**63 - 1.
        size: side of the square frame in pixels, 24 to 256; even from 64 on.
        fps: frames a second, 1 to 120.
        frames: frames of a clip, 4 to 4096.
        gop: distance of key frames in frames, 1 to 600.
        palette_keep: PK, probability that a keyframe keeps the video's palette.
        scene_keep: VB, probability that a keyframe keeps the video's background scene.
        fractions: shares of train, val and test, summing to 1; unused where ``counts`` is given.
        counts: exact numbers of train, val and test clips instead of ``fractions``.
        sound: write an AAC track.
        sound_rate: sampling rate of that track in Hz.
        untrimmed: number of longer videos of 4 to 6 phases, beside the clips, split by
            ``fractions``.
        creatures: least and most creatures in a clip, 1 to 9; labels and sound are the first's.
        videos_per_group: videos that show the same creature and share one group.
        truth: ``"full"`` writes masks too; ``"labels"`` leaves them out.
        workers: processes that render and encode, 0 = this one; the bytes do not depend on it.

    Raises:
        ConfigError: a value is out of range or does not fit another one.
    """

    videos: int | None = None
    seed: int = 0
    size: int = 64
    fps: float = 8.0
    frames: int = 16
    gop: int = 8
    palette_keep: float = 0.5
    scene_keep: float = 0.2
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    counts: tuple[int, int, int] | None = None
    sound: bool = True
    sound_rate: int = 16000
    untrimmed: int = 0
    creatures: tuple[int, int] = ALONE
    videos_per_group: int = 1
    truth: Literal["full", "labels"] = "full"
    workers: int = 0

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**63 - 1)
        _within("size", self.size, MIN_SIZE, MAX_SIZE)
        if self.size >= CHROMA_SIZE and self.size % 2:
            raise ConfigError(
                f"size must be even from {CHROMA_SIZE} pixels on, where colour is stored at half "
                "resolution",
                stage="world",
                value=self.size,
                remedy=f"take {self.size - 1} or {self.size + 1}",
            )
        _within("fps", self.fps, 1, 120)
        _within("frames", self.frames, 4, 4096)
        _within("gop", self.gop, 1, 600)
        _within("palette_keep", self.palette_keep, 0, 1)
        _within("scene_keep", self.scene_keep, 0, 1)
        _within("untrimmed", self.untrimmed, 0, MAX_VIDEOS)
        _within("videos_per_group", self.videos_per_group, 1, 10_000)
        _within("workers", self.workers, 0, 1024)
        if self.sound_rate not in AUDIO_RATES:
            raise ConfigError(
                "sound_rate is not one that AAC stores",
                stage="world",
                value=self.sound_rate,
                remedy=f"take one of {', '.join(map(str, AUDIO_RATES))}",
            )
        if self.truth not in ("full", "labels"):
            raise UnknownName(
                "truth has no such kind",
                stage="world",
                value=self.truth,
                remedy=nearest(str(self.truth), ("full", "labels")),
            )
        self._check_creatures()
        self._check_counts()

    def _check_creatures(self) -> None:
        object.__setattr__(self, "creatures", tuple(self.creatures))  # a list, as from JSON
        if len(self.creatures) != 2 or self.creatures[0] > self.creatures[1]:
            raise ConfigError(
                "creatures needs two numbers: the least and the most in a clip",
                stage="world",
                value=self.creatures,
                remedy="take e.g. (3, 5)",
            )
        for count in self.creatures:
            _within("creatures", count, 1, MAX_CREATURES)
            if count != int(count):
                raise ConfigError(
                    "creatures are counted in whole numbers",
                    stage="world",
                    value=self.creatures,
                    remedy="take e.g. (3, 5)",
                )
        if self.untrimmed and self.creatures != ALONE:
            raise ConfigError(
                "untrimmed videos show one creature",
                stage="world",
                value=self.creatures,
                remedy="leave creatures at (1, 1), or untrimmed at 0",
            )

    def _check_counts(self) -> None:
        _shares("fractions", self.fractions)
        for share in self.fractions:
            _within("fractions", share, 0, 1)
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise ConfigError(
                "fractions of train, val and test must sum to 1",
                stage="world",
                value=self.fractions,
                remedy="take e.g. (0.6, 0.2, 0.2), or give counts",
            )
        if self.counts is not None:
            _shares("counts", self.counts)
            for count in self.counts:
                _within("counts", count, 0, MAX_VIDEOS)
            if self.videos is not None and self.videos != sum(self.counts):
                raise ConfigError(
                    f"videos and counts disagree: counts sum to {sum(self.counts)}",
                    stage="world",
                    value=self.videos,
                    remedy="leave videos out",
                )
        elif self.videos is None:
            raise ConfigError(
                "the number of videos is missing",
                stage="world",
                remedy="give videos, or counts of train, val and test",
            )
        else:
            _within("videos", self.videos, 0, MAX_VIDEOS)
        if not self.total:
            raise ConfigError(
                "a world needs at least one video",
                stage="world",
                value=0,
                remedy="give videos, counts or untrimmed a number above 0",
            )
        if self.counts is not None:
            for count in self.counts:
                self._check_groups("counts", count)
        else:
            self._check_groups("videos", self.videos or 0)
        self._check_groups("untrimmed", self.untrimmed)

    def _check_groups(self, name: str, count: int) -> None:
        if count % self.videos_per_group:
            raise ConfigError(
                f"{name} must be a multiple of videos_per_group ({self.videos_per_group})",
                stage="world",
                value=count,
                remedy=f"take {-(-count // self.videos_per_group) * self.videos_per_group}",
            )

    @property
    def clips(self) -> int:
        """Number of clips, without the untrimmed videos."""
        return sum(self.counts) if self.counts is not None else (self.videos or 0)

    @property
    def total(self) -> int:
        """Number of all videos."""
        return self.clips + self.untrimmed

    @property
    def rate(self) -> Fraction:
        """Frames a second as the ratio that is written into the files."""
        return Fraction(self.fps).limit_denominator(1001)

    def facts(self) -> dict[str, object]:
        """All settings that the files depend on, ready for JSON; ``workers`` is none of them."""
        facts = dataclasses.asdict(self)
        del facts["workers"]
        if self.creatures == ALONE:  # a world as it was before there could be more
            del facts["creatures"]
        facts["videos"] = self.clips
        return {k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}


def _within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high]; a NaN is outside of every range."""
    if not low <= value <= high:
        raise ConfigError(
            f"{name} is out of range",
            stage="world",
            value=value,
            remedy=f"take a value from {low} to {high}",
        )


def _shares(name: str, values: tuple[float, ...]) -> None:
    """Refuse anything but one number a split."""
    if len(values) != 3:
        raise ConfigError(
            f"{name} needs three numbers: train, val and test",
            stage="world",
            value=values,
            remedy="take e.g. (0.6, 0.2, 0.2)" if name == "fractions" else "take e.g. (60, 20, 20)",
        )
