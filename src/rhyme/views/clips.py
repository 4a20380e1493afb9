"""Rules for the frames of clips, and what is drawn by them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError

__all__ = ["SPACED", "Clip", "FrameDraws", "Short"]

Place = Literal["random", "centre", "edges", "uniform", "grid", "sample"]
Short = Literal["repeat", "loop", "pad", "drop"]

SPACED = ("random", "centre", "edges")
"""Places whose frames are evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A rule for the frames of a clip.

    Attributes:
        frames: number of frames.
        spacing: seconds between neighbouring frames (rounded to the item's frames).
        stride: native frames between neighbouring frames; 1 if neither is given.
        strides: strides in rising order, of which one is drawn for each item among those with which
            the clip fits into it, at least the first; ``targets["<clip>/stride"]`` tells which.
        place: ``"random"`` places the clip anywhere inside the item, ``"centre"`` in its middle;
            ``"edges"`` draws the frame in the middle of the clip (number ``frames // 2``) from all
            frames of the item, so that the clip may reach beyond both ends (DUAL);
            ``"uniform"`` cuts the item into as many equal segments as frames and takes a random
            frame of each, in order; ``"grid"`` takes equally spaced frames with the first and the
            last; ``"sample"`` draws different frames from anywhere, in random order. The last three
            have no spacing.
        reverse: probability that the clip runs backwards. It is one coin an item, shared by all
            clips of a plan that ask for it; ``targets["reversed"]`` tells how it fell.
        part: ``(i, n)``: the i-th of ``n`` consecutive parts of the earlier clip ``of``, i from 0.
            That clip takes every n-th frame of its span; each part takes as many frames as it from
            its own nth of the span, at an nth of its spacing, and runs in its direction. Nothing
            else is given then.
        of: name of the clip that ``part`` speaks of.
        same_as: name of an earlier clip whose frames are taken again; nothing else is given then.
        exclude: name of an earlier clip of one frame that must not be drawn again. One frame at
            ``"random"``, or ``"sample"``. Where the item has no other frame it is drawn all the
            same, and ``FrameDraws.coincides`` says so.
        short: what stands where the item has no frame: ``"repeat"`` holds the one at its end,
            ``"loop"`` goes round, ``"pad"`` gives empty frames marked as not valid, and ``"drop"``
            leaves items that are too short out of the training set.
        least: items of fewer frames are left out whatever ``short`` says, where a clip of one frame
            again and again teaches nothing.
    """

    frames: int = 1
    spacing: float | None = None
    stride: int | None = None
    strides: tuple[int, ...] | None = None
    place: Place = "random"
    reverse: float = 0.0
    part: tuple[int, int] | None = None
    of: str | None = None
    same_as: str | None = None
    exclude: str | None = None
    short: Short = "repeat"
    least: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError("a clip has at least one frame", value=self.frames)
        if not 0.0 <= self.reverse <= 1.0:
            raise ConfigError("reverse is a probability, 0 to 1", value=self.reverse)
        self._check_spacing()
        if self.exclude is not None and not (
            self.place == "sample" or (self.place == "random" and self.frames == 1)
        ):
            raise ConfigError(
                "only single frames can exclude another clip's frame",
                value=self.exclude,
                remedy='set frames=1 with place="random", or place="sample"',
            )
        if self.same_as is not None:
            self._alone("same_as")
        self._check_part()

    @property
    def takes(self) -> str | None:
        """The earlier clip from which this one takes its frames, if it draws none of its own."""
        return self.of if self.same_as is None else self.same_as

    def _check_spacing(self) -> None:
        given = {"spacing": self.spacing, "stride": self.stride, "strides": self.strides}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ConfigError(f"a clip has one of {' and '.join(named)}", remedy="drop the other")
        for name in named:
            if self.place not in SPACED:
                raise ConfigError(f"a clip placed '{self.place}' has no {name}", value=given[name])
        for name, value in (("spacing", self.spacing), ("stride", self.stride)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"the {name} of a clip must be above 0", value=value)
        rising = (0, *(self.strides or (1,)))
        if self.strides == () or any(a >= b for a, b in pairwise(rising)):
            raise ConfigError(
                "the strides of a clip must be above 0, in rising order",
                value=self.strides,
                remedy="give for example strides=(1, 2, 4, 8)",
            )

    def _check_part(self) -> None:
        if (self.part is None) != (self.of is None):
            raise ConfigError(
                "a part of a clip needs both 'part' and 'of'",
                value=self.of if self.part is None else self.part,
                remedy='give for example part=(0, 2), of="long"',
            )
        if self.part is None:
            return
        self._alone("part", "of")
        number, parts = self.part
        if not 0 <= number < parts:
            raise ConfigError(
                "a clip has parts (0, n) to (n - 1, n)",
                value=self.part,
                remedy="count parts from 0",
            )

    def _alone(self, *names: str) -> None:
        own = [
            f.name
            for f in fields(self)
            if f.name not in names and getattr(self, f.name) != f.default
        ]
        if own:
            raise ConfigError(
                f"a clip that gives '{names[0]}' takes another's frames and has no options of its "
                "own",
                value=", ".join(own),
                remedy=f"give {' and '.join(names)} alone",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameDraws:
    """The frames drawn for one clip of ``b`` items.

    Attributes:
        index: ``int64 [b, t]`` frame numbers within the item, in the order in which they are shown.
        times: ``float64 [b, t]`` seconds in the file, on the nominal grid.
        valid: ``bool [b, t]``; False for frames that only fill up a short item (``"pad"``).
        coincides: ``bool [b]``; True where an excluded frame had to be drawn again.
        targets: what else was drawn, an array ``[b, ...]`` by name: ``stride`` in native frames.
    """

    index: NDArray[np.int64]
    times: NDArray[np.float64]
    valid: NDArray[np.bool_]
    coincides: NDArray[np.bool_]
    targets: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, items: NDArray[np.int64]) -> FrameDraws:
        """The draws of some items."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "targets"}
        targets = {name: value[items] for name, value in self.targets.items()}
        return FrameDraws(**{name: a[items] for name, a in arrays.items()}, targets=targets)

    def take(self, frames: slice) -> FrameDraws:
        """Some of the frames of every item, without targets."""
        index, times, valid = (x[:, frames] for x in (self.index, self.times, self.valid))
        return replace(self, index=index, times=times, valid=valid, targets={})
