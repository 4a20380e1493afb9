"""Training on all labels with several settings, of which the validation items choose one."""

from __future__ import annotations

from dataclasses import dataclass

from rhyme.evaluation.pixels import tuned
from rhyme.evaluation.protocol import Metric, SplitData
from rhyme.tasks import Tuning


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings of a protocol that tries several learning rates and decays.

    Attributes:
        epochs: passes over the labelled training items.
        batch_size: items of a batch.
        lr: learning rates for a batch of 256 to choose from, on the validation items.
        weight_decay: L2 terms to choose from.
        scale: bounds of a crop's share of the frame's area.
    """

    epochs: int
    batch_size: int
    lr: tuple[float, ...]
    weight_decay: tuple[float, ...] = (0.0,)
    scale: tuple[float, float] = (0.08, 1.0)


def top1_of_grid(split: SplitData, grid: Grid, *, frozen: bool) -> list[Metric]:
    """``top1`` of the test items, with the setting that is best on the validation items.

    Args:
        split: labels and pixels.
        grid: what to try.
        frozen: train the classifier alone.
    """
    pixels = split.needs_pixels()
    choices = [
        Tuning(
            epochs=grid.epochs,
            batch_size=grid.batch_size,
            lr=lr,
            weight_decay=decay,
            frozen=frozen,
            scale=grid.scale,
        )
        for lr in grid.lr
        for decay in grid.weight_decay
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
