"""What protocols need that look along whole videos: the encoder, and who trains and is judged."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from rhyme.catalog import Catalog
from rhyme.evaluation.frames import FrameData
from rhyme.evaluation.seen import TrainedOn
from rhyme.evaluation.splits import Splits
from rhyme.tasks.table import Integer

__all__ = ["VideoData", "whole_videos"]


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoData(FrameData):
    """The collection of an evaluation, to be decoded again as whole videos, and one encoder.

    Attributes:
        train: rows of the training items among all items, which ``catalog`` holds.
        test: rows of the test items.
        seen: names of the groups that the encoder is known to have been trained on.
    """

    train: Integer
    test: Integer
    seen: frozenset[str] = frozenset()


def whole_videos(
    data: FrameData, catalog: Catalog, splits: Splits, known: TrainedOn | None = None
) -> VideoData:
    """The same encoder with the whole collection.

    Args:
        data: the encoder, with the test items alone.
        catalog: all items.
        splits: who trains and who is judged.
        known: what the encoder was trained on, where that is told and matters.
    """
    given: dict[str, Any] = {f.name: getattr(data, f.name) for f in fields(FrameData)}
    given["catalog"] = catalog
    return VideoData(
        **given,
        train=splits.train,
        test=splits.test,
        seen=frozenset() if known is None else frozenset(known.groups_in(catalog)),
    )
