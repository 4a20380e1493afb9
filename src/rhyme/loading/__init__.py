"""Batches: in an order that is a function of the run seed, from any position, by any workers.

A :class:`Source` yields :class:`Batch` objects without end and knows its position exactly.
:class:`CatalogSource` reads videos, :class:`ArraySource` arrays, :class:`ZipSource` pairs sources.
:class:`ViewDataset` is for a loop and a ``DataLoader`` of one's own.
:class:`FrameCache` holds a small collection decoded; :func:`inference_batches` feeds encoders.
"""

from __future__ import annotations

from rhyme.loading.arrays import ArraySource, ZipSource
from rhyme.loading.batch import Batch, Source
from rhyme.loading.cache import FrameCache
from rhyme.loading.dataset import ViewDataset, collate
from rhyme.loading.inference import InferenceBatch, PixelPlan, inference_batches
from rhyme.loading.maker import Replaced
from rhyme.loading.order import BatchOrder
from rhyme.loading.placement import Placement
from rhyme.loading.prepare import prepare_shards
from rhyme.loading.prepare_file import PrepareOptions
from rhyme.loading.prepared_folder import PREPARED, PreparedSummary, verify_shards
from rhyme.loading.source import CatalogSource
from rhyme.loading.usable import count_reasons, unusable

__all__ = [
    "PREPARED",
    "ArraySource",
    "Batch",
    "BatchOrder",
    "CatalogSource",
    "FrameCache",
    "InferenceBatch",
    "PixelPlan",
    "Placement",
    "PrepareOptions",
    "PreparedSummary",
    "Replaced",
    "Source",
    "ViewDataset",
    "ZipSource",
    "collate",
    "count_reasons",
    "inference_batches",
    "prepare_shards",
    "unusable",
    "verify_shards",
]
