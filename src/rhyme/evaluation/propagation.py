"""Label propagation: the first frame's masks carried through held-out videos, judged by J and F.

Nothing is fitted. Beside the figures stands what repeating the first mask gives (``chance``): on
slow videos that is much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rhyme.config import to_dict
from rhyme.errors import EvaluationError, RhymeError
from rhyme.evaluation.checks import check_above_zero, check_least
from rhyme.evaluation.frames import FrameData, dense_check
from rhyme.evaluation.left_out import item_name, skipped_details, skipped_notes
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.evaluation.truth_masks import read_masks
from rhyme.tasks import (
    PROPAGATION_PRESETS,
    DenseEncoder,
    PropagationRule,
    boundary_similarity,
    dense_encoder,
    grid_labels,
    label_map,
    mask_score,
    propagate_labels,
    region_similarity,
)

__all__ = ["PROTOCOL", "Settings", "run"]

Ids = NDArray[np.uint8]
_PICTURES = 3
_MOMENTS = 4
_HEIGHT = 160


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        preset: the rule that the others start from: ``"vfs"``, ``"vfs-r50"`` or ``"videowalk"``.
        stride: pixels between neighbouring cells of the features.
        stage: the backbone's stage; None for the deepest that can have this stride, at most
            ``layer3`` of a ResNet, and where none can for the finest, which a note says.
        height: frames are scaled to this height first; None keeps them.
        context: frames looked at beside the first; None for the preset's, as with those below.
        k: places kept.
        temperature: τ.
        radius: cells within which a place is looked for.
        score_ends: count the first and the last frame, which DAVIS leaves out.
    """

    preset: Literal["vfs", "vfs-r50", "videowalk"] = "vfs"
    stride: int = 8
    stage: str | None = None
    height: int | None = None
    context: int | None = None
    k: int | None = None
    temperature: float | None = None
    radius: float | None = None
    score_ends: bool = False

    def __post_init__(self) -> None:
        check_least(self, stride=1, height=1, context=1, k=1)
        check_above_zero(self, "temperature", "radius")

    def rule(self) -> PropagationRule:
        """The rule, with what was changed of the preset."""
        preset = PROPAGATION_PRESETS[self.preset]
        names = {f.name for f in fields(self)} & {f.name for f in fields(preset)}
        own = {name: getattr(self, name) for name in names}
        return replace(preset, **{name: v for name, v in own.items() if v is not None})


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """Of one object: J and F of the prediction and of the first mask repeated, by frame."""

    name: str
    j: NDArray[np.float64]
    f: NDArray[np.float64]
    still_j: NDArray[np.float64]
    still_f: NDArray[np.float64]


def run(data: FrameData, settings: Settings) -> list[Metric]:
    """J and F of the propagated masks, means over objects.

    Args:
        data: encoder and test items; items without masks are passed over.
        settings: the settings.

    Returns:
        ``j_and_f``, ``j`` and ``f``; chance is the first mask repeated. Details give recall and
        decay, the figures of each object, the whole rule, and which items with masks were skipped.

    Raises:
        EvaluationError: no item has masks of at least three frames with an object in the first.
    """
    rule = settings.rule()
    encoder = dense_encoder(data.encoder, settings.stride, settings.stage, options="--propagation.")
    scores: list[_Scores] = []
    skipped: dict[str, str] = {}
    bare = drawn = 0
    for row in range(len(data.catalog)):
        item = data.catalog.item(row)
        try:
            masks = read_masks(data.catalog, item)
            if masks is None:
                bare += 1
                continue
            truth = masks.ids
            frames = data.all_frames(row)
            if (why := _unfit(len(frames), truth)) is not None:
                skipped[item_name(item)] = why
                continue
            predicted = _carried(data, encoder, rule, frames, truth[0], settings.height)
        except RhymeError as error:
            skipped[item_name(item)] = error.reason
            continue
        scores += _score(item_name(item), predicted, truth, settings.score_ends)
        if data.pictures is not None and drawn < _PICTURES:
            drawn += 1
            _draw(data.pictures, item.path, frames, predicted, truth)
        data.told(row + 1)
    if not scores:
        told = [f"{name}: {why}" for name, why in list(skipped.items())[:2]]
        told += [f"{bare} of {len(data.catalog)} items have none"] if bare else []
        raise EvaluationError(
            f"no item has masks to carry ({'; '.join(told)})",
            stage="propagation",
            remedy="give a folder with JPEGImages and Annotations as DAVIS has them, or a "
            "generated world",
        )
    found = _metrics(scores, encoder, rule)
    lost = skipped_details(skipped)
    notes = skipped_notes(skipped, len(data.catalog) - bare, "items with masks")
    return [replace(m, details={**m.details, **lost}, notes=notes) for m in found]


def _unfit(frames: int, truth: Ids) -> str | None:
    """Why masks cannot be carried along so many frames; None where they can."""
    if frames != len(truth):
        return f"{frames} frames and {len(truth)} masks"
    if frames < 3:
        return f"{frames} frames, and it takes three"
    return None if truth[0].any() else "no object in the first frame"


def _carried(
    data: FrameData,
    encoder: DenseEncoder,
    rule: PropagationRule,
    frames: Tensor,
    first: Ids,
    height: int | None,
) -> Ids:
    """Predicted object ids ``[t, h, w]``; the first frame's are the given ones."""
    size = (first.shape[0], first.shape[1])

    def features() -> Iterator[Tensor]:
        for frame in frames:
            pixels = data.normalised(frame[None])
            if height is not None:
                scaled = (height, round(size[1] * height / size[0]))
                pixels = functional.interpolate(
                    pixels, scaled, mode="bilinear", align_corners=False, antialias=True
                )
            yield encoder(pixels)[0].permute(1, 2, 0)

    names = np.unique(first[first > 0])
    labels = torch.from_numpy(np.searchsorted(names, first) + 1) * torch.from_numpy(first > 0)
    stream = features()
    opening = next(stream)
    grid = (opening.shape[0], opening.shape[1])
    start = grid_labels(labels.to(opening.device), len(names), grid, rule)

    def again() -> Iterator[Tensor]:
        yield opening
        yield from stream

    ids = np.concatenate([[0], names]).astype(np.uint8)
    found = [
        ids[label_map(soft, size, rule).cpu().numpy()]
        for soft in propagate_labels(again(), start, rule)
    ]
    return np.stack([first, *found[1:]])


def _score(name: str, predicted: Ids, truth: Ids, ends: bool) -> list[_Scores]:
    part = slice(None) if ends else slice(1, -1)
    still = np.broadcast_to(truth[:1], truth.shape)
    scores: list[_Scores] = []
    for number in np.unique(truth[0][truth[0] > 0]):
        wanted = truth[part] == number
        figures = [
            measure(masks[part] == number, wanted)
            for masks in (predicted, still)
            for measure in (region_similarity, boundary_similarity)
        ]
        scores.append(_Scores(name=f"{name}#{number}", **dict(zip(_FIGURES, figures, strict=True))))
    return scores


_FIGURES = ("j", "f", "still_j", "still_f")


def _metrics(scores: list[_Scores], encoder: DenseEncoder, rule: PropagationRule) -> list[Metric]:
    found = {name: [mask_score(getattr(s, name)) for s in scores] for name in _FIGURES}

    def mean(name: str, of: str = "mean") -> float:
        return float(np.mean([getattr(score, of) for score in found[name]]))

    details: dict[str, Any] = {
        "rule": to_dict(rule),
        "stage": encoder.stage,
        "stride": encoder.stride,
        "objects": {
            s.name: {name: round(score.mean, 4) for name, score in zip(_FIGURES, row, strict=True)}
            for s, row in zip(scores, zip(*found.values(), strict=True), strict=True)
        },
        **{f"{name}_{of}": mean(name, of) for name in ("j", "f") for of in ("recall", "decay")},
    }
    rows = {
        "j_and_f": ((mean("j") + mean("f")) / 2, (mean("still_j") + mean("still_f")) / 2),
        "j": (mean("j"), mean("still_j")),
        "f": (mean("f"), mean("still_f")),
    }
    return [
        Metric(name=name, value=value, items=len(scores), chance=still, details=details)
        for name, (value, still) in rows.items()
    ]


def _draw(folder: Path, name: str, frames: Tensor, predicted: Ids, truth: Ids) -> None:
    """A picture of a few moments: propagated masks above, true ones below."""
    from PIL import Image

    at = np.linspace(0, len(frames) - 1, _MOMENTS).round().astype(int)
    colours = np.array([[0, 0, 0], [230, 60, 40], [50, 130, 240], [60, 180, 75], [245, 190, 30]])
    rows: list[NDArray[np.uint8]] = []
    for masks in (predicted, truth):
        shown: list[NDArray[np.uint8]] = []
        for t in at:
            picture = frames[t].permute(1, 2, 0).cpu().numpy().astype(np.float64)
            ids = masks[t]
            tint = colours[np.where(ids > 0, (ids.astype(int) - 1) % 4 + 1, 0)]
            shown.append(np.where((ids > 0)[..., None], 0.45 * picture + 0.55 * tint, picture))
        rows.append(np.concatenate(shown, axis=1).astype(np.uint8))
    folder.mkdir(parents=True, exist_ok=True)
    stem = PurePosixPath(name).stem
    sheet = np.concatenate(rows)
    times = max(1, _HEIGHT // frames.shape[2])  # small frames are enlarged to be seen
    sheet = sheet.repeat(times, axis=0).repeat(times, axis=1)
    Image.fromarray(sheet).save(folder / f"propagation-{stem}.png")


PROTOCOL = Protocol(
    id="propagation",
    title="masks of the first frame, carried through the video",
    settings=Settings,
    run=run,
    needs_labels=False,
    reads="frames",
    check=dense_check,
)
