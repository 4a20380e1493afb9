"""Correspondence: does the most similar cell of another view show the same place?

Two crops of one frame are augmented as in training; where a place of the one lies in the other is
known from the crops. Only places that both views show are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhyme.errors import ConfigError, EvaluationError, RhymeError
from rhyme.evaluation.checks import check_least
from rhyme.evaluation.frames import FrameData, dense_check
from rhyme.evaluation.left_out import item_name, skipped_details, skipped_notes
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.objectives import nearest_cells
from rhyme.tasks import DenseEncoder, dense_encoder
from rhyme.views import (
    Clip,
    ClipPixels,
    ContrastTransform,
    Keys,
    ViewPlan,
    ViewSpec,
    cell_centres,
    cells_apart,
    true_matches,
)

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        stride: pixels between neighbouring cells of the features.
        stage: the backbone's stage; None for the deepest that can have this stride, at most
            ``layer3`` of a ResNet, and where none can for the finest, which a note says.
        size: side of the views; None for that of the encoder's plan.
        pairs: pairs of views of each item.
        tolerance: cells by which a match may miss, along either side.
        colour: jitter, grayscale and blur as in MoCo v2; off, crops and flips alone.
        smallest: least share of the frame's area in a crop.
    """

    stride: int = 8
    stage: str | None = None
    size: int | None = None
    pairs: int = 4
    tolerance: int = 1
    colour: bool = True
    smallest: float = 0.2

    def __post_init__(self) -> None:
        check_least(self, stride=1, size=1, pairs=1, tolerance=0)
        if not 0 < self.smallest <= 1:
            raise ConfigError(
                "smallest must lie above 0 and at most at 1", value=self.smallest, remedy="try 0.2"
            )


def run(data: FrameData, settings: Settings) -> list[Metric]:
    """Shares of places that are found again.

    Args:
        data: encoder and test items.
        settings: the settings.

    Returns:
        ``accuracy`` within the tolerance, and ``exact``; chance is a cell drawn at random, and
        ``same_cell`` among the details the cell of the same number in the other view.

    Raises:
        EvaluationError: no item can be read, or no two views show a common place.
    """
    size = settings.size or data.plan.size
    encoder = dense_encoder(
        data.encoder, settings.stride, settings.stage, options="--correspondence."
    )
    centres = cell_centres(size, encoder.stride, encoder.offset)
    side = len(centres)
    plan = _plan(data, settings, size)
    sums = np.zeros(5)
    skipped: dict[str, str] = {}
    for row in range(len(data.catalog)):
        try:
            views, maps = _views(data, plan, row, settings.pairs)
        except RhymeError as error:
            skipped[item_name(data.catalog.item(row))] = error.reason
            continue
        match = _match(encoder, views).cpu()
        # layers without padding give fewer cells than there is room for
        side = math.isqrt(match.shape[-1])
        centres = centres[:side]
        true, valid = true_matches(maps[0], maps[1], centres, size)
        sums += _counts(match, true, valid, side, settings.tolerance)
        data.told(row + 1)
    asked = int(sums[0])
    if not asked:
        raise EvaluationError(
            "no two views show a common place",
            stage="correspondence",
            value=dict(list(skipped.items())[:3]),
            remedy="ask for more pairs, or larger crops (correspondence.smallest)",
        )
    hits, exact, still, chance = (float(s) / asked for s in sums[1:])
    details: dict[str, Any] = {
        "stage": encoder.stage,
        "stride": encoder.stride,
        "cells": side * side,
        "size": size,
        "same_cell": still,
        **skipped_details(skipped),
    }
    notes = skipped_notes(skipped, len(data.catalog), "items")
    return [
        Metric(name=name, value=value, items=asked, chance=by, details=details, notes=notes)
        for name, value, by in (("accuracy", hits, chance), ("exact", exact, 1 / side**2))
    ]


def _plan(data: FrameData, settings: Settings, size: int) -> ViewPlan:
    kind = ContrastTransform.moco_v2 if settings.colour else ContrastTransform.vfs_nc
    mean, std = data.plan.mean, data.plan.std
    transform = kind(size=size, scale=(settings.smallest, 1.0), mean=mean, std=std)
    view = ViewSpec(clip="a", transform=transform)
    return ViewPlan(clips={"a": Clip()}, views={"query": view, "key": view})


def _views(
    data: FrameData, plan: ViewPlan, row: int, pairs: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Pixels ``[pairs, 3, size, size]`` and maps ``[pairs, 2, 3]`` of both views of one item."""
    facts = data.catalog.facts([row] * pairs)
    # Each pair has draws of its own, the same for every encoder and in any company.
    keys = Keys(data.seed, 0, np.asarray(facts.id), repeat=np.arange(pairs))
    draws = plan.draw(facts, keys)
    frames = data.frames(row, draws.clips["a"].times[:, 0])
    views = plan.apply({"a": ClipPixels(frames=frames[:, None])}, draws)
    both = [views[name] for name in ("query", "key")]
    maps = [view.map for view in both if view.map is not None]
    return [view.data[:, 0] for view in both], [m[:, 0] for m in maps]


def _match(encoder: DenseEncoder, views: list[Tensor]) -> Tensor:
    query, key = (encoder(view).flatten(2).mT for view in views)
    return nearest_cells(query, key)


def _counts(match: Tensor, true: Tensor, valid: Tensor, side: int, tolerance: int) -> np.ndarray:
    """Places asked, hits, exact hits, hits of the same cell, expected hits of a random cell."""
    cells = torch.arange(side * side)
    near = cells_apart(cells[:, None], cells[None], side) <= tolerance
    own = cells.expand_as(true)
    return np.array(
        [
            int(valid.sum()),
            int((near[match, true] & valid).sum()),
            int(((match == true) & valid).sum()),
            int((near[own, true] & valid).sum()),
            float((near.double().mean(dim=1)[true] * valid).sum()),
        ]
    )


PROTOCOL = Protocol(
    id="correspondence",
    title="places found again in another view of the frame",
    settings=Settings,
    run=run,
    needs_labels=False,
    reads="frames",
    check=dense_check,
)
