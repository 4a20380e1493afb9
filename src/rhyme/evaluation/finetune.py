"""Fine-tuning: encoder and classifier are trained together on all labels.

Presets: ``image`` as SimCLR does it; ``dual`` and ``dual-k400`` as DUAL's published scripts do for
encoders from UCF101 and from Kinetics (schedules differ); ``cstp`` and ``cstp-k400`` as CSTP's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rhyme.evaluation.grid import Grid, top1_of_grid
from rhyme.evaluation.pixels import Pixels
from rhyme.evaluation.protocol import Metric, Protocol

__all__ = ["PRESETS", "PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings(Grid):
    """Settings of the protocol."""

    epochs: int = 30
    batch_size: int = 64
    lr: tuple[float, ...] = (0.05,)


def run(pixels: Pixels, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items after fine-tuning.

    Args:
        pixels: labelled items and the encoder.
        settings: the settings.

    Returns:
        ``top1``; beside the untrained encoder, which is the supervised network from scratch.
    """
    return top1_of_grid(pixels, settings, frozen=False)


_DUAL: dict[str, Any] = {
    "batch_size": 16,
    "lr": (0.05,),
    "lr_batch": 16,
    "weight_decay": (1e-3,),
    "nesterov": False,
    "schedule": "step",
    "epochs": 100,
    "milestones": (30, 60, 80),
    "frames": 16,
    "stride": 2,
    "crop": "window",
    "jitter": 0.8,
    "strength": 2.0,  # brightness, contrast and saturation by 0.8, hue by 0.2
    "clips": "linspace10",
}
_CSTP: dict[str, Any] = {
    "batch_size": 60,
    "lr": (0.025,),
    "lr_batch": 60,
    "weight_decay": (5e-4,),
    "nesterov": False,
    "schedule": "plateau",
    "epochs": 100,
    "frames": 16,
    "stride": 4,
    "scale": (0.2, 1.0),
    "jitter": 0.3,
    "unit": True,
    "norm": True,
    "clips": "tiled+last",
    "aggregate": "logits",
}
PRESETS: dict[str, dict[str, Any]] = {
    "image": {},
    "dual": _DUAL,
    "dual-k400": {**_DUAL, "epochs": 150, "milestones": (50, 100)},
    "cstp": _CSTP,
    "cstp-k400": {**_CSTP, "lr": (0.02,)},
}
"""Published settings by name."""

PROTOCOL = Protocol(
    id="finetune",
    title="encoder and classifier trained on all labels",
    settings=Settings,
    run=run,
    needs_labels=True,
    reads="pixels",
    presets=PRESETS,
)
