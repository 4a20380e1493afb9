"""Rotation and mirroring that a file asks for, applied to every picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """Transpose first, then mirror left-right, then mirror up-down.

    Args:
        transpose: swap rows and columns.
        mirror_x: mirror left-right.
        mirror_y: mirror up-down.
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees clockwise; mirrored orientations give the rotation after mirroring in x."""
        if self.transpose:
            return 90 if self.mirror_x else 270
        return 180 if self.mirror_y else 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the turn."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn a picture.

        Args:
            picture: ``[h, w]`` or ``[h, w, c]``.

        Returns:
            A view of it, ``[h', w']`` or ``[h', w', c]``.
        """
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.mirror_x:
            picture = picture[:, ::-1]
        if self.mirror_y:
            picture = picture[::-1]
        return picture


UPRIGHT = Orientation()


def from_display_matrix(matrix: bytes) -> Orientation:
    """The orientation in a display matrix, rounded to a quarter turn.

    Args:
        matrix: nine native-endian 32-bit integers, rows ``(a, b, u), (c, d, v), (x, y, w)``; a
            stored pixel ``(p, q)`` is shown at ``(a p + c q + x, b p + d q + y)``.

    Returns:
        The orientation; upright where the matrix is degenerate or too short.
    """
    if len(matrix) < 36:
        return UPRIGHT
    a, b, _, c, d = (int(v) for v in np.frombuffer(matrix[:20], dtype=np.int32))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    if a == 0 and d == 0:
        return UPRIGHT
    return Orientation(False, a < 0, d < 0)
