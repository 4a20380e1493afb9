"""Cycle-return rate and same-class attention mass on held-out frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rhyme.evaluation.checks import check_above_zero, check_least
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import cycle_return

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        temperature: of the soft nearest neighbour.
        split_seed: seed of the split of the test groups into queries and support; None takes the
            evaluation's.
        standardise: take out the training bank's mean and deviation first. Off: the definition
            reads backbone features as they are.
    """

    temperature: float = 0.1
    split_seed: int | None = None
    standardise: bool = False

    def __post_init__(self) -> None:
        check_above_zero(self, "temperature")
        check_least(self, split_seed=0)


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Return rates of q̂, of q and of uniform weights; with labels, the same-class mass.

    Args:
        split: features, and labels if there are any.
        settings: the settings.

    Returns:
        ``return_rate``, ``return_rate_query``, ``return_rate_uniform``, ``same_class_mass`` and
        ``nearest_same_class``, with the sizes of both sides among the details. A frame
        that a short item shows several times counts once.
    """
    test = split.test
    statistics = split.train.statistics() if settings.standardise else None
    repeat, moments = test.frames_per_item, test.moments
    labels = None if split.labels is None else np.repeat(split.labels["test"], repeat)[moments]
    found = cycle_return(
        test.frames(statistics)[moments],
        np.repeat(test.group, repeat)[moments],
        labels,
        temperature=settings.temperature,
        seed=split.seed if settings.split_seed is None else settings.split_seed,
    )
    details: dict[str, Any] = {
        "queries": found.queries,
        "left_out": found.left_out,
        "candidates": found.candidates,
        "support": found.support,
        "query_groups": found.query_groups,
        "support_groups": found.support_groups,
        "effective_neighbours": found.effective_neighbours,
    }
    metrics = [
        Metric(name=name, value=value, items=found.queries, chance=found.chance, details=details)
        for name, value in (
            ("return_rate", found.rate),
            ("return_rate_query", found.rate_query),
            ("return_rate_uniform", found.rate_uniform),
        )
    ]
    if found.mass is not None and found.nearest_same_class is not None:
        metrics += [
            Metric(
                name=name,
                value=value,
                items=found.mass_queries,
                chance=found.mass_chance,
                details=details,
            )
            for name, value in (
                ("same_class_mass", found.mass),
                ("nearest_same_class", found.nearest_same_class),
            )
        ]
    return metrics


PROTOCOL = Protocol(
    id="cycle",
    title="cycle-return rate and same-class attention mass",
    settings=Settings,
    run=run,
    needs_labels=False,
)
