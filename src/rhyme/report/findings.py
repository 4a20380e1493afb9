"""What is found beside the figures: the classes that fare worst, and maps of the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ClassShare:
    """How often frames of a class are found by frames of it.

    Attributes:
        name: the class.
        queries: held-out frames of it.
        trained: share of the ``k`` nearest frames of other videos that are of the class, in [0, 1].
        untrained: the same under fresh weights; None where that was not measured.
        chance: the same for frames drawn at random.
        instead: the class that is found most often in its place; empty where none is.
    """

    name: str
    queries: int
    trained: float
    untrained: float | None
    chance: float
    instead: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """Features of one encoder in the plane.

    Attributes:
        name: whose they are, e.g. ``"Trained"``.
        points: ``[n, 2]``, one row a frame.
        kept: share of the variance in the principal components that the map is made from.
        faithful: trustworthiness in [0, 1]: 1 where neighbours in the map are neighbours in the
            features.
        same_class: share of frames whose nearest frame of another video, in the features, is of
            their class; None without labels.

    Raises:
        DataError: the points are not finite ``[n, 2]``.
    """

    name: str
    points: NDArray[np.floating]
    kept: float
    faithful: float
    same_class: float | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 2 or not np.isfinite(self.points).all():
            raise DataError(
                "a map needs finite points of shape [n, 2]", stage="report", value=self.points.shape
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingMaps:
    """Maps of the same frames under several encoders.

    Attributes:
        maps: one an encoder.
        labels: class of each frame, empty where it has none.
        videos: items that the frames are of.
        components: principal components kept before the map.
        perplexity: of t-SNE.
        seed: of t-SNE and of the choice of frames.

    Raises:
        DataError: maps and labels differ in length.
    """

    maps: Sequence[FeatureMap]
    labels: Sequence[str]
    videos: int
    components: int
    perplexity: float
    seed: int

    def __post_init__(self) -> None:
        lengths = {len(m.points) for m in self.maps} | {len(self.labels)}
        if len(lengths) != 1:
            raise DataError(
                "maps and labels differ in length", stage="report", value=sorted(lengths)
            )
