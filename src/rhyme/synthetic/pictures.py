"""Pixels and picture truth of a video, at any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError
from rhyme.synthetic.draw import PIXELS, Scene, VideoSpec, generator
from rhyme.synthetic.motion import (
    Poses,
    keyframe_weights,
    keypoints,
    local,
    pixel_centres,
    poses,
)
from rhyme.synthetic.shapes import inside, pattern

NOISE_SD = 0.02
MIN_BOX_AREA = 4
"""A creature of fewer visible pixels than this has no box."""

_SHADING = 0.35
_BLOCK_PIXELS = 1 << 18


@dataclass(frozen=True)
class Rendered:
    """Pixels and truth of ``t`` frames of ``n`` by ``n`` pixels.

    Attributes:
        frames: uint8 ``[t, n, n, 3]``, RGB.
        masks: bool ``[t, n, n]``, where the creature's opacity is above one half.
        boxes: float32 ``[t, 4]``, x0, y0, x1, y1: the mask fills columns x0 to x1 - 1 and rows
            y0 to y1 - 1; NaN where fewer than 4 pixels are visible.
        keypoints: float32 ``[t, 8, 2]``, x and y in pixels; 0 is the centre of the first pixel.
        visible: bool ``[t, 8]``, whether a key point lies inside the frame.
        poses: float32 ``[t, 4]``: centre x and y ([-1, 1], y down), scale, angle in radians
            (clockwise).
    """

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    visible: NDArray[np.bool_]
    poses: NDArray[np.float32]


def render(spec: VideoSpec, size: int, *, at: Sequence[int] | None = None) -> Rendered:
    """Render a video.

    Args:
        spec: the video.
        size: side of the frame in pixels.
        at: numbers of the frames to render, all by default. A frame has the same pixels
            whichever others are rendered with it.

    Returns:
        Pixels and truth, in the order of ``at``.

    Raises:
        ConfigError: a frame number is outside of the video, or the size is below one pixel.
    """
    index = _frame_numbers(spec, size, at)
    pose = poses(spec).take(index)
    weights = keyframe_weights(spec.frames)[index]
    frames = np.empty((len(index), size, size, 3), np.uint8)
    masks = np.empty((len(index), size, size), bool)
    for block in _blocks(len(index), size):
        part = pose.take(np.arange(block.start, block.stop))
        _render_block(spec, index[block], part, weights[block], frames[block], masks[block])
    points, visible = keypoints(spec, pose, size)
    return Rendered(
        frames=frames,
        masks=masks,
        boxes=boxes_of(masks),
        keypoints=points.astype(np.float32),
        visible=visible,
        poses=np.column_stack([pose.centre, pose.scale, pose.angle]).astype(np.float32),
    )


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Boxes ``[t, 4]`` of masks ``[t, h, w]`` as in :class:`Rendered`; NaN below 4 pixels."""
    columns: NDArray[np.bool_] = np.logical_or.reduce(masks, axis=1)
    rows: NDArray[np.bool_] = np.logical_or.reduce(masks, axis=2)
    height, width = masks.shape[1:]
    boxes = np.stack(
        [
            columns.argmax(1),
            rows.argmax(1),
            width - columns[:, ::-1].argmax(1),
            height - rows[:, ::-1].argmax(1),
        ],
        1,
    ).astype(np.float32)
    boxes[masks.sum((1, 2)) < MIN_BOX_AREA] = np.nan
    return boxes


def _frame_numbers(spec: VideoSpec, size: int, at: Sequence[int] | None) -> NDArray[np.int64]:
    if size < 1:
        raise ConfigError(
            "size is below one pixel", stage="render", value=size, remedy="take 24 to 256"
        )
    index = np.arange(spec.frames) if at is None else np.asarray(at, dtype=np.int64)
    wrong = index[(index < 0) | (index >= spec.frames)]
    if wrong.size:
        raise ConfigError(
            "frame number is outside of the video",
            stage="render",
            value=int(wrong[0]),
            remedy=f"take 0 to {spec.frames - 1}",
        )
    return index


def _blocks(frames: int, size: int) -> Iterator[slice]:
    """Runs of frames small enough that the working arrays stay in cache."""
    step = max(1, _BLOCK_PIXELS // size**2)
    for start in range(0, frames, step):
        yield slice(start, min(frames, start + step))


def _render_block(
    spec: VideoSpec,
    index: NDArray[np.int64],
    pose: Poses,
    weights: NDArray[np.float64],
    frames: NDArray[np.uint8],
    masks: NDArray[np.bool_],
) -> None:
    """Render consecutive frames into ``frames`` and ``masks``."""
    size = masks.shape[-1]
    u, v = local(spec, pose, size)
    depth = inside(spec.appearance, u, v, spec.contour)
    np.greater(depth, 0, out=masks)
    edge = depth * (pose.scale * size).astype(np.float32)[:, None, None]
    # Beyond 30 the sigmoid is 0 or 1 in single precision; the limit keeps exp from overflowing.
    opacity = 1 / (1 + np.exp(-np.clip(edge, -30, 30)))
    share = (pattern(spec.pattern, u, v, spec.frequency, spec.phase) + 1) / 2

    w = weights.astype(np.float32)
    c1 = w @ np.array([p.c1 for p in spec.palettes], np.float32)
    c2 = w @ np.array([p.c2 for p in spec.palettes], np.float32)
    gain = w @ np.array([light.channels for light in spec.lights], np.float32)
    gain *= (w @ np.array([light.gain for light in spec.lights], np.float32))[:, None]
    side = w @ np.array([light.side for light in spec.lights], np.float32)
    shading = 1 + _SHADING * side[:, None] * pixel_centres(size).astype(np.float32)

    background = _background(spec, index, w, size)
    noise = _noise(spec, index, size)
    for c in range(3):
        creature = share * (c1[:, c] - c2[:, c])[:, None, None] + c2[:, c, None, None]
        image = background[c] + opacity * (creature - background[c])
        image *= (gain[:, c, None] * shading)[:, None, :]
        image += noise[:, c]
        image *= 255
        np.rint(image, out=image)
        np.clip(image, 0, 255, out=image)
        frames[..., c] = image


def _background(
    spec: VideoSpec, index: NDArray[np.int64], weights: NDArray[np.float32], size: int
) -> NDArray[np.float32]:
    """Cross-faded scenes, ``[3, t, size, size]``."""
    out = np.zeros((3, len(index), size, size), np.float32)
    shift = index.astype(np.float64)[:, None] * np.asarray(spec.pan)
    for q, scene in enumerate(spec.scenes):
        used = np.flatnonzero(weights[:, q])
        if not used.size:
            continue
        mix = _waves(scene, shift[used], size)
        weight = weights[used, q, None, None]
        for c in range(3):
            out[c, used] += weight * (mix * (scene.dark[c] - scene.light[c]) + scene.light[c])
    return out


def _waves(scene: Scene, shift: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Share of the scene's first colour, ``[t, size, size]``, of a plane shifted by ``[t, 2]``."""
    axis = pixel_centres(size)
    omega = 2 * np.pi * scene.frequency
    z = np.zeros((len(shift), size, size), np.float32)
    for amplitude, factor, turn, phase in (
        (0.6, 1.0, 0.0, scene.phase),
        (0.4, 0.6, 1.2, 2 * scene.phase),
    ):
        kx = factor * omega * np.cos(scene.direction + turn)
        ky = factor * omega * np.sin(scene.direction + turn)
        x = (kx * (axis + shift[:, :1]) + phase).astype(np.float32)
        y = (ky * (axis + shift[:, 1:])).astype(np.float32)
        # sin(x + y) from sines of the two axes: four small tables in place of a full grid.
        z += amplitude * (
            np.sin(x)[:, None, :] * np.cos(y)[:, :, None]
            + np.cos(x)[:, None, :] * np.sin(y)[:, :, None]
        )
    return 0.4 * np.tanh(scene.sharpness * z) + 0.5


def _noise(spec: VideoSpec, index: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Pixel noise ``[t, 3, size, size]``, from one generator a frame."""
    seed, stream, number = spec.key
    out = np.empty((len(index), 3, size, size), np.float32)
    for row, frame in zip(out, index, strict=True):
        rng = generator(seed, stream, PIXELS, number, int(frame))
        rng.standard_normal(dtype=np.float32, out=row)
    return out * np.float32(NOISE_SD)
