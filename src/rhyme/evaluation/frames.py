"""What protocols need that look at places within frames: the encoder and the test items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage, Head, InferencePlan
from rhyme.tasks import dense_encoder
from rhyme.tasks.extract import Progress
from rhyme.views import frame_counts, frame_times

__all__ = ["FrameData", "dense_check"]


def dense_check(package: EncoderPackage, settings: Any, options: str) -> None:
    """Whether an encoder gives the map that settings with a stride and a stage ask for.

    Args:
        package: the encoder.
        settings: the settings.
        options: what stands before the names of the user's options, e.g. ``"--cells."``.

    Raises:
        EvaluationError: it gives no map of a frame.
        ConfigError: it has no such stage, or none so fine.
    """
    dense_encoder(package.module, settings.stride, settings.stage, options=options)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameData:
    """The test items of an evaluation, to be decoded again, and one encoder.

    Attributes:
        encoder: the encoder.
        plan: how it wants its input.
        catalog: the test items alone.
        seed: seed of the evaluation.
        device: where the encoder runs.
        progress: called with (done, total) items.
        place: number of this encoder among those that are judged, from 0.
        encoders: how many there are.
        pictures: where to leave pictures; None for none.
        train_items: the training items, for protocols that fit something; None without a split.
        val_items: the validation items.
        label_column: the column that items are judged by; None without labels.
        heads: the encoder's heads by name, fresh ones for an untrained encoder.
    """

    encoder: nn.Module
    plan: InferencePlan
    catalog: Catalog
    seed: int = 0
    device: str | torch.device = "cpu"
    progress: Progress | None = None
    place: int = 0
    encoders: int = 1
    pictures: Path | None = None
    train_items: Catalog | None = None
    val_items: Catalog | None = None
    label_column: str | None = None
    heads: Mapping[str, Head] = field(default_factory=dict[str, Head])

    def of(self, catalog: Catalog) -> FrameData:
        """The same encoder with other items."""
        return replace(self, catalog=catalog)

    def all_frames(self, row: int) -> Tensor:
        """All frames ``uint8 [t, 3, h, w]`` of an item.

        Raises:
            MediaError: the file cannot be decoded.
            CatalogError: it has gone or changed since the scan.
        """
        facts = self.catalog.facts([row])
        return self.frames(row, frame_times(facts, np.arange(frame_counts(facts)[0])[None])[0])

    def frames(self, row: int, times: NDArray[np.float64]) -> Tensor:
        """Frames ``uint8 [t, 3, h, w]`` of an item at times; errors of :meth:`all_frames`."""
        reader = self.catalog.reader(row)
        try:
            return reader.read(times)[0]
        finally:
            reader.close()

    def normalised(self, frames: Tensor) -> Tensor:
        """Frames ``uint8 [t, 3, h, w]`` as the encoder wants them, on its device."""
        mean, std = (
            torch.tensor(v, device=self.device)[:, None, None]
            for v in (self.plan.mean, self.plan.std)
        )
        return (frames.to(self.device).float() / 255 - mean) / std

    def told(self, done: int) -> None:
        """Tell the progress: items done under this encoder; those of all encoders are counted."""
        if self.progress is not None:
            items = len(self.catalog)
            self.progress(self.place * items + done, self.encoders * items)
