"""The transforms as a few operations on a whole batch, for a GPU or any other device.

The same draws give the same maps as the transforms' own ``apply``, and levels that differ by the
rounding of a strongly reduced crop at most. Nothing waits for the device, and nothing loops over
items: what differs from row to row is an index or a factor. Only frames go over, as bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.transfer import sent
from rhyme.views.blur import blur_batch
from rhyme.views.colour import recolour
from rhyme.views.contrast import ContrastTransform
from rhyme.views.crops import Frames, frame_sizes, shorter_side, square_map
from rhyme.views.geometry import compose
from rhyme.views.resample import Axis, resample
from rhyme.views.shift_crop import ShiftCropTransform
from rhyme.views.transforms import EvalTransform, Parameters, chunks, normalise, per_row
from rhyme.views.turn import TurnTransform, rearrange

__all__ = ["apply_batched", "to_device"]

_LIMIT = 2**26  # elements worked on at a time

Transform = ContrastTransform | ShiftCropTransform | EvalTransform | TurnTransform
Made = tuple[Tensor, NDArray[np.float64]]


def to_device(frames: Frames, device: torch.device) -> Tensor:
    """Frames as ``uint8 [b, t, 3, h, w]`` on the device; smaller ones are padded at their ends."""
    if isinstance(frames, Tensor):
        return sent(frames, device)
    height, width = frame_sizes(frames).max(axis=0).tolist()
    shape = (len(frames), *frames[0].shape[:2], height, width)
    host = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for place, clip in enumerate(frames):
        host[place, ..., : clip.shape[-2], : clip.shape[-1]] = clip
    return sent(host, device)


def apply_batched(
    transform: Transform,
    frames: Tensor,
    draw: Parameters,
    drawn_for: NDArray[np.int64],
    actual: NDArray[np.int64],
) -> Made:
    """What ``transform.apply`` makes of the frames, where the frames are.

    Args:
        transform: any transform of pixels.
        frames: ``uint8 [b, t, 3, h, w]`` on any device, from :func:`to_device`.
        draw: its parameters.
        drawn_for: ``int64 [b, 2]`` rows and columns of the frames that it was drawn for; maps lead
            to their pixels, also where the frames given are smaller copies.
        actual: ``int64 [b, 2]`` rows and columns of each item's frames, without padding.

    Returns:
        Views ``float32 [b, t, 3, size, size]`` on the frames' device, and maps ``float64 [b, t, 2,
        3]`` on the host.
    """
    if isinstance(transform, ContrastTransform):
        return _contrast(transform, frames, draw, drawn_for, actual)
    if isinstance(transform, TurnTransform):
        return _turned(transform, frames, draw, drawn_for, actual)
    if isinstance(transform, ShiftCropTransform):
        return _shift_crop(transform, frames, draw, drawn_for, actual)
    return _evaluate(transform, frames, drawn_for, actual)


def _contrast(
    transform: ContrastTransform,
    frames: Tensor,
    draw: Parameters,
    drawn_for: NDArray[np.int64],
    actual: NDArray[np.int64],
) -> Made:
    b, t = frames.shape[:2]
    boxes, maps = transform.place(draw, drawn_for, actual, t)
    part = {name: per_row(value, b, t) for name, value in draw.items()}
    places = per_row(boxes, b, t)
    nothing, upright = np.zeros(b * t, dtype=np.int64), np.zeros(b * t, dtype=bool)
    if transform.resize is None:
        side = np.full(b * t, transform.size)
        rows = _axis(places[:, 0], places[:, 2], side, nothing, upright)
        columns = _axis(places[:, 1], places[:, 3], side, nothing, part["flip"])
    else:
        whole = np.repeat(actual, t, axis=0)
        full = np.broadcast_to(transform.resize, whole.shape)
        rows = _axis(nothing, whole[:, 0], full[:, 0], places[:, 0], upright)
        columns = _axis(nothing, whole[:, 1], full[:, 1], places[:, 1], part["flip"])

    def finish(levels: Tensor, piece: slice) -> Tensor:
        own = {name: value[piece] for name, value in part.items()}
        coloured = recolour(transform, levels, own, blur_batch)
        return normalise(coloured, transform.mean, transform.std)

    return _pieces(transform, frames, rows, columns, finish), maps


def _turned(
    transform: TurnTransform,
    frames: Tensor,
    draw: Parameters,
    drawn_for: NDArray[np.int64],
    actual: NDArray[np.int64],
) -> Made:
    b, t = frames.shape[:2]
    boxes, inner, maps = transform.place(draw, drawn_for, actual, t)
    top, left, tall, wide = np.moveaxis(per_row(boxes, b, t), -1, 0)
    part = {name: per_row(value, b, t) for name, value in draw.items()}
    inner, side = per_row(inner, b, t), np.full(b * t, transform.size)
    upright = np.zeros(b * t, dtype=bool)
    rows, columns = (
        _axis(first, extent, side, np.zeros_like(side), upright)
        for first, extent in ((top, tall), (left, wide))
    )

    def finish(levels: Tensor, piece: slice) -> Tensor:
        own = {name: value[piece] for name, value in part.items()}
        coloured = recolour(transform.base, rearrange(levels, inner[piece]), own, blur_batch)
        return normalise(coloured, transform.base.mean, transform.base.std)

    return _pieces(transform, frames, rows, columns, finish), maps


def _shift_crop(
    transform: ShiftCropTransform,
    frames: Tensor,
    draw: Parameters,
    drawn_for: NDArray[np.int64],
    actual: NDArray[np.int64],
) -> Made:
    b, t = frames.shape[:2]
    part = {name: per_row(value, b, t) for name, value in draw.items()}
    full, square = _squares(drawn_for, transform.resize, transform.resize)
    maps = transform.place(draw, t)
    if (drawn_for != transform.resize).any():
        maps = compose(square[:, None], maps)
    upright = np.zeros(b * t, dtype=bool)
    rows, columns = (
        _cut(actual, full, k, transform.resize, t, part["offset"][:, k], mirrored)
        for k, mirrored in ((0, upright), (1, part["flip"]))
    )

    def finish(levels: Tensor, piece: slice) -> Tensor:
        return transform.colour(levels.byte(), {n: value[piece] for n, value in part.items()})

    return _pieces(transform, frames, rows, columns, finish), maps


def _evaluate(
    transform: EvalTransform,
    frames: Tensor,
    drawn_for: NDArray[np.int64],
    actual: NDArray[np.int64],
) -> Made:
    b, t = frames.shape[:2]
    shorter = transform.resize or transform.size
    full, maps = _squares(drawn_for, shorter, transform.size, transform.aspect)
    nothing, upright = np.zeros(b * t, dtype=np.int64), np.zeros(b * t, dtype=bool)
    rows, columns = (_cut(actual, full, k, transform.size, t, nothing, upright) for k in range(2))

    def finish(levels: Tensor, piece: slice) -> Tensor:
        return normalise(levels, transform.mean, transform.std)

    return _pieces(transform, frames, rows, columns, finish), np.repeat(maps[:, None], t, axis=1)


def _axis(*values: NDArray[np.generic]) -> Axis:
    start, extent, full, first, flip = values
    return Axis(
        start=start.astype(np.int64),
        extent=extent.astype(np.int64),
        full=full.astype(np.int64),
        first=first.astype(np.int64),
        flip=flip.astype(np.bool_),
    )


def _squares(
    display: NDArray[np.int64], resize: int, side: int, aspect: float | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sizes ``[b, 2]`` after scaling the shorter side, and maps of their central squares."""
    kinds, which = np.unique(display, axis=0, return_inverse=True)
    sizes = [(int(rows), int(columns)) for rows, columns in kinds]
    full = [shorter_side(*size, resize, aspect) for size in sizes]
    maps = [square_map(*pair, side) for pair in zip(sizes, full, strict=True)]
    return np.array(full)[which.reshape(-1)], np.stack(maps)[which.reshape(-1)]


def _cut(
    actual: NDArray[np.int64],
    full: NDArray[np.int64],
    axis: int,
    square: int,
    t: int,
    offset: NDArray[np.int64],
    flip: NDArray[np.bool_],
) -> Axis:
    """Whole frames, scaled to ``full``; kept from ``offset`` in the central square on."""
    extent, scaled = (np.repeat(sizes[:, axis], t) for sizes in (actual, full))
    return _axis(np.zeros_like(extent), extent, scaled, (scaled - square) // 2 + offset, flip)


def _pieces(
    transform: Transform,
    frames: Tensor,
    rows: Axis,
    columns: Axis,
    finish: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """Crops of all frames, finished; in as many pieces as memory asks for."""
    b, t = frames.shape[:2]
    flat, side = frames.flatten(0, 1), transform.size
    made: list[Tensor] = []
    for piece in chunks(b * t, 3 * side * max(side, frames.shape[-2]), _LIMIT):
        across, down = columns.part(piece), rows.part(piece)
        levels = resample(flat[piece], down, across, side, transform.interpolation)
        made.append(finish(levels, piece))
    whole = made[0] if len(made) == 1 else torch.cat(made)
    return whole.reshape(b, t, 3, side, side)
