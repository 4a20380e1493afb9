"""Which figures of two arms belong together: the one rule for tables, reports and documents.

Figures belong together that were measured on one collection and split. Several figures of an arm on
one split differ in the encoder's own seed alone. Such a seed pairs two encoders that were trained
here, but no trained encoder with a draw of fresh weights, nor one that was not trained here: there,
what an arm has on one split is averaged first. Another seed of the evaluation measures the same
encoder again and is no repetition.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

__all__ = [
    "EVALUATION_SEED",
    "REPEATED",
    "SEED_OF",
    "Measured",
    "Pairs",
    "averaged",
    "by_split",
    "is_untrained",
    "pair_up",
    "repetition",
    "split_of",
]

REPEATED = ("encoder_seed", "fold", "seed", "split_number")
"""Settings that tell repetitions of one measurement apart, and change nothing of what it is."""
EVALUATION_SEED = "split_seed"
"""Setting of the seed of an evaluation. Where the split is given, it is no repetition."""
SEED_OF = "seed_of"
"""Detail of rows whose encoder has no seed of its own: whose theirs is instead."""

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure with what it is paired by.

    Attributes:
        split: collection and split that it was measured on.
        seed: of the encoder: of its training, or of its fresh weights; empty where it has none.
        value: the figure.
        trained: whether the seed is that of a training here, so that equal ones pair.
        checkpoint: what tells encoders of one seed apart.
    """

    split: str
    seed: str
    value: float
    trained: bool = True
    checkpoint: str = ""

    @classmethod
    def of(
        cls,
        pair: object,
        seed: object,
        value: float,
        *,
        encoder: str = "trained",
        details: Mapping[str, Any] | None = None,
        checkpoint: str = "",
    ) -> Measured:
        """A figure of a row.

        Args:
            pair: the row's pair key.
            seed: the row's seed.
            value: the figure.
            encoder: the row's encoder.
            details: the row's details; ``weights`` are those of an encoder off the shelf.
            checkpoint: what tells encoders of one seed apart.
        """
        fresh = is_untrained(encoder)
        elsewhere = details is not None and ("weights" in details or SEED_OF in details)
        return cls(
            split=split_of(str(pair), seed),
            seed="" if elsewhere and not fresh else str(seed),
            value=value,
            trained=not elsewhere and not fresh,
            checkpoint=checkpoint,
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


def split_of(pair: str, seed: object) -> str:
    """Collection and split: the pair key less both seeds.

    Args:
        pair: as for :func:`repetition`; a key of another form keeps what it has.
        seed: the encoder's own.
    """
    left = repetition(pair, seed)
    return left.rpartition("/")[0] if left != pair and left.count("/") == 2 else left


def averaged(figures: Iterable[Measured]) -> list[Measured]:
    """One figure an encoder and split: the mean over the seeds it was evaluated with there.

    Args:
        figures: of one arm; those that are not finite are left out.
    """
    found: dict[tuple[str, str, str], list[Measured]] = {}
    for figure in figures:
        if math.isfinite(figure.value):
            found.setdefault((figure.split, figure.seed, figure.checkpoint), []).append(figure)
    return [
        replace(own[0], value=statistics.fmean(figure.value for figure in own))
        for own in found.values()
    ]


def by_split(figures: Iterable[Measured]) -> dict[str, float]:
    """Mean of an arm's finite figures on each split, in the order in which they are met."""
    return _means((figure.split, figure.value) for figure in figures)


def pair_up(own: Sequence[Measured], other: Sequence[Measured]) -> Pairs | None:
    """Pairs of two arms.

    Figures pair by split and seed where all seeds are those of trainings, and both arms share one
    on every split that they share; else by split, as means. A single pair counts only where neither
    arm has other figures: several draws of fresh weights keep their spread.

    Args:
        own: figures of an arm, one an encoder and split; those that are not finite take no part.
        other: figures of the other.

    Returns:
        The pairs; None where means have to be compared instead.
    """
    a, b = by_split(own), by_split(other)
    shared = [key for key in a if key in b]
    if all(figure.trained for arm in (own, other) for figure in arm):
        c, d = (_means(((f.split, f.seed), f.value) for f in arm) for arm in (own, other))
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
