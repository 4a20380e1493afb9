"""Fine-tuning: encoder and classifier are trained together on all labels.

Presets: ``image`` is SimCLR's way with 10 % of the labels (arXiv 2002.05709, appendix B.5), here
on all of them; ``simclr-transfer`` is its way of transfer (B.8): 20,000 steps of 256, chosen from 7
learning rates and 8 weight decays, which are divided by the rate; ``small`` is ours for pictures of
at most 64 pixels, of which a crop of 8 % shows nothing. ``dual`` and ``dual-k400`` as DUAL's
published scripts do for encoders from UCF101 and from Kinetics (schedules differ); ``cstp`` and
``cstp-k400`` as CSTP's. These four train on the whole training list, with what was set aside of it
for validation, as nothing is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rhyme.evaluation.grid import Grid, grid_check, top1_of_grid
from rhyme.evaluation.pixels import Pixels
from rhyme.evaluation.protocol import Metric, Protocol

__all__ = ["PRESETS", "PROTOCOL", "Settings", "run"]


SMALL = 64
"""Pixels: the longest side of frames for which the crops of ``image`` are too small."""


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
    metrics = top1_of_grid(pixels, settings, frozen=False)
    facts = pixels.catalog.facts(pixels.rows["train"])
    sides = int(max(np.max(facts.width), np.max(facts.height)))
    if settings.preset == "image" and settings.scale == Settings().scale and sides <= SMALL:
        note = f"frames of {sides} px, cropped to 8 % and more: --finetune.preset small is for them"
        metrics = [replace(m, notes=(*m.notes, note)) for m in metrics]
    return metrics


_DUAL: dict[str, Any] = {
    "batch_size": 16,
    "lr": (0.05,),
    "lr_batch": 16,
    "weight_decay": (1e-3,),
    "refit": "train+val",
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
    "refit": "train+val",
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
    "simclr-transfer": {
        "steps": 20_000,
        "batch_size": 256,
        "lr": tuple(10 ** (-4 + 0.5 * k) for k in range(7)),
        "weight_decay": (0.0, *(10 ** (-6 + 0.5 * k) for k in range(7))),
        "decay_by_lr": True,
    },
    "small": {"epochs": 30, "lr": (0.05, 0.2), "scale": (0.6, 1.0), "flip": 0.5},
    "dual": _DUAL,
    "dual-k400": {**_DUAL, "epochs": 150, "milestones": (50, 100)},
    "cstp": _CSTP,
    "cstp-k400": {**_CSTP, "lr": (0.02,)},
}
"""Published settings by name, and ours for small pictures."""

PROTOCOL = Protocol(
    id="finetune",
    title="encoder and classifier trained on all labels",
    settings=Settings,
    run=run,
    needs_labels=True,
    reads="pixels",
    check=grid_check,
    presets=PRESETS,
)
