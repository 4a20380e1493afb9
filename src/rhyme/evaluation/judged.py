"""What an evaluation hands to its protocols: for each encoder features, pixels, frames, videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage
from rhyme.evaluation.frames import FrameData
from rhyme.evaluation.heads import heads_of
from rhyme.evaluation.inputs import split_features
from rhyme.evaluation.pixels import Pixels, Testing
from rhyme.evaluation.protocol import Reads, SplitData
from rhyme.evaluation.seen import TrainedOn
from rhyme.evaluation.splits import Classes, Splits
from rhyme.evaluation.videos import VideoData, whole_videos
from rhyme.loading import FrameCache
from rhyme.tasks import FeatureTable, extract_many
from rhyme.tasks.extract import Progress

__all__ = ["Judged"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """The items of an evaluation and the encoders that are judged by them.

    Each kind of input is made when it is first asked for; frames that several encoders see as
    features are decoded once.

    Attributes:
        package: the encoder's package.
        modules: encoders by name: ``"trained"``, ``"untrained/<seed>"``.
        catalog: all items.
        splits: who trains and who is judged.
        classes: what is measured by; None without labels.
        label_column: the column of the classes.
        seed: seed of the evaluation.
        frames_per_item: equally spaced moments of an item.
        testing: clips of an item by a rule instead.
        known: what the encoder was trained on, where that is told and matters.
        fits: whether a protocol fits something on frames.
        pictures: where the trained encoder's pictures go; None for none.
        batch_size: frames a forward pass.
        workers: decoding processes.
        device: where the encoders run.
        cache: decoded frames to use instead of the files.
        progress: called with (done, total).
    """

    package: EncoderPackage
    modules: Mapping[str, nn.Module]
    catalog: Catalog
    splits: Splits
    classes: Classes | None
    label_column: str | None
    seed: int
    frames_per_item: int
    testing: Testing
    known: TrainedOn | None
    fits: bool
    pictures: Path | None
    batch_size: int
    workers: int
    device: str | torch.device
    cache: FrameCache | None
    progress: Progress | None

    def inputs(self, reads: Reads) -> Mapping[str, Any]:
        """What a protocol that reads this runs on, by encoder.

        Raises:
            EvaluationError: pixels are asked for, and a split has no labelled item.
            DataError: features are asked for, and no item can be read.
        """
        found: Mapping[str, Any] = getattr(self, reads)
        return found

    @cached_property
    def tables(self) -> dict[str, FeatureTable]:
        """Features of all items by encoder."""
        return extract_many(
            self.modules,
            self.package.plan,
            self.catalog.select(indices=self.splits.rows),
            frames_per_item=self.frames_per_item,
            sampling=self.testing.sampling(self.package.plan),
            batch_size=self.batch_size,
            workers=self.workers,
            device=self.device,
            cache=self.cache,
            progress=self.progress,
        )

    @cached_property
    def features(self) -> dict[str, SplitData]:
        """The same by split, with labels."""
        return {
            name: split_features(table, self.splits, self.classes, self.seed)
            for name, table in self.tables.items()
        }

    @cached_property
    def pixels(self) -> dict[str, Pixels]:
        """The labelled items, for training; nothing without labels."""
        if self.classes is None:
            return {}
        codes = self.classes.codes
        first = Pixels(
            encoder=self.package.module,
            plan=self.package.plan,
            catalog=self.catalog,
            rows={part: rows[codes[rows] >= 0] for part, rows in self.splits.parts.items()},
            codes=codes,
            classes=len(self.classes.names),
            seed=self.seed,
            frames_per_item=self.frames_per_item,
            testing=self.testing,
            workers=self.workers,
            device=self.device,
            progress=self.progress,
        )
        return {name: replace(first, encoder=module) for name, module in self.modules.items()}

    @cached_property
    def frames(self) -> dict[str, FrameData]:
        """The test items, to be decoded again; the training items beside where something fits."""
        train, val = (
            self.catalog.select(indices=rows) if self.fits else None
            for rows in (self.splits.train, self.splits.val)
        )
        return {
            name: FrameData(
                encoder=module.eval().to(self.device),
                plan=self.package.plan,
                catalog=self.catalog.select(indices=self.splits.test),
                seed=self.seed,
                device=self.device,
                progress=self.progress,
                place=place,
                encoders=len(self.modules),
                pictures=None if place else self.pictures,
                train_items=train,
                val_items=val,
                label_column=self.label_column,
                heads=heads_of(self.package, name),
            )
            for place, (name, module) in enumerate(self.modules.items())
        }

    @cached_property
    def videos(self) -> dict[str, VideoData]:
        """The whole collection, to be decoded again."""
        return {
            name: whole_videos(data, self.catalog, self.splits, self.known)
            for name, data in self.frames.items()
        }
