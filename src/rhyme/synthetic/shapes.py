"""Silhouettes and patterns of the ten appearance classes, as functions of local coordinates.

Local coordinates ``u`` (right) and ``v`` (down) are those of the creature: it is centred at the
origin and reaches to about 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def inside(kind: int, u: Array, v: Array, jitter: float) -> Array:
    """How far a point lies inside a silhouette, in local units; negative outside.

    Args:
        kind: silhouette id 0 to 9, as in ``APPEARANCES``.
        u: local x, any shape.
        v: local y, of the same shape.
        jitter: contour jitter in [-1, 1].

    Returns:
        The inside measure, of the same shape.
    """
    if kind == 0:
        return 0.85 - np.hypot(u, v)
    if kind == 1:
        return 0.68 - np.maximum(np.abs(u), np.abs(v))
    if kind == 2:
        return np.minimum(0.62 + v, 0.62 - v / 2 - 0.87 * np.abs(u)) - 0.08
    if kind == 3:
        return 0.58 + (0.30 + 0.05 * jitter) * np.cos(5 * np.arctan2(v, u)) - np.hypot(u, v)
    if kind == 4:
        arm = 0.30 + 0.05 * jitter
        au, av = np.abs(u), np.abs(v)
        return np.minimum(arm - np.minimum(au, av), 0.95 - np.maximum(au, av))
    if kind == 5:
        r = np.hypot(u, v)
        return np.minimum(r - (0.50 + 0.07 * jitter), 0.92 - r)
    if kind == 6:
        return 0.58 + (0.33 + 0.05 * jitter) * np.cos(3 * np.arctan2(v, u)) - np.hypot(u, v)
    if kind == 7:
        return np.minimum(0.92 - np.hypot(u, v), v + 0.1 + 0.15 * jitter)
    if kind == 8:
        return np.minimum(0.36 + 0.06 * jitter - np.abs(u), 0.98 - np.abs(v))
    if kind == 9:
        return np.minimum(0.92 - np.hypot(u, v), np.hypot(u - 0.42, v) - (0.62 + 0.05 * jitter))
    raise ValueError(f"silhouette {kind} is not within 0 to 9")


def pattern(kind: int, u: Array, v: Array, frequency: float, phase: float) -> Array:
    """A pattern's value in [-1, 1]: 1 shows the palette's first colour, -1 the second.

    Args:
        kind: pattern id 0 to 9, as in ``PATTERNS``.
        u: local x, any shape.
        v: local y, of the same shape.
        frequency: factor of the pattern's frequencies.
        phase: phase in radians.

    Returns:
        The value, of the same shape.
    """
    f = frequency
    if kind == 0:
        return _square(6 * f * v + phase)
    if kind == 1:
        return np.ones_like(u)
    if kind == 2:
        return _square(5 * f * u + phase) * _square(5 * f * v + phase)
    if kind == 3:
        return _square(9 * f * np.hypot(u, v) + phase)
    if kind == 4:
        return np.tanh(4 * (np.sin(6 * f * u + phase) * np.sin(6 * f * v + phase) - 0.35))
    if kind == 5:
        return _square(4 * np.arctan2(v, u) + phase)
    if kind == 6:
        return np.tanh(5 * u)
    if kind == 7:
        return _square(8 * f * (u + v) + phase)
    if kind == 8:
        bent = np.sin(4 * f * u + 2 * np.sin(3 * f * v + phase))
        return np.tanh(2 * (bent + np.sin(5 * f * v + phase)))
    if kind == 9:
        return np.tanh(6 * (np.hypot(u, v) - 0.5))
    raise ValueError(f"pattern {kind} is not within 0 to 9")


def _square(z: Array) -> Array:
    """A sine with flattened tops."""
    return np.tanh(2.5 * np.sin(z))
