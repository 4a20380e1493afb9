"""Few labels: the whole encoder is fine-tuned on a fixed, class-balanced part of the labels.

SimCLR's protocol (arXiv 2002.05709, appendix B.5): 60 epochs on 1 %, 30 epochs on 10 %, learning
rate 0.05·B/256, no weight decay, crops and flips only. Its batch of 4096 is for a million pictures;
ours is 64, and the rate follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhyme.errors import ConfigError
from rhyme.evaluation.pixels import Pixels, balanced_subset, tuned
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.tasks import Tuning

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        fractions: shares of the labels.
        epochs: passes over the chosen items, one number a fraction.
        batch_size: items of a batch; all chosen ones where they are fewer.
        lr: learning rate for a batch of 256.
        subset_seed: which items; the same for all encoders and seeds.
        scale: bounds of a crop's share of the frame's area.
    """

    fractions: tuple[float, ...] = (0.01, 0.1)
    epochs: tuple[int, ...] = (60, 30)
    batch_size: int = 64
    lr: float = 0.05
    subset_seed: int = 0
    scale: tuple[float, float] = (0.08, 1.0)

    def __post_init__(self) -> None:
        if not self.fractions or len(self.fractions) != len(self.epochs):
            raise ConfigError(
                "fractions and epochs go together, one number each",
                value=(self.fractions, self.epochs),
                remedy="e.g. --semi_supervised.fractions [0.1] --semi_supervised.epochs [30]",
            )


def run(pixels: Pixels, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items after fine-tuning on each share of the labels.

    Args:
        pixels: labelled items and the encoder.
        settings: the settings.

    Returns:
        ``top1_1pct``, ``top1_10pct``: the row says which items were chosen.
    """
    rows = pixels.rows["train"]
    ids = np.asarray(pixels.catalog.facts(rows).id, dtype=np.uint64)
    metrics: list[Metric] = []
    for fraction, epochs in zip(settings.fractions, settings.epochs, strict=True):
        places, written = balanced_subset(ids, pixels.codes[rows], fraction, settings.subset_seed)
        tuning = Tuning(
            epochs=epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            scale=settings.scale,
        )
        found = tuned(pixels, rows[places], [tuning])
        metrics.append(
            Metric(
                name=f"top1_{100 * fraction:g}pct",
                value=found.accuracy,
                items=found.items,
                chance=found.chance,
                details={**found.details, "labels": written},
                notes=found.notes,
            )
        )
    return metrics


PROTOCOL = Protocol(
    id="semi_supervised",
    title="encoder and classifier trained on 1 % and 10 % of the labels",
    settings=Settings,
    run=run,
    needs_labels=True,
    reads="pixels",
)
