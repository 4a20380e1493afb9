"""Linear probe for video on stored features: batch norm and a linear layer, trained by SGD.

CoCLR's second form: the mean feature of a video's clips, batch 1,024, momentum 0.9, lr 1.0, weight
decay 1e-3, 100 epochs with steps at 60 and 80. Its code keeps the epoch that is best on the test
items; here the last epoch counts, and settings are chosen on validation items, which are trained on
too once nothing is left to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rhyme.evaluation.chance import majority_share
from rhyme.evaluation.checks import check_above_zero, check_least
from rhyme.evaluation.knn import class_accuracy
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import NormProbe, norm_probe
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
        refit: rows of the final training, ``"train"`` or ``"train+val"``. With one rate and one
            decay it is the only one; of several the chosen one is trained once more on both.
    """

    lr: tuple[float, ...] = (1.0,)
    weight_decay: tuple[float, ...] = (1e-3,)
    epochs: int = 100
    batch_size: int = 1024
    milestones: tuple[int, ...] = (60, 80)
    refit: Literal["train", "train+val"] = "train+val"

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
    _, truth = split.labelled("test")
    lr, decay = settings.lr, settings.weight_decay
    tried = found = None
    if len(lr) * len(decay) > 1:
        tried = found = _probe(split, settings, "train", lr, decay)
        lr, decay = (tried.lr,), (tried.weight_decay,)
    if found is None or settings.refit != "train":
        found = _probe(split, settings, settings.refit, lr, decay)
    _, fitted = split.labelled(settings.refit)
    details: dict[str, Any] = {
        "lr": found.lr,
        "weight_decay": found.weight_decay,
        "fitted_on": settings.refit,
        "fitted_items": len(fitted),
        "per_class": class_accuracy(found.predictions, truth, split.classes),
    }
    lost: list[str] = []
    if tried is not None:
        details["validation"] = {_name(*pair): score for pair, score in tried.validation.items()}
        lost = [_name(*pair) for pair in tried.diverged]
    if lost:
        details["diverged"] = lost
    return [
        Metric(
            name="top1",
            value=float((found.predictions == truth).mean()),
            items=len(truth),
            chance=majority_share(fitted, truth),
            details=details,
            notes=tuple(f"the training diverged at {name}, which was not chosen" for name in lost),
        )
    ]


def _name(lr: float, decay: float) -> str:
    return f"lr {lr:g}, weight decay {decay:g}"


def _probe(
    split: SplitData,
    settings: Settings,
    rows: str,
    lr: tuple[float, ...],
    decay: tuple[float, ...],
) -> NormProbe:
    """Trained on some rows with each of the settings; the validation items choose among several."""
    (fitted, y), (test, _) = (split.labelled(name) for name in (rows, "test"))
    val, y_val = split.labelled("val") if len(lr) * len(decay) > 1 else (fitted, y)
    return norm_probe(
        fitted.mean(),
        y,
        val.mean(),
        y_val,
        test.mean(),
        classes=len(split.classes),
        lr=lr,
        weight_decay=decay,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        milestones=settings.milestones,
        seed=split.seed,
    )


PROTOCOL = Protocol(
    id="linear_stored",
    title="batch norm and a linear layer on stored features, by SGD",
    settings=Settings,
    run=run,
    needs_labels=True,
)
