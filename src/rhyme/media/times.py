"""Which frame is shown at a time; shared by all readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rhyme.errors import MediaError
from rhyme.media.limits import Limits

TOLERANCE = 1e-6
"""Seconds by which a time may fall short of a frame's and still mean that frame."""


def shown_at(times: np.ndarray, asked: Sequence[float] | np.ndarray | Tensor) -> np.ndarray:
    """The frame shown at each time: the last one with ``times[k] <= t``.

    Args:
        times: float64 ``[n]``, ascending.
        asked: seconds, ``[t]``.

    Returns:
        int64 ``[t]``, clamped to the first and last frame.

    Raises:
        MediaError: a time is not finite, or the shape is not ``[t]``.
    """
    values = np.asarray(asked, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise MediaError("times must be a list of finite seconds", stage="read", value=values.shape)
    index = np.searchsorted(times, values + TOLERANCE, side="right") - 1
    return np.clip(index, 0, len(times) - 1).astype(np.int64)


def check_request(count: int, width: int, height: int, limits: Limits, path: str | Path) -> None:
    """Refuse a request whose result would be too large, before it is allocated.

    Args:
        count: pictures asked for.
        width: pixels per row.
        height: rows.
        limits: bounds.
        path: the file, for the message.

    Raises:
        LimitExceeded: the tensor would pass ``max_request_bytes``.
    """
    limits.check("request_bytes", count * width * height * 3, file=path, stage="read")
