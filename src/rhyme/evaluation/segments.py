"""What a clip encoder knows of the order of a clip's segments, and of its video (DUAL)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhyme.encoders import EncoderPackage
from rhyme.errors import EvaluationError, UnknownName, nearest
from rhyme.evaluation.checks import check_least
from rhyme.evaluation.frames import FrameData
from rhyme.evaluation.left_out import item_name, skipped_details, skipped_notes
from rhyme.evaluation.protocol import Metric, Protocol
from rhyme.loading import inference_batches
from rhyme.objectives import calibrate_segments, segment_accuracy, shuffle_segments
from rhyme.tasks import encode
from rhyme.tasks.clip_segments import clip_coherence, intra_variance, other_orders
from rhyme.tasks.table import Float
from rhyme.views import clip_sampling

__all__ = ["PROTOCOL", "Settings", "run"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        clips: clips of each test item, equally spaced inside it; at least 2.
        head: the head that gives one vector a segment. Without the one that is looked for by
            default only ``intra_variance`` is measured, which a note says.
        order_seed: seed of the permutations; None takes the evaluation's.
        batch_size: clips of a forward pass.
    """

    clips: int = 4
    head: str = "series"
    order_seed: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_least(self, clips=2, batch_size=1, order_seed=0)


def run(data: FrameData, settings: Settings) -> list[Metric]:
    """Figures of the segments and clips of held-out items, without augmentation.

    Args:
        data: the test items, an encoder of clips, and its heads.
        settings: the settings.

    Returns:
        ``intra_variance``: variance between the clips of an item as a share of all, of the trunk's
        feature (more is no better by itself: it tells how far an item's clips are apart). With a
        series head also ``ranking_accuracy``: share of segments that are nearest to themselves in
        the clip with its segments in another order, put back by the known permutation, chance one
        in s; and, where there are two groups, ``coherence_margin``: by how much two clips of an
        item are more alike than clips of other groups.

        An item of which not all clips could be read has no part, and is told.

    Raises:
        EvaluationError: the encoder reads frames, or no item can be read whole.
        DataError: nothing varies between the clips.
    """
    if not getattr(data.encoder, "reads_clips", False):
        raise EvaluationError(
            "the protocol needs an encoder of clips", stage="evaluate", value=data.plan.frames
        )
    head = data.heads.get(settings.head)
    failed: dict[int, str] = {}
    passed = _pass(data, settings, None if head is None else head.eval(), failed)
    found = _figures(data, settings, *passed)
    skipped = {item_name(data.catalog.item(row)): why for row, why in sorted(failed.items())}
    lost = skipped_details(skipped)
    notes = skipped_notes(skipped, len(data.catalog), "items")
    if head is None:
        notes += (
            f"the encoder has no head '{settings.head}', which gives one vector a segment: "
            "ranking_accuracy and coherence_margin are not measured",
        )
    return [replace(m, details={**m.details, **lost}, notes=notes) for m in found]


def _check(package: EncoderPackage, settings: Settings, options: str) -> None:
    if settings.head not in package.heads and settings.head != Settings.head:
        raise UnknownName(
            f"the package has no head '{settings.head}'",
            file=package.directory,
            stage=f"settings {options}head",
            remedy=nearest(settings.head, package.heads) if package.heads else "it has none at all",
        )


def _figures(
    data: FrameData,
    settings: Settings,
    rows: np.ndarray,
    pooled: Float,
    hits: Float | None,
    vectors: Float | None,
) -> list[Metric]:
    """The figures of what :func:`_pass` gave."""
    facts = data.catalog.facts(rows)
    found = [
        Metric(
            name="intra_variance",
            value=intra_variance(pooled),
            items=len(rows),
            details={"clips": settings.clips},
        )
    ]
    if vectors is None or hits is None:
        return found
    s = vectors.shape[2]
    details: dict[str, Any] = {"segments": s, "head": settings.head, "clips": settings.clips}
    if s > 1:
        apart = vectors @ vectors.swapaxes(2, 3)
        inner = (apart.sum(axis=(2, 3)) - s) / (s * (s - 1))
        cosine = float(inner.mean())
        found.append(
            Metric(
                name="ranking_accuracy",
                value=float(hits.mean()),
                items=hits.size,
                chance=1 / s,
                details={**details, "segment_cosine": cosine},
            )
        )
    groups = np.asarray(facts.group, dtype=np.int64)
    if len(np.unique(groups)) < 2:
        return found
    coherence = clip_coherence(vectors, groups)
    told = {**details, "positive": coherence.positive, "negative": coherence.negative}
    found.append(
        Metric(
            name="coherence_margin", value=coherence.margin, items=len(rows), chance=0.0,
            details=told,
        )
    )  # fmt: skip
    return found


@torch.inference_mode()
def _pass(
    data: FrameData, settings: Settings, head: Any, failed: dict[int, str]
) -> tuple[np.ndarray, Float, Float | None, Float | None]:
    """Rows ``[n]``, features ``[n, f, d]``, right segments ``[n, f]``, vectors ``[n, f, s, e]``.

    ``failed`` gets the reason of every row that is not among them.
    """
    plan, f = data.plan, settings.clips
    sampling = clip_sampling(
        f"linspace{f}", frames=plan.frames, stride=plan.stride, spacing=plan.spacing
    )
    facts = data.catalog.facts()
    s = 1 if head is None else head.config.blocks
    orders = None
    if s > 1:
        seed = data.seed if settings.order_seed is None else settings.order_seed
        orders = torch.from_numpy(other_orders(np.asarray(facts.id), s, seed))
    batches = inference_batches(
        data.catalog,
        plan,
        clips=sampling.of(facts),
        batch_size=settings.batch_size,
        failed=failed,
    )
    rows: list[Tensor] = []
    pooled: list[Tensor] = []
    hits: list[Tensor] = []
    vectors: list[Tensor] = []
    for batch in batches:
        clips = batch.pixels.to(data.device)
        features = encode(data.encoder, clips)
        rows.append(batch.rows)
        pooled.append(features.float().cpu())
        data.told(int(batch.rows[-1]) + 1)
        if head is None:
            continue
        segments = head(features).unflatten(1, (s, -1))
        vectors.append(segments.float().cpu())
        if orders is not None:
            order = orders[batch.rows].to(data.device)
            shuffled = head(encode(data.encoder, shuffle_segments(clips, order)))
            back = calibrate_segments(shuffled.unflatten(1, (s, -1)), order)
            hits.append(segment_accuracy(segments, back).float().cpu())
    # clips of one item may stand in two batches, of which one can fail without the other
    items, counts = np.unique(torch.cat(rows).numpy() if rows else [], return_counts=True)
    whole = items[counts == f]
    if not len(whole):
        raise EvaluationError(
            "no item can be read",
            stage="evaluate",
            file=data.catalog.root,
            value=next(iter(failed.values()), None),
        )
    kept = torch.isin(torch.cat(rows), torch.from_numpy(whole))
    return (
        whole,
        _by_item(pooled, kept, f),
        _by_item(hits, kept, f) if hits else None,
        _by_item(vectors, kept, f) if vectors else None,
    )


def _by_item(parts: list[Tensor], kept: Tensor, clips: int) -> Float:
    """Those of ``[m, ...]`` that are kept, all clips of an item beside each other, by item."""
    return torch.cat(parts)[kept].unflatten(0, (-1, clips)).numpy()


PROTOCOL = Protocol(
    id="segments",
    title="order of a clip's segments, coherence and variance of a video's clips",
    settings=Settings,
    run=run,
    needs_labels=False,
    reads="frames",
    check=_check,
)
