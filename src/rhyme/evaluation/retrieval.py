"""Retrieval across groups: of the class with labels, of the own group without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rhyme.errors import DataError
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import group_retrieval, retrieval
from rhyme.tasks.table import Float, Integer

__all__ = ["PROTOCOL", "Settings", "run"]

Level = Literal["video", "frame"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        ks: the k of recall at k.
        gallery: split that answers: ``"train"`` as in the UCF101 tables, or ``"test"``, where
            held-out items answer each other.
        standardise: take out the training bank's mean and deviation first.
        levels: ``"video"`` or ``"frame"``: what asks and what answers.
        group: also measure the retrieval of a frame's own group, which needs no labels.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    gallery: Literal["train", "test"] = "train"
    standardise: bool = True
    levels: tuple[Level, ...] = ("video",)
    group: bool = True


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Recall at k and mean average precision of the test items.

    Args:
        split: features, and labels if there are any.
        settings: the settings.

    Returns:
        With labels ``recall_at_<k>`` and ``map`` (``frame_`` before them for frames): a hit
        shares the class, and items of the query's group are no answer. ``group_recall_at_<k>``:
        each test frame asks among all other test frames, a hit is of its group. Chance is exact.
    """
    metrics: list[Metric] = []
    if split.labels is not None:
        for level in settings.levels:
            metrics += _of_class(split, settings, level)
    if settings.group or split.labels is None:
        try:
            metrics += _of_group(split, settings)
        except DataError:
            if not metrics:  # single pictures have no other frame of their group, but classes
                raise
    return metrics


def _of_class(split: SplitData, settings: Settings, level: Level) -> list[Metric]:
    train, _ = split.labelled("train")
    statistics = train.statistics() if settings.standardise else None

    def side(name: str) -> tuple[Float, Integer, Integer]:
        table, codes = split.labelled(name)
        if level == "video":
            return table.video(statistics), codes, table.group
        repeat = table.frames_per_item
        return table.frames(statistics), np.repeat(codes, repeat), np.repeat(table.group, repeat)

    queries, labels, groups = side("test")
    gallery, gallery_labels, gallery_groups = side(settings.gallery)
    found = retrieval(
        queries, gallery, labels, gallery_labels, groups, gallery_groups, ks=settings.ks
    )
    prefix = "" if level == "video" else "frame_"
    details = {"gallery": found.gallery, "left_out": found.left_out}
    metrics = [
        Metric(
            name=f"{prefix}recall_at_{k}",
            value=found.recall[k],
            items=found.queries,
            chance=found.chance_recall[k],
            details=details,
        )
        for k in settings.ks
    ]
    metrics.append(
        Metric(
            name=f"{prefix}map",
            value=found.mean_average_precision,
            items=found.queries,
            chance=found.chance_average_precision,
            details=details,
        )
    )
    return metrics


def _of_group(split: SplitData, settings: Settings) -> list[Metric]:
    statistics = split.train.statistics() if settings.standardise else None
    groups = np.repeat(split.test.group, split.test.frames_per_item)
    found = group_retrieval(split.test.frames(statistics), groups, ks=settings.ks)
    return [
        Metric(
            name=f"group_recall_at_{k}",
            value=found.recall[k],
            items=found.queries,
            chance=found.chance_recall[k],
            details={"left_out": found.left_out},
        )
        for k in settings.ks
    ]


PROTOCOL = Protocol(
    id="retrieval",
    title="retrieval across groups, and of the own group",
    settings=Settings,
    run=run,
    needs_labels=False,
)
