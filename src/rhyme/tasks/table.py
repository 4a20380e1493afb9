"""Features of a collection as a table: some frames an item, with times and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError, NotFinite

__all__ = ["FeatureTable", "Float", "Integer", "Statistics", "normalise", "standardise"]

Float = NDArray[np.float32]
Integer = NDArray[np.int64]

_EPS = 1e-12


def normalise(rows: NDArray[np.floating]) -> Float:
    """Rows scaled to length 1; a row of zeros stays one.

    Args:
        rows: ``[..., d]``.

    Returns:
        ``float32 [..., d]``.
    """
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, _EPS), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation a feature, taken from a training bank.

    Attributes:
        mean: ``float32 [d]``.
        std: ``float32 [d]``; 1 where a feature is constant.
    """

    mean: Float
    std: Float

    def apply(self, features: NDArray[np.floating]) -> Float:
        """Features with these statistics taken out: ``float32 [..., d]``."""
        return np.asarray((features - self.mean) / self.std, dtype=np.float32)


def standardise(train: NDArray[np.floating]) -> Statistics:
    """Statistics that give each feature of ``train`` mean 0 and deviation 1.

    Args:
        train: ``[..., d]``; all axes but the last are counted together.

    Returns:
        The statistics, computed in float64.

    Raises:
        DataError: without a row.
    """
    flat = np.asarray(train, dtype=np.float64).reshape(-1, train.shape[-1])
    if len(flat) == 0:
        raise DataError("no features to take statistics from", stage="evaluate")
    mean, std = flat.mean(axis=0), flat.std(axis=0)
    # a dead unit carries nothing: it must not become noise through a division by next to nothing
    dead = std <= 1e-6 * np.maximum(1.0, np.abs(mean))
    std[dead] = 1.0
    return Statistics(mean=mean.astype(np.float32), std=std.astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features of ``n`` items, ``f`` frames (or clips) each.

    Attributes:
        features: ``float32 [n, f, d]`` backbone features as they come, not normalised.
        times: ``float64 [n, f]`` seconds at which each frame is shown.
        index: ``int64 [n]`` row of each item in its catalog.
        ids: ``[n]`` stable item ids.
        group: ``int64 [n]`` code of each item's group.
        left_out: catalog rows that could not be read.
    """

    features: Float
    times: NDArray[np.float64]
    index: Integer
    ids: NDArray[np.integer]
    group: Integer
    left_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.features.ndim != 3:
            raise DataError(
                "a feature table holds [items, frames, d]",
                stage="evaluate",
                value=self.features.shape,
            )
        for name in ("times", "index", "ids", "group"):
            if len(getattr(self, name)) != len(self.features):
                raise DataError(
                    f"{name} has another length than the features",
                    stage="evaluate",
                    value=(len(getattr(self, name)), len(self.features)),
                )
        if not np.isfinite(self.features).all():
            raise NotFinite("features hold values that are not finite", stage="evaluate")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def frames_per_item(self) -> int:
        """Frames an item."""
        return self.features.shape[1]

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self.features.shape[2]

    def select(self, rows: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> FeatureTable:
        """The table of some items, in the order given.

        Args:
            rows: positions in this table, or a mask over it.
        """
        picked = np.asarray(rows)
        if picked.dtype != np.bool_:
            picked = picked.astype(np.int64)
        names = {f.name for f in fields(self)} - {"left_out"}
        return replace(self, **{name: getattr(self, name)[picked] for name in names})

    def join(self, other: FeatureTable) -> FeatureTable:
        """The items of this table, and those of another one behind them.

        Args:
            other: other items of the same catalog under the same encoder, as many frames each.
        """
        names = {f.name for f in fields(self)} - {"left_out"}
        both = {n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in names}
        return replace(self, **both)

    def statistics(self) -> Statistics:
        """Statistics of all frames of this table, the training bank."""
        return standardise(self.features)

    def video(self, statistics: Statistics | None = None) -> Float:
        """One vector an item, as the gate of the generated world defines it.

        Standardise with the bank's statistics, normalise each frame, take the mean of the frames,
        normalise.

        Args:
            statistics: those of the training bank; None leaves out the first step.

        Returns:
            ``float32 [n, d]``.
        """
        return normalise(self._frames(statistics).mean(axis=1))

    def frames(self, statistics: Statistics | None = None) -> Float:
        """One normalised vector a frame, item after item: ``float32 [n * f, d]``.

        Args:
            statistics: those of the training bank; None leaves the features as they are.
        """
        return self._frames(statistics).reshape(-1, self.dim)

    @property
    def moments(self) -> Integer:
        """Rows of :meth:`frames` without repetitions, ``int64 [m]``, ``m ≤ n * f``.

        An item with fewer frames than asked for shows some of them several times. Where a frame
        looks for others of its own video, its copies would be found first.
        """
        earliest = (self.times[:, :, None] == self.times[:, None, :]).argmax(axis=2)
        return np.flatnonzero(earliest == np.arange(self.frames_per_item))

    def mean(self) -> Float:
        """Plain mean of each item's frames, for linear probes: ``float32 [n, d]``."""
        return self.features.mean(axis=1)

    def repeated(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """A value an item, repeated for each of its frames.

        Args:
            values: ``[n, ...]``.

        Returns:
            ``[n * f, ...]`` in the order of :meth:`frames`.
        """
        return np.repeat(values, self.frames_per_item, axis=0)

    def _frames(self, statistics: Statistics | None) -> Float:
        plain = self.features if statistics is None else statistics.apply(self.features)
        return normalise(plain)
