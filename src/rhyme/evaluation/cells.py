"""Cells: can a linear classifier tell from a place's feature what is to be seen there?

A logistic regression is fitted on single cells of the frozen map, without their surroundings. What
stands at a cell is known from masks that lie beside the collection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rhyme.catalog import Catalog
from rhyme.errors import EvaluationError, RhymeError
from rhyme.evaluation.checks import check_above_zero, check_least
from rhyme.evaluation.frames import FrameData, dense_check
from rhyme.evaluation.left_out import item_name, skipped_details, skipped_notes
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.evaluation.truth_masks import Masks, read_masks
from rhyme.tasks import L2_GRID, DenseEncoder, dense_encoder, linear_probe
from rhyme.tasks.table import Integer
from rhyme.views import Keys

__all__ = ["PROTOCOL", "Settings", "run"]

BACKGROUND = "background"
OBJECT = "object"
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        stride: pixels between neighbouring cells of the features.
        stage: the backbone's stage; None for the deepest that can have this stride, at most
            ``layer3`` of a ResNet, and where none can for the finest, which a note says.
        height: frames are scaled to this height first; None keeps them.
        ids: what a mask's ids are: ``"objects"``, each of its own class where the collection tells
            (a world of several creatures does), else of the item's, or of one class where items
            have none; or ``"classes"`` themselves. 0 is the background.
        frames: equally spaced frames of an item.
        items: most training items, drawn by seed; validation gets a third of it, at least one, and
            all test items are measured.
        cells: most training cells, drawn by seed from those of the items; a third for validation.
        l2: penalties to choose from on validation cells.
    """

    stride: int = 8
    stage: str | None = None
    height: int | None = None
    ids: Literal["objects", "classes"] = "objects"
    frames: int = 2
    items: int = 2000
    cells: int = 20_000
    l2: tuple[float, ...] = L2_GRID

    def __post_init__(self) -> None:
        check_least(self, stride=1, height=1, frames=1, items=1, cells=1)
        check_above_zero(self, "l2")


@dataclass(frozen=True)
class _Cells:
    """Features ``[n, d]`` of cells and their classes ``[n]`` by name; what was not to be had.

    ``skipped`` is the reason by name of an item with masks, ``used`` the number of the others.
    """

    features: NDArray[np.float32]
    names: NDArray[np.str_]
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    used: int = 0


def run(data: FrameData, settings: Settings) -> list[Metric]:
    """Agreement of predicted and true classes of the test items' cells.

    Args:
        data: encoder and items of all splits.
        settings: the settings.

    Returns:
        ``miou``, the mean over classes of intersection over union, and ``accuracy``, the share of
        cells that are right. Test cells of a class that no training cell shows have no part. Chance
        is to call every cell background. Details give each class, how many cells were left out of
        which class, and which items with masks, of any split, were skipped.

    Raises:
        EvaluationError: a split has no masks, the training items show fewer than two classes, or
            the test items none of them.
    """
    encoder = dense_encoder(data.encoder, settings.stride, settings.stage, options="--cells.")
    parts = [
        _read(data, encoder, settings, split, share, name)
        for name, split, share in (
            ("train", data.train_items, 1),
            ("val", data.val_items, 3),
            ("test", data.catalog, None),
        )
    ]
    train, val, test = parts
    classes = np.unique(train.names)
    if len(classes) < 2:
        raise EvaluationError("the training cells show one class", stage="cells", value=classes)
    y, y_val, truth = (_codes(part.names, classes) for part in parts)
    known = truth >= 0
    unseen = _counts(test.names[~known])
    if not known.any():
        raise EvaluationError(
            "the test cells show no class of the training cells", stage="cells", value=[*unseen]
        )
    truth = truth[known]
    found = linear_probe(
        train.features, y, val.features, y_val, test.features[known], truth, l2=settings.l2
    )
    still = _codes(np.full(len(truth), BACKGROUND), classes)
    scores = overlaps(found.predictions, truth)
    skipped = {name: why for part in parts for name, why in part.skipped.items()}
    masked = sum(part.used + len(part.skipped) for part in parts)
    details: dict[str, Any] = {
        "stage": encoder.stage,
        "stride": encoder.stride,
        "train_cells": len(train.names),
        "val_cells": len(val.names),
        "per_class": {str(classes[code]): score for code, score in scores.items()},
        "unseen_classes": unseen,
        "l2": found.l2,
        "l2_at_edge": found.at_edge,
        "converged": found.converged,
        **skipped_details(skipped),
    }
    notes = (*skipped_notes(skipped, masked, "items with masks"), *_unseen_notes(unseen))
    return [
        Metric(
            name=name, value=value, items=len(truth), chance=chance, details=details, notes=notes
        )
        for name, value, chance in (
            ("miou", _mean(scores), _mean(overlaps(still, truth))),
            ("accuracy", found.accuracy, float((still == truth).mean())),
        )
    ]


def overlaps(predicted: Integer, true: Integer) -> dict[int, float]:
    """Intersection over union of each class that the true codes hold.

    Args:
        predicted: ``int64 [n]`` codes from 0, or -1 for what is no class.
        true: ``int64 [n]`` codes from 0.
    """
    found: dict[int, float] = {}
    for code in np.unique(true).tolist():
        a, b = predicted == code, true == code
        found[code] = float((a & b).sum() / (a | b).sum())
    return found


def _mean(scores: dict[int, float]) -> float:
    return float(np.mean([*scores.values()]))


def _counts(names: NDArray[np.str_]) -> dict[str, int]:
    """How often each name occurs."""
    values, counts = np.unique(names, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _unseen_notes(unseen: dict[str, int]) -> tuple[str, ...]:
    """A line that names the classes left out, with their cells; none where none is."""
    if not unseen:
        return ()
    listed = ", ".join(f"{name} ({cells} cells)" for name, cells in list(unseen.items())[:_LISTED])
    more = f" and {len(unseen) - _LISTED} more" if len(unseen) > _LISTED else ""
    return (f"classes left out, which no training cell shows: {listed}{more}",)


def _codes(names: NDArray[np.str_], classes: NDArray[np.str_]) -> Integer:
    """Codes of names; -1 for one that is not among the classes."""
    place = np.minimum(np.searchsorted(classes, names), len(classes) - 1)
    return np.where(classes[place] == names, place, -1).astype(np.int64)


def _read(
    data: FrameData,
    encoder: DenseEncoder,
    settings: Settings,
    catalog: Catalog | None,
    share: int | None,
    split: str,
) -> _Cells:
    """The cells of a split in order: all, or one in ``share`` of as many as the settings allow."""
    features: list[NDArray[np.float32]] = []
    names: list[NDArray[np.str_]] = []
    skipped: dict[str, str] = {}
    used = 0
    part = data.of(catalog) if catalog is not None else None
    rows = np.arange(0 if part is None else len(part.catalog))
    if share is not None:
        rows = _drawn(data.seed, split, "items", len(rows), max(1, settings.items // share))
    for row in rows.tolist():
        assert part is not None
        item = part.catalog.item(row)
        try:
            masks = read_masks(part.catalog, item)
            if masks is None:
                continue
            truth = masks.ids
            frames = part.all_frames(row)
        except RhymeError as error:
            skipped[item_name(item)] = error.reason
            continue
        if len(frames) != len(truth):
            skipped[item_name(item)] = f"{len(frames)} frames and {len(truth)} masks"
            continue
        used += 1
        at = np.unique(np.linspace(0, len(truth) - 1, settings.frames).round().astype(int))
        listed = _classes(part, row, masks, settings.ids)
        for t in at:
            pixels = _scaled(part.normalised(frames[int(t)][None]), settings.height)
            cells = encoder(pixels)[0].cpu()
            ids = _at_centres(truth[t], cells, encoder, (pixels.shape[2], pixels.shape[3]))
            features.append(cells.flatten(1).T.numpy())
            names.append(listed[ids.reshape(-1)])
        if split == "test":
            data.told(row + 1)
    if not features:
        why = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:2])
        raise EvaluationError(
            f"no item of the split '{split}' has masks" + (f" ({why})" if why else ""),
            stage="cells",
            remedy="give a generated world, or a folder with JPEGImages and Annotations, with "
            "a split of its own or items enough to draw one",
        )
    x, y = np.concatenate(features), np.concatenate(names)
    if share is not None:
        kept = _drawn(data.seed, split, "cells", len(x), max(1, settings.cells // share))
        x, y = x[kept], y[kept]
    return _Cells(x, y, skipped, used)


def _drawn(seed: int, split: str, name: str, count: int, most: int) -> Integer:
    """Places of at most ``most`` of ``count`` things, ascending, drawn by seed."""
    if count <= most:
        return np.arange(count)
    keys = Keys.of(seed, 0, np.arange(count, dtype=np.uint64)).within(split)
    return np.sort(np.argsort(keys.uniform(name, 1)[:, 0], kind="stable")[:most])


def _scaled(pixels: Tensor, height: int | None) -> Tensor:
    if height is None:
        return pixels
    size = (height, round(pixels.shape[3] * height / pixels.shape[2]))
    return functional.interpolate(
        pixels, size, mode="bilinear", align_corners=False, antialias=True
    )


def _at_centres(
    ids: NDArray[np.uint8], cells: Tensor, encoder: DenseEncoder, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Ids ``[h, w]`` of the pixels that the cells' centres fall on."""
    rows, columns = (
        # a pixel's centre in the scaled frame, brought back to the mask's own pixels
        np.clip(
            np.rint((encoder.offset + encoder.stride * np.arange(n) + 0.5) * whole / scaled - 0.5),
            0,
            whole - 1,
        ).astype(int)
        for n, whole, scaled in zip(cells.shape[1:], ids.shape, size, strict=True)
    )
    return ids[np.ix_(rows, columns)]


def _classes(data: FrameData, row: int, masks: Masks, kind: str) -> NDArray[np.str_]:
    """What each id of an item's masks stands for, ``[256]``; id 0 is the background."""
    if kind == "classes":
        return np.array([BACKGROUND, *(f"class {i}" for i in range(1, 256))])
    if masks.classes is not None:
        return np.array([BACKGROUND, *masks.classes])
    label = OBJECT
    if data.label_column is not None:
        codes, names = data.catalog.labels(data.label_column)
        label = names[int(codes[row])] if codes[row] >= 0 else OBJECT
    return np.array([BACKGROUND, *[label] * 255])


PROTOCOL = Protocol(
    id="cells",
    title="logistic regression on single cells of the frozen map",
    settings=Settings,
    run=run,
    needs_labels=False,
    reads="frames",
    check=dense_check,
    fits=True,
)
