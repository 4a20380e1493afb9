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
from rhyme.evaluation.checks import check_least
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
        fractions: shares of the labels, in (0, 1].
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
        if not self.lists and not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ConfigError(
                "fractions needs values above 0 and at most 1",
                value=self.fractions,
                remedy="e.g. --semi_supervised.fractions [0.01,0.1] for 1 % and 10 % of the labels",
            )
        if len(set(self.names)) < len(self.names):
            raise ConfigError(
                f"figures have the names of their {name}, and two {name} have one name",
                value=parts,
                remedy="rename one of them" if self.lists else "leave one of them out",
            )
        check_least(self, subset_seed=0)
        _ = self.tunings

    @property
    def names(self) -> list[str]:
        """What each figure is called after: a list's name, or a share of the labels in per cent."""
        if self.lists:
            return [Path(file).stem for file in self.lists]
        return [f"{100 * fraction:g}pct" for fraction in self.fractions]

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
    for name, (rows, written), tuning in zip(
        settings.names, _chosen(pixels, settings), settings.tunings, strict=True
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
    for file in settings.lists:
        if not Path(file).is_file():
            raise ConfigError(
                "there is no such list of labelled items",
                file=file,
                stage=f"settings {options}lists",
                remedy="give a text file of one file name a line",
            )
    for tuning in settings.tunings:
        tuning.views(package.plan)


def _chosen(pixels: Pixels, settings: Settings) -> Iterator[tuple[Integer, dict[str, Any]]]:
    """Rows and what is written down of each share of the labels."""
    for file in settings.lists:
        yield listed_subset(pixels, file)
    if settings.lists:
        return
    rows = pixels.rows["train"]
    ids = np.asarray(pixels.catalog.facts(rows).id, dtype=np.uint64)
    for fraction in settings.fractions:
        places, written = balanced_subset(ids, pixels.codes[rows], fraction, settings.subset_seed)
        yield rows[places], written


PROTOCOL = Protocol(
    id="semi_supervised",
    title="encoder and classifier trained on 1 % and 10 % of the labels",
    settings=Settings,
    run=run,
    needs_labels=True,
    reads="pixels",
    check=_check,
)
