"""Resumes over real files: a catalog of generated videos, workers, a cache, weights of a system."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from resume.harness import assert_bit_equal_resume, play
from rhyme.catalog import Catalog
from rhyme.loading import CatalogSource, FrameCache
from rhyme.run import RunFolder
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform
from support.tiny_runs import catalog
from support.tiny_systems import build_tiny

CONFIG = TrainConfig(
    steps=7,
    batch_size=4,
    device="cpu",
    log_every=1,
    probe_every=2,
    optimizer=OptimizerConfig(name="sgd", lr=0.01),
    schedule=ScheduleConfig(name="cosine"),
)
ITEMS = 14  # three batches an epoch and two items left over: epochs end after steps 3 and 6


@functools.cache
def items() -> Catalog:
    return Catalog.open(catalog()).select(list(range(ITEMS)))


@functools.cache
def cache() -> FrameCache:
    return FrameCache.build(items(), frames_per_item=3, size=24, budget_bytes=2**24)


def make_system(name: str, seed: int, *, weighted: bool = False):
    """A tiny system; ``weighted`` draws new sampler weights at the start of every epoch."""
    system = build_tiny(name, seed, torch.float32, transform=ContrastTransform.moco_v2(size=16))
    if not weighted:
        return system
    kind = type(system)

    def begin_epoch(self, context):
        generator = torch.Generator().manual_seed(context.epoch)
        context.set_sampler_weights(torch.rand(context.items, generator=generator))

    system.__class__ = type(kind.__name__, (kind,), {"begin_epoch": begin_epoch})
    return system


def make_source(name: str, *, workers: int = 0, cached: bool = False) -> CatalogSource:
    return CatalogSource(
        items(),
        make_system(name, 0).plans()["train"],
        batch_size=CONFIG.batch_size,
        seed=0,
        workers=workers,
        cache=cache() if cached else None,
    )


@pytest.mark.parametrize(
    ("name", "cached", "weighted"),
    [
        ("moco", False, True),
        ("moco", True, False),
        ("cycle_contrast", False, False),
        ("cycle_contrast", True, True),
    ],
)
def test_every_step_over_real_files_resumes_bit_equal(name, cached, weighted, tmp_path):
    """From each step, and stopped after every step: in epochs, at their ends, and after them."""
    record = assert_bit_equal_resume(
        lambda seed: make_system(name, seed, weighted=weighted),
        lambda: make_source(name, cached=cached),
        CONFIG,
        tmp_path,
    )
    assert len(record.ids) == CONFIG.steps
    epochs = [[i for batch in record.ids[at : at + 3] for i in batch] for at in (0, 3)]
    if weighted:
        assert any(len(set(epoch)) < len(epoch) for epoch in epochs), "drawn with replacement"
    else:
        assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert any(row.get("probes") for row in record.rows)


def chain(name, folder, stops, workers, **options):
    """A run that is stopped after some steps, each part with its number of workers."""
    ids, run = [], RunFolder.create(folder, CONFIG)
    for seed, (until, count) in enumerate(zip([*stops, None], workers, strict=True)):
        config = dataclasses.replace(CONFIG, workers=count)
        source = make_source(name, workers=count)
        part = play(make_system(name, seed, **options), source, config, run, until=until)
        ids += part.ids
    return ids, part


def assert_chain(name, tmp_path, stops, workers, **options):
    wanted, straight = chain(name, tmp_path / "straight", (), (0,), **options)
    ids, stopped = chain(name, tmp_path / "stopped", stops, workers, **options)
    assert ids == wanted
    assert stopped.rows == straight.rows
    assert stopped.hashes[CONFIG.steps] == straight.hashes[CONFIG.steps]


def test_a_run_goes_on_with_another_number_of_workers(tmp_path):
    """One worker until the middle of an epoch, none until its end, and none after it."""
    assert_chain("moco", tmp_path, (2, 3), (1, 0, 0), weighted=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weighted"), [("moco", True), ("cycle_contrast", False)])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stops", [(1, 2), (3,), (4, 5), (2, 3, 4), (6,)])
def test_resumes_with_workers(name, weighted, workers, stops, tmp_path):
    """Two and three resumes in an epoch, at its very end, and just after it."""
    assert_chain(name, tmp_path, stops, [workers] * (len(stops) + 1), weighted=weighted)
