"""Which figures of two arms belong together: the one rule for tables, reports and documents.

A *repetition* is one collection, split and seed of the evaluation. Several figures of an arm in one
repetition differ in the encoder's own seed alone. Such a seed pairs two encoders that were trained
here, but no trained encoder with a draw of fresh weights, nor with one that was not trained here:
there, what an arm has in one repetition is averaged first.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = [
    "SEED_OF",
    "Measured",
    "Pairs",
    "by_repetition",
    "is_untrained",
    "pair_up",
    "repetition",
]

SEED_OF = "seed_of"
"""Detail of rows whose encoder has no seed of its own: whose theirs is instead."""

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure with what it is paired by.

    Attributes:
        repetition: collection, split and seed of the evaluation.
        seed: of the encoder: of its training, or of its fresh weights.
        value: the figure.
        trained: whether the seed is that of a training here, so that equal ones pair.
    """

    repetition: str
    seed: str
    value: float
    trained: bool = True

    @classmethod
    def of(
        cls,
        pair: object,
        seed: object,
        value: float,
        *,
        encoder: str = "trained",
        details: Mapping[str, Any] | None = None,
    ) -> Measured:
        """A figure of a row.

        Args:
            pair: the row's pair key.
            seed: the row's seed.
            value: the figure.
            encoder: the row's encoder.
            details: the row's details; ``weights`` are those of an encoder off the shelf.
        """
        elsewhere = details is not None and ("weights" in details or SEED_OF in details)
        return cls(
            repetition=repetition(str(pair), seed),
            seed=str(seed),
            value=value,
            trained=not elsewhere and not is_untrained(encoder),
        )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What two arms have in common.

    Attributes:
        values: an arm's figure and the other's, a pair each.
        whole: whether every figure of both takes part with the same weight, so that the mean of
            the differences is the difference of the means.
    """

    values: tuple[tuple[float, float], ...]
    whole: bool

    @property
    def gains(self) -> tuple[float, ...]:
        """The arm minus the other, pair by pair."""
        return tuple(a - b for a, b in self.values)


def is_untrained(encoder: str) -> bool:
    """Whether rows of this encoder are of fresh weights: ``untrained``, or ``NAME untrained``."""
    return encoder == "untrained" or encoder.endswith(" untrained")


def repetition(pair: str, seed: object) -> str:
    """Collection, split and seed of the evaluation: the pair key less the encoder's own seed.

    Args:
        pair: as a row has it, ``COLLECTION/SPLIT/SEED/seedN``.
        seed: the encoder's own, N.
    """
    return pair.removesuffix(f"/seed{seed}")


def by_repetition(figures: Iterable[Measured]) -> dict[str, float]:
    """Mean of an arm's finite figures in each repetition, in the order in which they are met."""
    return _means((figure.repetition, figure.value) for figure in figures)


def pair_up(own: Sequence[Measured], other: Sequence[Measured]) -> Pairs | None:
    """Pairs of two arms.

    Figures pair by repetition and seed where all seeds are those of trainings, and both arms share
    one in every repetition that they share; else by repetition, as means. A single pair counts only
    where neither arm has other figures: several draws of fresh weights keep their spread.

    Args:
        own: figures of an arm; those that are not finite take no part.
        other: figures of the other.

    Returns:
        The pairs; None where means have to be compared instead.
    """
    a, b = by_repetition(own), by_repetition(other)
    shared = [key for key in a if key in b]
    if all(figure.trained for arm in (own, other) for figure in arm):
        c, d = (_means(((f.repetition, f.seed), f.value) for f in arm) for arm in (own, other))
        both = [key for key in c if key in d]
        if {key[0] for key in both} == {*shared} and (len(both) > 1 or len(c) == len(d) == 1):
            return _pairs(c, d, both, own, other)
    alone = all(sum(math.isfinite(f.value) for f in arm) == 1 for arm in (own, other))
    return _pairs(a, b, shared, own, other) if len(shared) > 1 or alone else None


def _pairs(
    a: Mapping[K, float],
    b: Mapping[K, float],
    shared: Sequence[K],
    own: Sequence[Measured],
    other: Sequence[Measured],
) -> Pairs | None:
    if not shared:
        return None
    finite = [[f.value for f in arm if math.isfinite(f.value)] for arm in (own, other)]
    values = tuple((a[key], b[key]) for key in shared)
    means = [
        math.isclose(statistics.fmean(side), statistics.fmean(every), rel_tol=0, abs_tol=1e-9)
        for side, every in zip(zip(*values, strict=True), finite, strict=True)
    ]
    return Pairs(values=values, whole=len(a) == len(b) == len(shared) and all(means))


def _means(figures: Iterable[tuple[K, float]]) -> dict[K, float]:
    found: dict[K, list[float]] = {}
    for key, value in figures:
        if math.isfinite(value):
            found.setdefault(key, []).append(value)
    return {key: statistics.fmean(values) for key, values in found.items()}
