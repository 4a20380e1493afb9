"""What it takes to read a collection, measured on a few of its items."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rhyme.api.data import DataOptions, is_catalog, read_data
from rhyme.catalog import Catalog, official_lists, scan
from rhyme.loading import FrameCache
from rhyme.loading.maker import BatchMaker, Request
from rhyme.recipes import Recipe
from rhyme.synthetic import WorldConfig, write_world
from rhyme.systems import System
from rhyme.tasks import extract_features
from rhyme.training.measure import Span

SAMPLE = 24  # items that the reading of data is measured on
STAND_IN = WorldConfig(
    counts=(2, 0, 0), size=256, fps=25, frames=50, gop=12, sound=False, truth="labels"
)


def take_sample(
    recipe: Recipe,
    data: str | Path | Catalog | None,
    options: DataOptions | None,
    seed: int,
    room: Path,
) -> tuple[Catalog, Catalog]:
    """The collection, and the few items of it that are measured."""
    if data is None:
        write_world(STAND_IN, room / "stand-in")
        found = scan(room / "stand-in")
        return found, found
    wanted = options or DataOptions()
    scanned = isinstance(data, Catalog) or is_catalog(data)
    if not scanned and wanted.segment is None and official_lists(wanted.labels, None) is None:
        wanted = replace(wanted, segment=recipe.data.segment)
    found = read_data(data, wanted, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(found))[:SAMPLE]
    return found, found.select(indices=np.sort(rows))


def fill_cache(
    recipe: Recipe, sample: Catalog, aspect: float | None
) -> tuple[FrameCache | None, float]:
    """The frame cache of the sample, and seconds an item to fill it."""
    d = recipe.data
    if d.cache_frames is None or d.cache_size is None:
        return None, 0.0
    began = time.perf_counter()
    cache = FrameCache.build(sample, d.cache_frames, d.cache_size, aspect=aspect)
    return cache, (time.perf_counter() - began) / len(sample)


def request(maker: BatchMaker, items: int, number: int) -> Request:
    """Items of the sample in turn, each time with draws of their own."""
    rows = (np.arange(items) + number * items) % len(maker.catalog)
    repeats = np.arange(items) // len(maker.catalog)
    return Request(epoch=number, rows=rows, repeats=repeats)


def reading_cost(maker: BatchMaker, items: int, budget: float) -> Span:
    """Seconds of one core to read and augment an item, as a worker does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken: list[float] = []
    try:
        maker(request(maker, items, 0))  # opens the files
        while len(taken) < 5 or (sum(taken) < budget and len(taken) < 50):
            began = time.perf_counter()
            maker(request(maker, items, len(taken) + 1))
            taken.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return Span.of(taken) * (1 / items)


def look_cost(system: System, sample: Catalog, device: torch.device) -> float:
    """Seconds an item for the features that probes take."""
    export = system.exports().get("encoder")
    if export is None or export.plan is None:
        return 0.0
    module = getattr(export.module, "backbone", export.module)
    began = time.perf_counter()
    extract_features(module, export.plan, sample, device=device)
    return (time.perf_counter() - began) / len(sample)
