"""Linear evaluation as the papers do it: a classifier on the frozen encoder, trained on crops.

SimCLR (arXiv 2002.05709, appendix B.6): Nesterov's SGD, 90 epochs, 0.1·B/256, no regularisation.
Unlike ``linear`` it sees augmented pictures, and its figure depends on a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

from rhyme.evaluation.grid import Grid, top1_of_grid
from rhyme.evaluation.protocol import Metric, Protocol, SplitData

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings(Grid):
    """Settings of the protocol."""

    epochs: int = 90
    batch_size: int = 256
    lr: tuple[float, ...] = (0.1,)


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items.

    Args:
        split: labels and pixels.
        settings: the settings.

    Returns:
        ``top1``. An encoder that changed meanwhile, batch norm included, is an error.
    """
    return top1_of_grid(split, settings, frozen=True)


PROTOCOL = Protocol(
    id="linear_sgd",
    title="a linear classifier on the frozen encoder, trained on crops",
    settings=Settings,
    run=run,
    needs_labels=True,
    trains=True,
)
