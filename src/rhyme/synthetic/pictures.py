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
from rhyme.synthetic.shapes import Array, inside, pattern

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
        objects: uint8 ``[t, n, n]``, which creature is seen: where the first one's opacity is above
            one half 1, behind it 2 for the second, and so on; 0 is the background.
        boxes: float32 ``[t, 4]``, x0, y0, x1, y1: the mask fills columns x0 to x1 - 1 and rows
            y0 to y1 - 1; NaN where fewer than 4 pixels are visible.
        keypoints: float32 ``[t, 8, 2]``, x and y in pixels; 0 is the centre of the first pixel.
        visible: bool ``[t, 8]``, whether a key point lies inside the frame.
        poses: float32 ``[t, 4]``: centre x and y ([-1, 1], y down), scale, angle in radians
            (clockwise).

    Boxes, key points and poses are the first creature's.
    """

    frames: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    visible: NDArray[np.bool_]
    poses: NDArray[np.float32]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Where the first creature is seen, bool ``[t, n, n]``; it is in front of the others."""
        return self.objects == 1


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
    cast = [(member, poses(member).take(index)) for member in (spec, *spec.company)]
    pose = cast[0][1]
    weights = keyframe_weights(spec.frames)[index].astype(np.float32)
    frames = np.empty((len(index), size, size, 3), np.uint8)
    objects = np.zeros((len(index), size, size), np.uint8)
    for block in _blocks(len(index), size):
        taken = np.arange(block.start, block.stop)
        layers = [
            _layer(member, where.take(taken), weights[block], size, number, objects[block])
            for number, (member, where) in reversed([*enumerate(cast, 1)])
        ]
        _render_block(spec, index[block], weights[block], layers, frames[block])
    points, visible = keypoints(spec, pose, size)
    return Rendered(
        frames=frames,
        objects=objects,
        boxes=boxes_of(objects == 1),
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


@dataclass(frozen=True)
class _Layer:
    """One creature in ``t`` frames: how opaque it is, and how much of which two colours it has.

    Attributes:
        opacity: ``[t, n, n]``, 0 to 1.
        share: ``[t, n, n]``, 0 to 1, of the first colour.
        first: float32 ``[t, 3]``.
        second: float32 ``[t, 3]``.
    """

    opacity: Array
    share: Array
    first: NDArray[np.float32]
    second: NDArray[np.float32]

    def over(self, image: Array, channel: int) -> Array:
        """A channel ``[t, n, n]`` of what is behind, with the creature in front of it."""
        first, second = (c[:, channel, None, None] for c in (self.first, self.second))
        creature = self.share * (first - second) + second
        return image + self.opacity * (creature - image)


def _layer(
    spec: VideoSpec,
    pose: Poses,
    weights: NDArray[np.float32],
    size: int,
    number: int,
    objects: NDArray[np.uint8],
) -> _Layer:
    """A creature's layer; its ``number`` is put into ``objects [t, n, n]`` where it is seen."""
    u, v = local(spec, pose, size)
    depth = inside(spec.appearance, u, v, spec.contour)
    objects[depth > 0] = number
    edge = depth * (pose.scale * size).astype(np.float32)[:, None, None]
    # Beyond 30 the sigmoid is 0 or 1 in single precision; the limit keeps exp from overflowing.
    opacity = 1 / (1 + np.exp(-np.clip(edge, -30, 30)))
    share = (pattern(spec.pattern, u, v, spec.frequency, spec.phase) + 1) / 2
    return _Layer(
        opacity,
        share,
        weights @ np.array([p.c1 for p in spec.palettes], np.float32),
        weights @ np.array([p.c2 for p in spec.palettes], np.float32),
    )


def _render_block(
    spec: VideoSpec,
    index: NDArray[np.int64],
    weights: NDArray[np.float32],
    layers: Sequence[_Layer],
    frames: NDArray[np.uint8],
) -> None:
    """Render consecutive frames into ``frames``, the last layer in front."""
    size, w = frames.shape[1], weights
    gain = w @ np.array([light.channels for light in spec.lights], np.float32)
    gain *= (w @ np.array([light.gain for light in spec.lights], np.float32))[:, None]
    side = w @ np.array([light.side for light in spec.lights], np.float32)
    shading = 1 + _SHADING * side[:, None] * pixel_centres(size).astype(np.float32)

    background = _background(spec, index, w, size)
    noise = _noise(spec, index, size)
    for c in range(3):
        image: Array = background[c]
        for layer in layers:
            image = layer.over(image, c)
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
