"""Few labels: the whole encoder is fine-tuned on a fixed, class-balanced part of the labels.

SimCLR's protocol (arXiv 2002.05709, appendix B.5): 60 epochs on 1 %, 30 epochs on 10 %, learning
rate 0.05·B/256, no weight decay, crops and flips only. Its batch of 4096 is for a million pictures;
ours is 64, and the rate follows. The published subsets of ImageNet are lists of file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rhyme.encoders import EncoderPackage
from rhyme.errors import ConfigError
from rhyme.evaluation.pixels import Pixels, tuned
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.evaluation.subsets import balanced_subset, listed_subset
from rhyme.tasks import Tuning
from rhyme.tasks.table import Integer

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        fractions: shares of the labels.
        lists: files that name the labelled items, one a line, in place of the fractions.
        epochs: passes over the chosen items, one number a fraction or list.
        batch_size: items of a batch; all chosen ones where they are fewer.
        lr: learning rate for a batch of 256.
        subset_seed: which items; the same for all encoders and seeds.
        scale: bounds of a crop's share of the frame's area.
    """

    fractions: tuple[float, ...] = (0.01, 0.1)
    lists: tuple[str, ...] = ()
    epochs: tuple[int, ...] = (60, 30)
    batch_size: int = 64
    lr: float = 0.05
    subset_seed: int = 0
    scale: tuple[float, float] = (0.08, 1.0)

    def __post_init__(self) -> None:
        name, parts = ("lists", self.lists) if self.lists else ("fractions", self.fractions)
        if not parts or len(parts) != len(self.epochs):
            example = "[1percent.txt]" if self.lists else "[0.1]"
            raise ConfigError(
                f"{name} and epochs go together, one number each",
                value=(parts, self.epochs),
                remedy=f"e.g. --semi_supervised.{name} {example} --semi_supervised.epochs [30]",
            )
        stems = [Path(file).stem for file in self.lists]
        if len(set(stems)) < len(stems):
            raise ConfigError(
                "figures have the names of their lists, and two lists have one name",
                value=self.lists,
                remedy="rename one of them",
            )
        _ = self.tunings

    @property
    def tunings(self) -> list[Tuning]:
        """How each share of the labels is trained on."""
        return [
            Tuning(epochs=epochs, batch_size=self.batch_size, lr=self.lr, scale=self.scale)
            for epochs in self.epochs
        ]


def run(pixels: Pixels, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items after fine-tuning on each share of the labels.

    Args:
        pixels: labelled items and the encoder.
        settings: the settings.

    Returns:
        ``top1_1pct``, ``top1_10pct``, or ``top1_`` and the name of a list: the row says which items
        were chosen.
    """
    metrics: list[Metric] = []
    for (name, rows, written), tuning in zip(
        _chosen(pixels, settings), settings.tunings, strict=True
    ):
        found = tuned(pixels, rows, [tuning])
        metrics.append(
            Metric(
                name=f"top1_{name}",
                value=found.accuracy,
                items=found.items,
                chance=found.chance,
                details={**found.details, "labels": written},
                notes=found.notes,
            )
        )
    return metrics


def _check(package: EncoderPackage, settings: Settings, options: str) -> None:
    for tuning in settings.tunings:
        tuning.views(package.plan)


def _chosen(pixels: Pixels, settings: Settings) -> Iterator[tuple[str, Integer, dict[str, Any]]]:
    """Name, rows and what is written down of each share of the labels."""
    for file in settings.lists:
        yield (Path(file).stem, *listed_subset(pixels, file))
    if settings.lists:
        return
    rows = pixels.rows["train"]
    ids = np.asarray(pixels.catalog.facts(rows).id, dtype=np.uint64)
    for fraction in settings.fractions:
        places, written = balanced_subset(ids, pixels.codes[rows], fraction, settings.subset_seed)
        yield f"{100 * fraction:g}pct", rows[places], written


PROTOCOL = Protocol(
    id="semi_supervised",
    title="encoder and classifier trained on 1 % and 10 % of the labels",
    settings=Settings,
    run=run,
    needs_labels=True,
    reads="pixels",
    check=_check,
)
