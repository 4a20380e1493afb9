"""Linear evaluation as the papers do it: a classifier on the frozen encoder, trained on crops.

SimCLR (arXiv 2002.05709, appendix B.6): Nesterov's SGD, 90 epochs, 0.1·B/256, no regularisation.
Unlike ``linear`` it sees augmented pictures, and its figure depends on a schedule.
"""

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

    epochs: int = 90
    batch_size: int = 256
    lr: tuple[float, ...] = (0.1,)
    weight_decay: tuple[float, ...] = (0.0,)
    scale: tuple[float, float] = (0.08, 1.0)


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items.

    Args:
        split: labels and pixels.
        settings: the settings.

    Returns:
        ``top1``. An encoder that changed meanwhile, batch norm included, is an error.
    """
    pixels = split.needs_pixels()
    choices = [
        Tuning(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=lr,
            weight_decay=decay,
            frozen=True,
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
    id="linear_sgd",
    title="a linear classifier on the frozen encoder, trained on crops",
    settings=Settings,
    run=run,
    needs_labels=True,
    trains=True,
)
