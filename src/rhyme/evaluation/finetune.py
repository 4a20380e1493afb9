"""Fine-tuning: encoder and classifier are trained together on all labels."""

from __future__ import annotations

from dataclasses import dataclass

from rhyme.evaluation.pixels import tuned
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import Tuning

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        epochs: passes over the labelled training items.
        batch_size: items of a batch.
        lr: learning rates for a batch of 256 to choose from, on the validation items.
        weight_decay: L2 terms to choose from.
        scale: bounds of a crop's share of the frame's area.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: tuple[float, ...] = (0.05,)
    weight_decay: tuple[float, ...] = (0.0,)
    scale: tuple[float, float] = (0.08, 1.0)


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items after fine-tuning.

    Args:
        split: labels and pixels.
        settings: the settings.

    Returns:
        ``top1``; beside the untrained encoder, which is the supervised network from scratch.
    """
    pixels = split.needs_pixels()
    choices = [
        Tuning(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=lr,
            weight_decay=decay,
            scale=settings.scale,
        )
        for lr in settings.lr
        for decay in settings.weight_decay
    ]
    found = tuned(pixels, pixels.rows["train"], choices, split.seed)
    return [
        Metric(
            name="top1",
            value=found.accuracy,
            items=found.items,
            chance=found.chance,
            details=found.details,
        )
    ]


PROTOCOL = Protocol(
    id="finetune",
    title="encoder and classifier trained on all labels",
    settings=Settings,
    run=run,
    needs_labels=True,
    trains=True,
)
