"""What protocols need that train on pictures: the encoder, the items, and a fair choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from rhyme.catalog import Catalog
from rhyme.encoders import InferencePlan
from rhyme.errors import ConfigError, DataError, Diverged, EvaluationError
from rhyme.evaluation.chance import majority_share
from rhyme.loading import FrameCache
from rhyme.tasks import Classifier, Tuning, fine_tune, predict_classes, usable_rows
from rhyme.tasks.extract import Progress
from rhyme.tasks.table import Integer
from rhyme.views import ClipSampling, ShortVideo, clip_sampling

__all__ = ["Pixels", "Score", "Testing", "Tuned", "tuned"]

_CACHE_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Testing:
    """Which clips of a video are judged.

    Attributes:
        clips: a rule of ``rhyme.views.CLIP_RULES``; None for equally spaced moments.
        short: what becomes of videos shorter than a clip; None takes the rule's own.

    Raises:
        UnknownName: no such rule.
        ConfigError: ``short`` without a rule.
    """

    clips: str | None = None
    short: ShortVideo | None = None

    def __post_init__(self) -> None:
        if self.clips is not None:
            clip_sampling(self.clips, short=self.short)
        elif self.short is not None:
            raise ConfigError(
                "short says what becomes of videos shorter than a clip, and no rule for clips is "
                "named",
                stage="evaluate",
                value=self.short,
                remedy="name one, e.g. --clips linspace10 (of a protocol: --finetune.clips "
                "linspace10), or leave short out",
            )

    def sampling(self, plan: InferencePlan) -> ClipSampling | None:
        """The rule for clips of this plan.

        Raises:
            UnknownName: no such rule.
        """
        if self.clips is None:
            return None
        return clip_sampling(
            self.clips,
            frames=plan.frames,
            stride=plan.stride,
            spacing=plan.spacing,
            short=self.short,
        )


def unlabelled(split: str) -> EvaluationError:
    """The error of a split in which no item has a label."""
    return EvaluationError(
        f"no labelled item in the split '{split}'",
        stage="evaluate",
        remedy="give more groups, or another label column or split",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """Accuracy of a classifier.

    Attributes:
        accuracy: share of the judged items whose class is right, in [0, 1].
        items: items that were judged.
        left_out: items that could not be decoded.
        short: judged videos that are shorter than a clip.
        truth: ``int64 [items]`` their classes.
    """

    accuracy: float
    items: int
    left_out: int
    short: int
    truth: Integer


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """The labelled items of an evaluation, to be decoded again, and one encoder.

    Attributes:
        encoder: the encoder; protocols work on copies.
        plan: how it wants its input.
        catalog: all items.
        rows: ``int64``, labelled rows of the catalog by split.
        codes: ``int64 [n]`` class of every row, -1 without.
        classes: number of class codes.
        seed: seed of the evaluation.
        frames_per_item: equally spaced frames, or clips, of a test item.
        testing: clips of a test item by a rule instead.
        workers: decoding processes.
        device: where to train.
        progress: called with (done, total).
        caches: frames in memory, shared by the encoders of an evaluation.
    """

    encoder: nn.Module
    plan: InferencePlan
    catalog: Catalog
    rows: Mapping[str, Integer]
    codes: Integer
    classes: int
    seed: int = 0
    frames_per_item: int = 4
    testing: Testing = field(default_factory=lambda: Testing())
    workers: int = 0
    device: str | torch.device = "cpu"
    progress: Progress | None = None
    caches: dict[bytes, FrameCache | None] = field(default_factory=dict[bytes, "FrameCache | None"])

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            if len(self.rows[split]) == 0:
                raise unlabelled(split)

    def fit(self, rows: Integer, tuning: Tuning) -> Classifier:
        """A classifier trained on these rows."""
        catalog = self.catalog.select(indices=rows)
        return fine_tune(
            self.encoder,
            self.plan,
            catalog,
            self.codes[rows],
            self.classes,
            tuning,
            seed=self.seed,
            workers=self.workers,
            device=self.device,
            **self._drawn_from(rows, catalog, tuning),
            progress=self.progress,
        )

    def usable(self, rows: Integer, tuning: Tuning) -> Integer:
        """Those of the rows that can be trained on."""
        catalog = self.catalog.select(indices=rows)
        return rows[
            usable_rows(self.plan, catalog, tuning, **self._drawn_from(rows, catalog, tuning))
        ]

    def score(self, model: Classifier, tuning: Tuning, testing: Testing, split: str) -> Score:
        """Accuracy on the labelled items of a split."""
        rows = self.rows[split]
        plan = tuning.plan(self.plan)
        chosen = testing if testing.clips is not None else self.testing
        sampling = chosen.sampling(plan)
        catalog = self.catalog.select(indices=rows)
        found, predicted = predict_classes(
            model,
            plan,
            catalog,
            frames_per_item=self.frames_per_item,
            sampling=sampling,
            workers=self.workers,
            device=self.device,
        )
        truth = self.codes[rows][found]
        short = 0 if sampling is None else int(sampling.of(catalog.facts(found)).short.sum())
        return Score(
            accuracy=float((predicted == truth).mean()),
            items=len(found),
            left_out=len(rows) - len(found),
            short=short,
            truth=truth,
        )

    def in_memory(self, rows: Integer, tuning: Tuning) -> bool:
        """Whether these rows were trained on from memory, where frames are scaled to the plan."""
        return self.caches.get(_key(rows, tuning.plan(self.plan))) is not None

    def _drawn_from(self, rows: Integer, catalog: Catalog, tuning: Tuning) -> dict[str, Any]:
        """The frames of these rows that are drawn from, in memory where they fit."""
        told = tuning.plan(self.plan)
        return {
            "cache": self._cache(rows, catalog, told),
            "frames": self.frames_per_item if told.frames == 1 else None,
        }

    def _cache(self, rows: Integer, catalog: Catalog, told: InferencePlan) -> FrameCache | None:
        """Frames in memory where they fit: epochs then cost no decoding.

        Of single frames those that are drawn from without a cache too, so that which frames are
        trained on does not depend on the room. For clips that is every frame, so that their strides
        mean what they say.
        """
        longest = int(np.max(catalog.facts().frames, initial=1))
        kept = self.frames_per_item if told.frames == 1 else longest
        key = _key(rows, told)
        if key not in self.caches:
            side = max(told.resize, told.size)
            taken = sum(c.frames.nbytes for c in self.caches.values() if c is not None)
            try:
                self.caches[key] = FrameCache.build(
                    catalog,
                    kept,
                    side,
                    aspect=told.aspect,
                    budget_bytes=_CACHE_BYTES - taken,
                    workers=self.workers,
                )
            except DataError:
                self.caches[key] = None
        return self.caches[key]


def _key(rows: Integer, told: InferencePlan) -> bytes:
    """What tells the caches of an evaluation apart: items, frames against clips, and scaling."""
    return f"{told.frames > 1}/{told.resize}/{told.aspect}/".encode() + rows.tobytes()


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What training on pictures gave.

    Attributes:
        accuracy: on the test items, in [0, 1].
        items: test items that were judged.
        chance: accuracy of always naming the most frequent of the training classes, a mean over
            those that are equally frequent.
        details: the choice and its validation scores, sizes.
        notes: which of the tunings diverged.
    """

    accuracy: float
    items: int
    chance: float
    details: dict[str, Any]
    notes: tuple[str, ...] = ()


def tuned(
    pixels: Pixels,
    rows: Integer,
    tunings: Sequence[Tuning],
    *,
    testing: Testing | None = None,
    also: Integer | None = None,
) -> Tuned:
    """Train with each of the tunings, choose on the validation items, read the test items once.

    Args:
        pixels: encoder and items.
        rows: labelled rows of the training split to use.
        tunings: what to choose from; among equals the first is taken, and one that diverges is
            never taken.
        testing: clips of the items that are judged; those of ``pixels`` where it names none.
        also: labelled rows to train on too once nothing is left to choose: with one tuning at once,
            with several the chosen one is trained once more on all.

    Raises:
        EvaluationError: a choice is to be made, and no validation item has a label; a frozen
            encoder has changed.
        Diverged: every one of the tunings diverged.
    """
    if len(tunings) > 1 and len(pixels.rows["val"]) == 0:
        raise EvaluationError(
            "settings can only be chosen on validation items, and none has a label",
            stage="evaluate",
            remedy="give one value of lr and weight_decay, or a split with validation items",
        )
    testing = testing or Testing()
    final = rows if also is None else np.sort(np.concatenate([rows, also]))
    tried = rows if len(tunings) > 1 else final
    scores: dict[str, float] = {}
    diverged: list[str] = []
    chosen, best, model = tunings[0], -1.0, None
    for tuning in tunings:
        name = f"lr {tuning.lr:g}, weight decay {tuning.weight_decay:g}"
        score = 0.0
        try:
            fitted = pixels.fit(tried, tuning)
            if len(tunings) > 1:
                score = pixels.score(fitted, tuning, testing, "val").accuracy
        except Diverged:
            diverged.append(name)
            continue
        scores[name] = score
        if score > best:
            chosen, best, model = tuning, score, fitted
    if model is None:
        raise Diverged(f"the training diverged at {'; '.join(diverged)}", stage="evaluate")
    if len(final) > len(tried):
        model = pixels.fit(final, chosen)
    if chosen.frozen and not _same(pixels.encoder, model.encoder):
        raise EvaluationError("the frozen encoder has changed", stage="evaluate")
    test = pixels.score(model, chosen, testing, "test")
    fitted_rows = pixels.usable(final, chosen)
    details: dict[str, Any] = {
        "lr": chosen.lr,
        "weight_decay": chosen.weight_decay,
        "fitted_items": len(fitted_rows),
        "batch_size": min(chosen.batch_size, len(fitted_rows)),
        "epochs": 0 if chosen.steps else chosen.epochs,
        **({"steps": chosen.steps} if chosen.steps else {}),
        "in_memory": pixels.in_memory(final, chosen),
        "unreadable": test.left_out,
        "short_videos": test.short,
    }
    if len(tunings) > 1:
        details["validation"] = scores
    if diverged:
        details["diverged"] = diverged
    return Tuned(
        accuracy=test.accuracy,
        items=test.items,
        chance=majority_share(pixels.codes[fitted_rows], test.truth),
        details=details,
        notes=tuple(f"the training diverged at {name}, which was not chosen" for name in diverged),
    )


def _same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two encoders hold the same bits, buffers included."""
    theirs = second.state_dict()
    return all(torch.equal(v.cpu(), theirs[k].cpu()) for k, v in first.state_dict().items())
