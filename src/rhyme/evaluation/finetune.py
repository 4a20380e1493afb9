"""Fine-tuning: encoder and classifier are trained together on all labels."""

from __future__ import annotations

from dataclasses import dataclass

from rhyme.evaluation.grid import Grid, top1_of_grid
from rhyme.evaluation.protocol import Metric, Protocol, SplitData

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings(Grid):
    """Settings of the protocol."""

    epochs: int = 30
    batch_size: int = 64
    lr: tuple[float, ...] = (0.05,)


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items after fine-tuning.

    Args:
        split: labels and pixels.
        settings: the settings.

    Returns:
        ``top1``; beside the untrained encoder, which is the supervised network from scratch.
    """
    return top1_of_grid(split, settings, frozen=False)


PROTOCOL = Protocol(
    id="finetune",
    title="encoder and classifier trained on all labels",
    settings=Settings,
    run=run,
    needs_labels=True,
    trains=True,
)
