"""Linear probe for video on stored features: batch norm and a linear layer, trained by SGD.

CoCLR's second form: the mean feature of a video's clips, batch 1,024, momentum 0.9, lr 1.0, weight
decay 1e-3, 100 epochs with steps at 60 and 80. Its code keeps the epoch that is best on the test
items; here the last epoch counts, and settings are chosen on validation items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rhyme.evaluation.checks import check_above_zero, check_least
from rhyme.evaluation.knn import class_accuracy, majority_share
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import norm_probe
from rhyme.training.config import ScheduleConfig

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        lr: learning rates to choose from, as they are, whatever the batch.
        weight_decay: L2 terms to choose from.
        epochs: passes over the training items.
        batch_size: items of a batch.
        milestones: epochs at which the rate falls to a tenth.
    """

    lr: tuple[float, ...] = (1.0,)
    weight_decay: tuple[float, ...] = (1e-3,)
    epochs: int = 100
    batch_size: int = 1024
    milestones: tuple[int, ...] = (60, 80)

    def __post_init__(self) -> None:
        check_above_zero(self, "lr")
        check_least(self, weight_decay=0, epochs=1, batch_size=2)
        name = "step" if self.milestones else "constant"  # that they rise is checked there
        ScheduleConfig(name=name, milestones=self.milestones, per="epoch")


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items.

    Args:
        split: features and labels; an item is the mean of its frames or clips.
        settings: the settings.

    Returns:
        ``top1``; chance is the most frequent class.
    """
    (train, y), (test, truth) = (split.labelled(name) for name in ("train", "test"))
    several = len(settings.lr) * len(settings.weight_decay) > 1
    val, y_val = split.labelled("val") if several else (train, y)
    found = norm_probe(
        train.mean(),
        y,
        val.mean(),
        y_val,
        test.mean(),
        classes=len(split.classes),
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        milestones=settings.milestones,
        seed=split.seed,
    )
    details: dict[str, Any] = {
        "lr": found.lr,
        "weight_decay": found.weight_decay,
        "per_class": class_accuracy(found.predictions, truth, split.classes),
    }
    if several:
        details["validation"] = {
            f"lr {a:g}, weight decay {b:g}": score for (a, b), score in found.validation.items()
        }
    lost = [f"lr {a:g}, weight decay {b:g}" for a, b in found.diverged]
    if lost:
        details["diverged"] = lost
    return [
        Metric(
            name="top1",
            value=float((found.predictions == truth).mean()),
            items=len(truth),
            chance=majority_share(y, truth),
            details=details,
            notes=tuple(f"the training diverged at {name}, which was not chosen" for name in lost),
        )
    ]


PROTOCOL = Protocol(
    id="linear_stored",
    title="batch norm and a linear layer on stored features, by SGD",
    settings=Settings,
    run=run,
    needs_labels=True,
)
