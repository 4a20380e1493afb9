"""Retrieval across groups: of the class with labels, of the own group without.

The preset ``dual`` is the protocol of the UCF101 and HMDB51 tables (DualVar, CoCLR): recall at 1 to
50 of centred features. The whole training list answers, with what was set aside of it for
validation, as nothing is chosen. Their code centres test and training items each by their own mean,
which makes a query's answer depend on the other queries; so ``own`` stands beside ``train`` and
``none``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rhyme.errors import DataError
from rhyme.evaluation.checks import check_least, check_some
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import FeatureTable, group_retrieval, retrieval
from rhyme.tasks.table import Float, Integer

__all__ = ["PRESETS", "PROTOCOL", "Settings", "run"]

Level = Literal["video", "frame"]
Centring = Literal["own", "train", "none"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        preset: name of the published settings that the others start from.
        ks: the k of recall at k.
        gallery: who answers: ``"train"``; ``"train+val"``, the training items with those that were
            set aside for validation, as in the UCF101 tables; or ``"test"``, where held-out items
            answer each other.
        standardise: take out the mean and deviation of the training items first; of the gallery
            where validation items are among it.
        centring: measure the class with these mean vectors taken out instead: ``"own"``, that of
            each side (needs all queries at once); ``"train"``, that of the training items for both,
            or of a gallery with validation items; ``"none"``. Figures then end in ``_own_mean``,
            ``_train_mean``, ``_plain``.
        levels: ``"video"`` or ``"frame"``: what asks and what answers.
        group: also measure the retrieval of a frame's own group, which needs no labels.
    """

    preset: str = "image"
    ks: tuple[int, ...] = (1, 5, 10)
    gallery: Literal["train", "train+val", "test"] = "train"
    standardise: bool = True
    centring: tuple[Centring, ...] = ()
    levels: tuple[Level, ...] = ("video",)
    group: bool = True

    def __post_init__(self) -> None:
        check_least(self, ks=1)
        if not self.group:
            check_some(self, "levels")


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Recall at k and mean average precision of the test items.

    Args:
        split: features, and labels if there are any.
        settings: the settings.

    Returns:
        With labels ``recall_at_<k>`` and ``map`` (``frame_`` before them for frames): a hit
        shares the class, and items of the query's group are no answer. ``group_recall_at_<k>``:
        each test frame asks among all other test frames, a hit is of its group; a frame that a
        short item shows several times counts once. Chance is exact.
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
    (test, labels), (gallery, gallery_labels) = (
        split.labelled(name) for name in ("test", settings.gallery)
    )
    train = split.labelled("train")[0] if settings.gallery == "test" else gallery

    def spread(table: FeatureTable, values: Integer) -> Integer:
        return values if level == "video" else np.repeat(values, table.frames_per_item)

    metrics: list[Metric] = []
    for suffix, queries, answers in _sides(test, gallery, train, settings, level):
        found = retrieval(
            queries,
            answers,
            spread(test, labels),
            spread(gallery, gallery_labels),
            spread(test, test.group),
            spread(gallery, gallery.group),
            ks=settings.ks,
        )
        prefix = "" if level == "video" else "frame_"
        figures = [(f"recall_at_{k}", found.recall[k], found.chance_recall[k]) for k in settings.ks]
        figures.append(("map", found.mean_average_precision, found.chance_average_precision))
        metrics += [
            Metric(
                name=prefix + name + suffix,
                value=value,
                items=found.queries,
                chance=chance,
                details={"gallery": found.gallery, "left_out": found.left_out},
            )
            for name, value, chance in figures
        ]
    return metrics


def _sides(
    test: FeatureTable, gallery: FeatureTable, train: FeatureTable, settings: Settings, level: Level
) -> Iterator[tuple[str, Float, Float]]:
    """Ending of the names, queries and gallery, for every form that is measured."""
    if not settings.centring:
        statistics = train.statistics() if settings.standardise else None
        one, two = (
            t.video(statistics) if level == "video" else t.frames(statistics)
            for t in (test, gallery)
        )
        yield "", one, two
        return
    asked, held, bank = (
        t.mean() if level == "video" else t.features.reshape(-1, t.dim)
        for t in (test, gallery, train)
    )
    for form in settings.centring:
        if form == "own":
            yield "_own_mean", asked - asked.mean(axis=0), held - held.mean(axis=0)
        elif form == "train":
            yield "_train_mean", asked - bank.mean(axis=0), held - bank.mean(axis=0)
        else:
            yield "_plain", asked, held


def _of_group(split: SplitData, settings: Settings) -> list[Metric]:
    statistics = split.train.statistics() if settings.standardise else None
    test, moments = split.test, split.test.moments
    groups = np.repeat(test.group, test.frames_per_item)[moments]
    found = group_retrieval(test.frames(statistics)[moments], groups, ks=settings.ks)
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


PRESETS: dict[str, dict[str, Any]] = {
    "image": {},
    "dual": {
        "ks": (1, 5, 10, 20, 50),
        "gallery": "train+val",
        "standardise": False,
        "centring": ("own", "train", "none"),
        "group": False,
    },
}
"""Published settings by name."""

PROTOCOL = Protocol(
    id="retrieval",
    title="retrieval across groups, and of the own group",
    settings=Settings,
    run=run,
    needs_labels=False,
    presets=PRESETS,
)
