"""A run may change its ranks, its workers and its engine on the way, and is still the same run.

Each case runs in parts on 1, 2 or 4 ranks, every part with fresh objects of another seed, and is
compared with the same run on one rank that was never stopped: ids of every global batch, every row
of metrics, the whole state at the end.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from ranks.paths import assert_same
from ranks.pool import run_on_ranks
from resume.harness import TIMES, Watched
from rhyme import distributed
from rhyme.errors import TrainingError
from rhyme.loading import ArraySource
from rhyme.run import RunFolder, read_jsonl
from rhyme.systems.base import StepOutput, System
from rhyme.training import (
    OptimizerConfig,
    Preempted,
    ScheduleConfig,
    TrainConfig,
    Trainer,
    checkpoint,
)
from support.tiny_systems import BUILT, build_tiny, targets_for, tiny_backbone

ITEMS, STEPS = 20, 9
CONFIG = TrainConfig(
    steps=STEPS,
    batch_size=8,
    clip_norm=5.0,
    device="cpu",
    optimizer=OptimizerConfig(name="lars", lr=0.2),
    schedule=ScheduleConfig(name="cosine", warmup_steps=2),
    log_every=1,
    checkpoint_every=None,
    keep=10,
)


class Bank(System):
    """A memory of every item, of which each rank keeps its rows: state sharded by item index."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = torch.nn.Linear(3, 4).double()

    def setup(self, context):
        self.items = context.items
        rows = distributed.item_slice(context.items)
        bank = torch.zeros(rows.stop - rows.start, 4, dtype=torch.float64)
        self.register_buffer("bank", bank)

    def training_step(self, batch, context):
        found = self.net(batch.views["x"].data)
        self.fresh = distributed.gather(batch.index), distributed.gather(found)
        remembered = distributed.gather_items(self.bank, self.items)
        values = (found - remembered[batch.index]).square().sum(1) + found.cos().sum(1)
        return StepOutput(loss=distributed.mean(values))

    def after_step(self, applied):
        index, found = self.fresh
        rows = distributed.item_slice(self.items)
        mine = (index >= rows.start) & (index < rows.stop)
        self.bank[index[mine] - rows.start] = found[mine]

    def state_roles(self):
        return {"bank": "sharded"}


def make_system(name: str, seed: int) -> System:
    if name == "bank":
        return Bank(seed)
    return build_tiny(name, seed, backbone=tiny_backbone(name, 4))


def make_source(system: System) -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(ITEMS) // 2
    plan = system.plans().get("train")
    if plan is None:
        x = torch.randn(ITEMS, 3, generator=generator, dtype=torch.float64)
        return ArraySource({"x": x}, CONFIG.batch_size, 0, groups=groups)
    arrays = {
        n: torch.randn(
            ITEMS, plan.frames(v.clip), 3, 12, 12, generator=generator, dtype=torch.float64
        )
        for n, v in plan.views.items()
    }
    kinds: dict[str, Any] = dict.fromkeys(arrays, "pixels")
    targets = targets_for(plan, ITEMS)
    return ArraySource(arrays, CONFIG.batch_size, 0, groups=groups, kinds=kinds, targets=targets)


def part(folder: str, name: str, until: int, engine: str, every: int) -> tuple[list, dict]:
    """Train up to a step, from where the run in the folder stands; ids of this rank, state."""
    config = dataclasses.replace(CONFIG, parallel=engine, log_every=every)  # type: ignore[arg-type]
    path = Path(folder) / "run"
    if distributed.rank() == 0 and not path.exists():
        RunFolder.create(path, config)
    distributed.barrier()
    run = RunFolder.open(path)
    resume = bool(checkpoint.steps_on_disk(run.checkpoints))
    system = make_system(name, seed=7 if resume else 0)
    source = Watched(make_source(system))
    trainer = Trainer(system, source, config, run, progress=False, stop=lambda step: step == until)
    try:
        trainer.fit(resume=resume)
    except Preempted:
        assert trainer.step == until
    tensors, _ = trainer.state()
    whole = {n: checkpoint_value(t) for n, t in tensors.items() if not n.startswith("source")}
    return source.ids, whole


def checkpoint_value(tensor: torch.Tensor) -> torch.Tensor:
    from rhyme.training.parallel import whole

    return whole(tensor).clone()


@functools.cache
def undisturbed(name: str, every: int) -> tuple[list, dict, list]:
    return play([(1, "auto")], name, every)


def play(plan: list[tuple[int, str]], name: str, every: int) -> tuple[list, dict, list]:
    """Run in equal parts, each on (ranks, engine): global ids, state, rows of metrics."""
    ids: list[list[int]] = []
    with tempfile.TemporaryDirectory() as folder:
        state: dict[str, torch.Tensor] = {}
        for number, (world, engine) in enumerate(plan):
            until = STEPS * (number + 1) // len(plan)
            job = (folder, name, until, engine, every)
            parts = [part(*job)] if world == 1 else run_on_ranks(part, world, *job)
            ids += [list(chain(*rows)) for rows in zip(*(p[0] for p in parts), strict=True)]
            state = parts[0][1]
            for _, other in parts[1:]:
                assert_same(other, state, 1e-12, "on another rank")
        rows = [
            {k: v for k, v in row.items() if k not in TIMES}
            for row in read_jsonl(Path(folder) / "run" / "metrics.jsonl")
        ]
    return ids, state, rows


def flat(tree: Any, path: str = "") -> dict[str, float]:
    """Numbers of a row by path."""
    if isinstance(tree, dict):
        return {k: v for n, t in tree.items() for k, v in flat(t, f"{path}/{n}").items()}
    return {path: float(tree)}


PLANS = {
    "1-2-1": [(1, "auto"), (2, "ddp"), (1, "auto")],
    "2-4-1": [(2, "ddp"), (4, "ddp"), (1, "auto")],
    "ddp-fsdp-ddp": [(2, "ddp"), (2, "fsdp"), (2, "ddp")],
    "2-1-2 fsdp": [(2, "fsdp"), (1, "fsdp"), (2, "fsdp")],
}


CASES = [
    pytest.param(name, plan, marks=() if name == "bank" or plan == "1-2-1" else pytest.mark.slow)
    for name in (*BUILT, "bank")
    for plan in PLANS
]


@pytest.mark.parametrize(("name", "plan"), CASES)
def test_the_number_of_ranks_may_change(name, plan):
    compare(name, PLANS[plan], 1)


def test_a_window_of_metrics_may_cross_the_change():
    compare("moco", PLANS["2-4-1"], 2)


def compare(name: str, plan: list[tuple[int, str]], every: int) -> None:
    ids, state, rows = undisturbed(name, every)
    got_ids, got_state, got_rows = play(plan, name, every)
    assert got_ids == ids
    assert_same(got_state, state, 1e-9, "at the end")
    assert len(got_rows) == len(rows) == math.ceil(STEPS / every)
    for got, want in zip(got_rows, rows, strict=True):
        a, b = flat(got), flat(want)
        assert a.keys() == b.keys()
        for key, value in b.items():
            # Monitors and shares are taken in float32.
            close = 1e-5 if key.startswith(("/monitors", "/diagnostics")) else 1e-9
            assert math.isclose(a[key], value, rel_tol=close, abs_tol=close), (got["step"], key)


class Counting(System):
    """State of its own on every rank."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(3, 1)

    def state_roles(self):
        return {"net": "replicated", "net.bias": "per_rank"}


def refused(folder: str) -> tuple[str, Any]:
    rows = {"x": torch.zeros(16, 3)}
    run = RunFolder(Path(folder))
    try:
        Trainer(Counting(), ArraySource(rows, 8, 0), CONFIG, run, progress=False)
    except TrainingError as error:
        return error.cause, error.value
    return "trained", None


def test_state_of_one_rank_is_refused_by_name(tmp_path):
    for cause, value in run_on_ranks(refused, 2, str(tmp_path)):
        assert "each rank" in cause
        assert value == {"system": "Counting", "state": ["net.bias"]}


def other_weights() -> str:
    from rhyme.training.parallel import build_parallel

    try:
        build_parallel(Bank(seed=distributed.rank()), "auto")
    except TrainingError as error:
        return str(error)
    return "built"


def test_ranks_that_drew_other_weights_are_refused():
    for text in run_on_ranks(other_weights, 2):
        assert "net.weight" in text
