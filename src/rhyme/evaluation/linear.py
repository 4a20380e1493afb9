"""Linear probe: logistic regression on frozen features, its penalty chosen on validation items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rhyme.evaluation.chance import majority_share
from rhyme.evaluation.checks import check_above_zero, check_least, check_some
from rhyme.evaluation.protocol import Metric, Protocol, SplitData
from rhyme.tasks import L2_GRID, linear_probe

__all__ = ["PROTOCOL", "Settings", "run"]

Level = Literal["video", "frame"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        l2: penalties to choose from, ``lambda`` in ``mean loss + lambda / 2 * ||W||^2``.
        refit: rows of the final classifier, ``"train"`` or ``"train+val"``.
        iterations: most steps of L-BFGS a fit.
        levels: ``"video"``: the plain mean of an item's frames; ``"frame"``: each frame for
            itself, in fitting and in testing.
    """

    l2: tuple[float, ...] = L2_GRID
    refit: Literal["train", "train+val"] = "train"
    iterations: int = 1000
    levels: tuple[Level, ...] = ("video",)

    def __post_init__(self) -> None:
        check_above_zero(self, "l2")
        check_least(self, iterations=1)
        check_some(self, "levels")


def run(split: SplitData, settings: Settings) -> list[Metric]:
    """Top-1 accuracy of the test items.

    Args:
        split: features and labels.
        settings: the settings.

    Returns:
        ``top1`` and ``frame_top1``, as ``levels`` asks; chance is the most frequent class.
    """
    parts = [split.labelled(name) for name in ("train", "val", "test")]
    metrics: list[Metric] = []
    for level in settings.levels:
        video = level == "video"
        x, xv, xt = (t.mean() if video else t.features.reshape(-1, t.dim) for t, _ in parts)
        y, yv, yt = (c if video else np.repeat(c, t.frames_per_item) for t, c in parts)
        found = linear_probe(
            *(x, y, xv, yv, xt, yt),
            l2=settings.l2,
            refit=settings.refit,
            iterations=settings.iterations,
        )
        metrics.append(
            Metric(
                name="top1" if video else "frame_top1",
                value=found.accuracy,
                items=len(xt),
                chance=majority_share(y, yt),
                details={
                    "l2": found.l2,
                    "l2_at_edge": found.at_edge,
                    "validation": {f"{k:g}": v for k, v in found.validation.items()},
                    "fitted_on": found.refit,
                    "converged": found.converged,
                    "per_class": {split.classes[c]: v for c, v in found.per_class.items()},
                },
            )
        )
    return metrics


PROTOCOL = Protocol(
    id="linear",
    title="logistic regression on frozen features",
    settings=Settings,
    run=run,
    needs_labels=True,
)
