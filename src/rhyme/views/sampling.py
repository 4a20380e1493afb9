"""Which clips stand for a whole video when it is judged: the rules of the published protocols.

Codes disagree on this, and figures move with it by points, so the rule is a named setting. All are
pure functions from item facts to frame numbers:

- ``linspace10`` (DualVar): the centres of 10 clips equally spaced in [T·s/2, L − T·s/2]; a clip
  starts T·s//2 before its centre, not before frame 0.
- ``linspace10-stride1`` (VCOP): the same on neighbouring frames.
- ``half-overlap`` (CoCLR): all windows that lie inside, T·s//2 − 1 frames apart.
- ``tiled+last`` (CSTP): windows (T − 1)·s frames apart, and the last one that lies inside.

T is the number of frames of a clip, s their stride, L the frames of the video.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError, UnknownName, nearest
from rhyme.views.facts import Facts, frame_counts

__all__ = ["CLIP_RULES", "ClipSampling", "ShortVideo", "WholeClips", "clip_sampling"]

Rule = Literal["linspace", "half-overlap", "tiled+last"]
ShortVideo = Literal["clamp", "repeat-first", "loop"]
"""What becomes of a video that is shorter than a clip: ``"clamp"`` holds its last frame;
``"repeat-first"`` repeats its first frame before it, so that the clip ends where the video does;
``"loop"`` begins again from the front."""

CLIP_RULES: dict[str, tuple[Rule, ShortVideo]] = {
    "linspace10": ("linspace", "clamp"),
    "linspace10-stride1": ("linspace", "clamp"),
    "half-overlap": ("half-overlap", "repeat-first"),
    "tiled+last": ("tiled+last", "loop"),
}
"""The published rules, each with what its code does with short videos. VCOP's takes none; here it
clamps, so that no video is lost. ``linspaceN`` has N clips."""

_LINSPACE = re.compile(r"linspace([1-9]\d{0,3})(-stride1)?")


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeClips:
    """Clips that stand for whole videos, all videos one after another.

    Attributes:
        rows: ``int64 [m]`` the item of each clip, ascending.
        index: ``int64 [m, t]`` frame numbers within the item.
        short: ``bool [n]`` items that have fewer frames than a clip spans.
    """

    rows: NDArray[np.int64]
    index: NDArray[np.int64]
    short: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class ClipSampling:
    """Clips of a whole video, without randomness; :func:`clip_sampling` makes the named ones.

    Attributes:
        rule: ``"linspace"``, ``"half-overlap"`` or ``"tiled+last"``.
        clips: number of clips, for ``"linspace"``; the others take as many as the video gives.
        frames: frames of a clip.
        stride: native frames between neighbouring frames; 0 takes ``spacing``.
        spacing: seconds between them, rounded to the item's frames; used where ``stride`` is 0.
        short: what becomes of a video that is shorter than a clip.
    """

    rule: Rule = "linspace"
    clips: int = 10
    frames: int = 16
    stride: int = 1
    spacing: float = 0.0
    short: ShortVideo = "clamp"

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("frames", 1), ("stride", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} of the clips must be at least {least}", value=getattr(self, name)
                )
        if not 0 <= self.spacing < float("inf"):
            raise ConfigError("the spacing of the clips must not be negative", value=self.spacing)
        for name, known in (("rule", get_args(Rule)), ("short", get_args(ShortVideo))):
            if getattr(self, name) not in known:
                raise UnknownName(
                    f"unknown {name} of clips '{getattr(self, name)}'",
                    remedy=nearest(getattr(self, name), known),
                )

    def __str__(self) -> str:
        step = f"stride {self.stride or 1}"
        if not self.stride and self.spacing:
            step = f"{self.spacing:g} s apart"
        return f"{self.frames} frames, {step}"

    def of(self, facts: Facts) -> WholeClips:
        """The clips of every item.

        Args:
            facts: facts of ``n`` items.
        """
        counts = frame_counts(facts)
        steps = self._strides(facts)
        if self.rule == "linspace":
            rows, starts = self._linspace(counts, steps)
        else:
            rows, starts = self._windows(counts, steps)
        index = starts[:, None] + np.arange(self.frames)[None, :] * steps[rows][:, None]
        span = (self.frames - 1) * steps
        last = counts[rows][:, None] - 1
        short = span > counts - 1
        if self.short == "loop":
            index = index % (last + 1)
        elif self.short == "repeat-first":
            shift = np.minimum(last[:, 0] - span[rows], 0)  # whole windows stay where they are
            index = np.clip(index + shift[:, None], 0, last)
        else:
            index = np.minimum(index, last)
        return WholeClips(rows=rows, index=index, short=short)

    def _strides(self, facts: Facts) -> NDArray[np.int64]:
        fps = np.asarray(facts.fps, dtype=np.float64)
        if self.stride:
            return np.full(len(fps), self.stride, dtype=np.int64)
        return np.maximum(np.floor(self.spacing * np.maximum(fps, 0.0) + 0.5), 1).astype(np.int64)

    def _linspace(
        self, counts: NDArray[np.int64], steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        extent = self.frames * steps
        place = np.arange(self.clips, dtype=np.int64)[None, :]
        if self.clips == 1:
            centres = counts[:, None] // 2
        else:  # in whole numbers: a float would fall below a frame that it should meet
            gaps = self.clips - 1
            room = (counts - extent)[:, None]
            centres = (gaps * extent[:, None] + 2 * place * room) // (2 * gaps)
        starts = np.maximum(centres - (extent // 2)[:, None], 0)
        return np.repeat(np.arange(len(counts)), self.clips), starts.reshape(-1)

    def _windows(
        self, counts: NDArray[np.int64], steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        span = (self.frames - 1) * steps
        apart = self.frames * steps // 2 - 1 if self.rule == "half-overlap" else span
        apart = np.maximum(apart, 1)
        room = np.maximum(counts - 1 - span, 0)  # the last start that lies inside
        many = room // apart + 1
        last = (self.rule == "tiled+last") & (room % apart > 0)
        total = many + last
        rows = np.repeat(np.arange(len(counts)), total)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(total) - total, total)
        return rows, np.minimum(nth * apart[rows], room[rows])


def clip_sampling(
    name: str,
    *,
    frames: int = 16,
    stride: int = 0,
    spacing: float = 0.0,
    short: ShortVideo | None = None,
) -> ClipSampling:
    """A published rule by name.

    Args:
        name: ``"linspace10"``, ``"linspace10-stride1"`` (with any number of clips for the 10),
            ``"half-overlap"`` or ``"tiled+last"``.
        frames: frames of a clip.
        stride: native frames between neighbouring frames; 0 takes ``spacing``. ``-stride1`` has
            its own.
        spacing: seconds between them.
        short: what becomes of short videos; the rule's own by default, see :data:`CLIP_RULES`.

    Raises:
        UnknownName: there is no such rule, with the nearest one that exists.
        ConfigError: a number out of range.
    """
    found = _LINSPACE.fullmatch(name)
    base = name if found is None else "linspace10" + (found[2] or "")
    if base not in CLIP_RULES:
        raise UnknownName(
            f"unknown rule for the clips of a video '{name}'", remedy=nearest(name, CLIP_RULES)
        )
    rule, usual = CLIP_RULES[base]
    sampling = ClipSampling(
        rule=rule, frames=frames, stride=stride, spacing=spacing, short=short or usual
    )
    if found is not None:
        sampling = replace(sampling, clips=int(found[1]))
        if found[2]:
            sampling = replace(sampling, stride=1)
    return sampling
