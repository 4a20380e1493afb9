"""One global batch has one loss, gradient, queue and momentum copy on 1, 2 and 4 ranks.

The test runs over every system of the registry that is built, and over the miniature systems of
``contracts`` that may run on several ranks, along our own average of the gradients, DDP and FSDP,
with batch norm across the whole batch and in groups with shuffling. A new system joins by itself;
arms of it that need options of their own stand in ``support.tiny_systems.OPTIONS``.
"""

import functools
import importlib

import pytest
import torch

from ranks.paths import assert_same, my_rows, trace, without_dropout
from ranks.pool import run_on_ranks
from rhyme.systems import StepContext, system_class
from support.tiny_systems import (
    BUILT,
    CASES,
    MAPPED_CASES,
    at,
    batch_for,
    build_tiny,
    tiny_backbone,
)

STEPS, ITEMS = 3, 8
PATHS = [
    ("plain", 2, "float64"),
    ("plain", 4, "float64"),
    ("ddp", 2, "float64"),
    ("ddp", 2, "float32"),
    ("ddp", 4, "float64"),
    ("fsdp", 2, "float64"),
]
MINIS = ("adversarial", "bandit", "graph", "tokens", "zipped")


def system_steps(name: str, groups: int, options: tuple, dtype: str, engine: str):
    """Three steps of a system of the registry."""
    kind = getattr(torch, dtype)
    backbone = tiny_backbone(name, groups)
    system = build_tiny(name, dtype=kind, backbone=backbone, **dict(options))
    # In float32 a value within rounding of zero falls on either side of a ReLU, and a clip has so
    # many that three steps meet one.
    steps = 1 if dtype == "float32" and backbone.name == "small3d" else STEPS
    batches = [my_rows(batch_for(system, ITEMS, seed=step, dtype=kind)) for step in range(steps)]
    return trace(system, engine, [(lambda b=b: b, at(i)) for i, b in enumerate(batches)])


def mini_steps(name: str, dtype: str, engine: str):
    """Two steps of all phases of a miniature system."""
    mini = importlib.import_module(f"contracts.{name}")
    torch.manual_seed(1)
    system = mini.SYSTEM()
    without_dropout(system)
    batches = mini.SOURCE(0).batches()
    steps = [
        (functools.partial(next, batches), StepContext(step=s, steps=2, phase=p.name, repeat=r))
        for s in range(2)
        for p in system.phases()
        for r in range(p.repeats)
    ]
    return trace(system, engine, steps)


@functools.cache
def alone(function, *args):
    return function(*args, "plain")


def compare(function, engine, world, dtype, *args):
    want = alone(function, *args, dtype)
    assert any("gradient" in name for name in want)
    tolerance = 1e-9 if dtype == "float64" else 1e-5
    for rank, found in enumerate(run_on_ranks(function, world, *args, dtype, engine)):
        assert_same(found, want, tolerance, f"on rank {rank} of {world}, {engine}")


@pytest.mark.parametrize(("engine", "world", "dtype"), PATHS)
@pytest.mark.parametrize(("name", "options"), CASES + MAPPED_CASES)
@pytest.mark.parametrize("groups", [1, 4])
def test_ranks_agree(name, groups, options, engine, world, dtype):
    if system_class(name).single_rank:
        pytest.skip(f"{name} declares itself single-rank")
    compare(system_steps, engine, world, dtype, name, groups, tuple(options.items()))


@pytest.mark.parametrize("name", BUILT)
def test_slices_on_four_ranks_agree(name):
    if system_class(name).single_rank:
        pytest.skip(f"{name} declares itself single-rank")
    compare(system_steps, "fsdp", 4, "float64", name, 4, ())


@pytest.mark.parametrize("engine", ["plain", "ddp", "fsdp"])
@pytest.mark.parametrize("name", MINIS)
def test_miniature_systems_agree_or_declare_themselves_single_rank(name, engine):
    kind = importlib.import_module(f"contracts.{name}").SYSTEM
    if kind.single_rank:
        pytest.skip(f"{name} declares itself single-rank")
    compare(mini_steps, engine, 2, "float32", name)
