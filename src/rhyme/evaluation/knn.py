"""k-NN classification: the bank votes, nothing is fitted.

The protocol of the generated world's gate: features standardised with the training bank, each
frame normalised, the mean of an item's frames, normalised; cosine, k = 10, majority.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rhyme.evaluation.chance import majority_share
from rhyme.evaluation.checks import check_above_zero, check_least, check_some
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import knn_classify
from rhyme.tasks.table import Integer

__all__ = ["PROTOCOL", "Settings", "run"]

Level = Literal["video", "frame"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        k: voters.
        weights: ``"majority"`` or ``"softmax"``.
        temperature: of the softmax.
        standardise: take out the bank's mean and deviation first.
        levels: ``"video"``: an item asks with the mean of its frames; ``"frame"``: each frame
            asks. The bank is one vector an item in both.
        per_class: report the accuracy of each class among the details.
    """

    k: int = 10
    weights: Literal["majority", "softmax"] = "majority"
    temperature: float = 0.07
    standardise: bool = True
    levels: tuple[Level, ...] = ("video", "frame")
    per_class: bool = True

    def __post_init__(self) -> None:
        check_least(self, k=1)
        check_above_zero(self, "temperature")
        check_some(self, "levels")


def class_accuracy(
    predicted: Integer, labels: Integer, classes: tuple[str, ...]
) -> dict[str, float]:
    """Accuracy by class name, over the classes of the labels."""
    return {
        classes[code]: float((predicted[labels == code] == code).mean())
        for code in np.unique(labels).tolist()
    }


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items, and of their single frames.

    Args:
        split: features and labels.
        settings: the settings.

    Returns:
        ``top1`` and ``frame_top1``, as ``levels`` asks; chance is the most frequent class.
    """
    train, y = split.labelled("train")
    test, y_test = split.labelled("test")
    statistics = train.statistics() if settings.standardise else None
    bank = train.video(statistics)
    metrics: list[Metric] = []
    for level in settings.levels:
        video = level == "video"
        queries = test.video(statistics) if video else test.frames(statistics)
        labels = y_test if video else np.repeat(y_test, test.frames_per_item)
        predicted = knn_classify(
            bank,
            y,
            queries,
            settings.k,
            weights=settings.weights,
            temperature=settings.temperature,
        )
        details: dict[str, Any] = {"bank": len(bank)}
        if settings.per_class:
            details["per_class"] = class_accuracy(predicted, labels, split.classes)
        metrics.append(
            Metric(
                name="top1" if video else "frame_top1",
                value=float((predicted == labels).mean()),
                items=len(queries),
                chance=majority_share(y, labels),
                details=details,
            )
        )
    return metrics


PROTOCOL = Protocol(
    id="knn",
    title="k-NN classification on frozen features",
    settings=Settings,
    run=run,
    needs_labels=True,
)
