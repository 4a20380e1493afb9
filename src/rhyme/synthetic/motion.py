"""Where a creature is in every frame: pose, phase labels, key points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.synthetic.draw import JITTER, KEYFRAMES, VideoSpec, generator

TRAVEL: NDArray[np.float64] = np.array(
    [
        [0.36, 0, 0, 0],
        [-0.36, 0, 0, 0],
        [0, -0.36, 0, 0],
        [0, 0.36, 0, 0],
        [0, 0, 1.2, 0],
        [0, 0, -1.2, 0],
        [0, 0, 0, 0.45],
        [0, 0, 0, -0.45],
    ]
)
"""What each primitive adds in all to x, y, angle (radians, clockwise) and log-scale."""

KEYPOINTS: NDArray[np.float64] = np.array(
    [
        [-0.5, -0.5],
        [0.5, -0.5],
        [0.5, 0.5],
        [-0.5, 0.5],
        [0.0, -0.7],
        [0.0, 0.7],
        [-0.7, 0.0],
        [0.7, 0.0],
    ]
)
"""Local coordinates of the eight key points."""

JITTER_SD = 0.03


@dataclass(frozen=True)
class Poses:
    """Pose of the creature in each of ``t`` frames.

    Attributes:
        centre: ``[t, 2]``, x and y in frame coordinates ([-1, 1], y down).
        scale: ``[t]``, local unit in frame coordinates.
        angle: ``[t]`` in radians, positive = clockwise on the screen.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    angle: NDArray[np.float64]

    def take(self, at: NDArray[np.int64]) -> Poses:
        """The poses of some frames only."""
        return Poses(self.centre[at], self.scale[at], self.angle[at])


def poses(spec: VideoSpec, *, jitter: bool = True) -> Poses:
    """Pose in every frame: base value plus the movements' progress minus half of their total.

    Args:
        spec: the video.
        jitter: add the position jitter of each frame.
    """
    t = np.arange(spec.frames, dtype=np.float64)[:, None]
    borders = np.asarray(spec.boundaries)
    travel = TRAVEL[list(spec.primitives)]
    progress = np.clip((t - borders[:-1]) / np.diff(borders), 0, 1)
    moved = progress @ travel - travel.sum(0) / 2
    centre = moved[:, :2] + np.asarray(spec.offset)
    if jitter:
        seed, stream, index = spec.key
        rng = generator(seed, stream, JITTER, index)
        centre = centre + JITTER_SD * rng.standard_normal((spec.frames, 2))
    return Poses(centre, spec.radius * np.exp(moved[:, 3]), spec.rotation + moved[:, 2])


def phases(spec: VideoSpec) -> NDArray[np.int64]:
    """``[t]``, the primitive (0 to 7) that each frame shows; a border belongs to the later one."""
    t = np.arange(spec.frames)
    part = np.searchsorted(np.asarray(spec.boundaries[1:-1]), t, side="right")
    return np.asarray(spec.primitives)[part]


def onsets(spec: VideoSpec) -> NDArray[np.float64]:
    """Seconds at which the movements begin, one a movement."""
    return np.asarray(spec.boundaries[:-1]) / float(spec.fps)


def keyframe_weights(frames: int) -> NDArray[np.float64]:
    """``[t, 4]``, linear weights of the four equally spaced keyframes; each row sums to 1."""
    place = np.arange(frames) * (KEYFRAMES - 1) / (frames - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(KEYFRAMES)), 0, 1)


def keypoints(
    spec: VideoSpec, pose: Poses, size: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The eight key points carried by the pose.

    Args:
        spec: the video.
        pose: poses of ``t`` frames.
        size: side of the frame in pixels.

    Returns:
        Points ``[t, 8, 2]`` in pixels, where 0 is the centre of the first pixel, and whether
        each lies inside the frame, ``[t, 8]``.
    """
    u = KEYPOINTS[:, 0] * spec.aspect
    v = KEYPOINTS[:, 1] / spec.aspect
    cos, sin = np.cos(pose.angle)[:, None], np.sin(pose.angle)[:, None]
    turned = np.stack([cos * u - sin * v, sin * u + cos * v], -1)
    frame = turned * pose.scale[:, None, None] + pose.centre[:, None]
    visible: NDArray[np.bool_] = np.abs(frame).max(-1) <= 1
    return (frame + 1) * (size / 2) - 0.5, visible


def local(
    spec: VideoSpec, pose: Poses, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Local coordinates ``u`` and ``v`` of every pixel centre, each ``[t, size, size]``."""
    axis = pixel_centres(size)
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    # u = (cos dx + sin dy) / scale / a and v = (cos dy - sin dx) / scale * a, split into parts of
    # x and of y so that the full grid is touched by one addition only.
    dx = axis - pose.centre[:, :1]
    dy = axis - pose.centre[:, 1:]
    ku = (1 / (pose.scale * spec.aspect))[:, None]
    kv = (spec.aspect / pose.scale)[:, None]
    c, s = cos[:, None], sin[:, None]
    u = (ku * c * dx).astype(np.float32)[:, None, :] + (ku * s * dy).astype(np.float32)[:, :, None]
    v = (-kv * s * dx).astype(np.float32)[:, None, :] + (kv * c * dy).astype(np.float32)[:, :, None]
    return u, v


def pixel_centres(size: int) -> NDArray[np.float64]:
    """Frame coordinates of the pixel centres along one axis."""
    return (2 * np.arange(size) + 1) / size - 1
