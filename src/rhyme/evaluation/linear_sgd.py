"""Linear evaluation as the papers do it: a classifier on the frozen encoder, trained on crops.

Presets: ``image`` is SimCLR's (arXiv 2002.05709, appendix B.6): Nesterov's SGD, 90 epochs,
0.1·B/256, no regularisation. ``moco`` is that of MoCo, DenseCL and CycleContrast: SGD without
Nesterov's form, lr 30·B/256, batches of 256, 100 epochs with steps at 60 and 80; the classifier
starts from N(0, 0.01). ``coclr`` is CoCLR's for video: batch norm before the linear layer, lr 0.1,
weight decay 1e-3, 100 epochs with steps at 60 and 80; its code leaves the batch to the user, 16
clips here; it trains on validation items too, as nothing is chosen. Unlike ``linear`` it sees
augmented pictures, and its figure depends on a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rhyme.evaluation.grid import Grid, grid_check, top1_of_grid
from rhyme.evaluation.pixels import Pixels
from rhyme.evaluation.protocol import Metric, Protocol

__all__ = ["PRESETS", "PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings(Grid):
    """Settings of the protocol."""

    epochs: int = 90
    batch_size: int = 256
    lr: tuple[float, ...] = (0.1,)


def run(pixels: Pixels, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items.

    Args:
        pixels: labelled items and the encoder.
        settings: the settings.

    Returns:
        ``top1``. An encoder that changed meanwhile, batch norm included, is an error.
    """
    return top1_of_grid(pixels, settings, frozen=True)


PRESETS: dict[str, dict[str, Any]] = {
    "image": {},
    "moco": {
        "batch_size": 256,
        "lr": (30.0,),
        "lr_batch": 256,
        "weight_decay": (0.0,),
        "nesterov": False,
        "schedule": "step",
        "epochs": 100,
        "milestones": (60, 80),
        "scale": (0.08, 1.0),
        "flip": 0.5,
    },
    "coclr": {
        "batch_size": 16,
        "lr": (0.1,),
        "lr_batch": 16,
        "weight_decay": (1e-3,),
        "refit": "train+val",
        "nesterov": False,
        "schedule": "step",
        "epochs": 100,
        "milestones": (60, 80),
        "scale": (0.2, 1.0),
        "norm": True,
        "clips": "half-overlap",
    },
}
"""Published settings by name."""

PROTOCOL = Protocol(
    id="linear_sgd",
    title="a linear classifier on the frozen encoder, trained on crops",
    settings=Settings,
    run=run,
    needs_labels=True,
    reads="pixels",
    check=grid_check,
    presets=PRESETS,
)
