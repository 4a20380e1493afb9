"""Crops that are turned: by quarters, which are labels, and by small tilts (CSTP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError
from rhyme.views.colour import recolour
from rhyme.views.contrast import ContrastTransform
from rhyme.views.crops import Frames, Interpolation, box_map, fit_boxes, frame_sizes, resize_boxes
from rhyme.views.geometry import compose, flip_map, identity
from rhyme.views.keys import Keys
from rhyme.views.resample import upload
from rhyme.views.transforms import Parameters, check_range, chunks, normalise, per_row

__all__ = ["TurnTransform", "rearrange", "tilt_map", "turn_map"]


@dataclass(frozen=True, kw_only=True)
class TurnTransform:
    """A crop that is mirrored, tilted and turned by quarters.

    ``draw`` leaves ``turn`` at 0: quarter turns are what a joint draw decides on, such as
    :class:`rhyme.views.Overlap`, and so may the box be. The crop is scaled to a square before it is
    turned; mirroring, tilt and turn then move whole pixels, and what a tilt brings in from outside
    of the crop is black.

    Attributes:
        base: crop, flip, colours and normalisation.
        tilt: reach of the tilt, in degrees. What ``base.skip`` leaves out is not tilted either.
        mirror: ``"first"`` mirrors before the turn. ``"last"`` mirrors the turned crop (as
            published), after which a turn by 90 degrees is that by 270 of the mirrored scene.
    """

    base: ContrastTransform
    tilt: float = 10.0
    mirror: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        check_range("tilt", self.tilt, 0.0, 45.0)
        if self.mirror not in ("first", "last"):
            raise ConfigError("mirror must be 'first' or 'last'", value=self.mirror)
        if self.base.resize is not None:
            raise ConfigError(
                "crops that are turned come from frames as they are",
                value=self.base.resize,
                remedy="leave resize out",
            )

    @property
    def size(self) -> int:
        """Side of the view in pixels."""
        return self.base.size

    @property
    def interpolation(self) -> Interpolation:
        """Of the resize of the crop."""
        return self.base.interpolation

    def draw(
        self, keys: Keys, frames: int, width: NDArray[np.int64], height: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Parameters ``[b, frames, ...]`` for items of ``width x height`` pixels."""
        drawn = self.base.draw(keys, frames, width, height)
        kept = keys.uniform("skip", frames) >= self.base.skip  # the coin that base throws
        reach = float(np.deg2rad(self.tilt))
        tilt = keys.uniform("tilt", frames, low=-reach, high=reach)
        turn = np.zeros((len(keys), frames), dtype=np.int64)
        return {**drawn, "tilt": np.where(kept, tilt, 0.0), "turn": turn}

    def place(
        self, draw: Parameters, sizes: NDArray[np.int64], actual: NDArray[np.int64], t: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Boxes, maps within the crop, and maps of the views.

        Args:
            draw: parameters from :meth:`draw`.
            sizes: ``int64 [b, 2]`` rows and columns of the frames that boxes were drawn for.
            actual: those of the frames at hand.
            t: frames of a clip.

        Returns:
            Boxes ``int64 [b, 1 or t, 4]`` in frames of the ``actual`` sizes; maps ``[b, 1 or t, 2,
            3]`` from pixels of the views to those of the scaled crops; maps ``[b, t, 2, 3]`` from
            pixels of the views to those of the frames that were drawn for.
        """
        boxes = fit_boxes(draw["box"], sizes, actual)
        flip = flip_map(draw["flip"], self.size)
        turn, tilt = turn_map(draw["turn"], self.size), tilt_map(draw["tilt"], self.size)
        turned = compose(tilt, turn) if self.mirror == "first" else compose(turn, tilt)
        inner = compose(flip, turned) if self.mirror == "first" else compose(turned, flip)
        maps = compose(box_map(draw["box"], self.size), inner)
        return boxes, inner, np.repeat(maps, t, axis=1) if maps.shape[1] != t else maps

    def apply(
        self, frames: Frames, draw: Parameters, sizes: NDArray[np.int64]
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """Views ``float32 [b, t, 3, size, size]`` and maps ``float64 [b, t, 2, 3]``.

        Args:
            frames: 8-bit frames.
            draw: parameters from :meth:`draw`.
            sizes: ``int64 [b, 2]`` rows and columns of the frames that the boxes were drawn for;
                maps lead to their pixels, also where the frames given are smaller copies.
        """
        b, t = len(frames), frames[0].shape[0]
        boxes, inner, maps = self.place(draw, sizes, frame_sizes(frames), t)
        crops = [
            resize_boxes(clip, boxes[i], self.size, self.interpolation)
            for i, clip in enumerate(frames)
        ]
        flat = rearrange(torch.stack(crops).flatten(0, 1), per_row(inner, b, t)).float()
        rows_of = {name: per_row(value, b, t) for name, value in draw.items()}
        for rows in chunks(len(flat), flat[0].numel()):
            part = {name: value[rows] for name, value in rows_of.items()}
            coloured = recolour(self.base, flat[rows], part)
            flat[rows] = normalise(coloured, self.base.mean, self.base.std)
        return flat.unflatten(0, (b, t)), maps


def turn_map(turns: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Maps from squares that are turned counter-clockwise to the upright ones.

    Args:
        turns: ``[...]`` quarter turns, any whole number.
        side: side of the square in pixels.

    Returns:
        ``float64 [..., 2, 3]`` of whole numbers.
    """
    last = side - 1.0
    quarter = np.array([[[1, 0, 0], [0, 1, 0]], [[0, -1, last], [1, 0, 0]],
                        [[-1, 0, last], [0, -1, last]], [[0, 1, 0], [-1, 0, last]]])  # fmt: skip
    return quarter[np.asarray(turns) % 4].astype(np.float64)


def tilt_map(angle: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Maps from squares that are turned by ``angle`` in radians about their middle to upright ones.

    The turn is counter-clockwise for positive angles, like that of :func:`turn_map`.

    Returns:
        ``float64 [..., 2, 3]``.
    """
    angle = np.asarray(angle, dtype=np.float64)
    out, middle = identity(*angle.shape), (side - 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    out[..., 0, 0], out[..., 0, 1] = cos, -sin
    out[..., 1, 0], out[..., 1, 1] = sin, cos
    out[..., 0, 2] = middle * (1.0 - cos + sin)
    out[..., 1, 2] = middle * (1.0 - cos - sin)
    return out


def rearrange(levels: Tensor, maps: NDArray[np.float64]) -> Tensor:
    """Squares whose pixels are those nearest to where maps lead; 0 where that lies outside.

    Args:
        levels: ``[m, 3, side, side]`` on any device, of any type.
        maps: ``float64 [m, 2, 3]`` from pixels of the result to those of the levels.

    Returns:
        ``[m, 3, side, side]``; the rows that stay as they are are not copied where all do.
    """
    moved = np.flatnonzero((maps != np.eye(2, 3)).any(axis=(-2, -1)))
    if not len(moved):
        return levels
    side, device = levels.shape[-1], levels.device
    # One index for all neighbouring rows of one map: the frames of a clip.
    kinds, which = np.unique(maps[moved].reshape(len(moved), 6), axis=0, return_inverse=True)
    m = upload(kinds.reshape(-1, 2, 3, 1, 1), device)
    line = torch.arange(side, device=device, dtype=torch.float64)
    y, x = line[:, None], line[None, :]
    column, row = ((m[:, k, 0] * x + m[:, k, 1] * y + m[:, k, 2]).add(0.5).floor() for k in (0, 1))
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    index = torch.where(inside, row * side + column, 0.0).long().flatten(1)
    rows, kind = upload(moved, device), upload(which.reshape(-1), device)
    old = levels.index_select(0, rows).flatten(-2)
    index = index.index_select(0, kind)[:, None].expand(-1, levels.shape[1], -1)
    new = old.gather(-1, index) * inside.flatten(1).index_select(0, kind)[:, None]
    return levels.index_copy(0, rows, new.unflatten(-1, (side, side)))
