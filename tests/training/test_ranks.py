"""The loop on two ranks: one result, one decision, nobody left waiting."""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.errors import TrainingError
from rhyme.loading import ArraySource
from rhyme.run import RunFolder, read_jsonl
from rhyme.systems.base import StepOutput, System
from rhyme.training import OptimizerConfig, Preempted, TrainConfig, Trainer, checkpoint

CONFIG = TrainConfig(
    steps=6,
    batch_size=8,
    clip_norm=0.5,
    device="cpu",
    optimizer=OptimizerConfig(name="lars", lr=0.3),
    checkpoint_every=2,
    log_every=3,
)


class Global(System):
    """A loss over the global batch; one rank can be given a NaN, each a signal of its own."""

    def __init__(
        self,
        poison: int | None = None,
        stop: int | None = None,
        signals: tuple[str | None, ...] = (None, "SIGTERM"),
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        self.poison, self.stop = poison, stop
        self.signals = signals

    def training_step(self, batch, context):
        rows = batch.views["x"].data
        values = (self.net(rows)[:, 0] - rows.sum(1)).square()
        last = distributed.rank() == distributed.world_size() - 1
        if last and context.step == self.poison:
            values = values * float("nan")
        name = self.signals[distributed.rank()] if context.step == self.stop else None
        if name is not None:
            os.kill(os.getpid(), getattr(signal, name))
        return StepOutput(loss=distributed.mean(values))


def make(folder: str, nan: str = "stop", **options) -> Trainer:
    rows = torch.randn(32, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path = Path(folder) / "run"
    if distributed.rank() == 0 and not path.exists():
        RunFolder.create(path, CONFIG)
    distributed.barrier()
    source = ArraySource({"x": rows}, CONFIG.batch_size, 0)
    config = dataclasses.replace(CONFIG, nan=nan)
    return Trainer(Global(**options), source, config, RunFolder.open(path), progress=False)


def train(folder: str) -> list[torch.Tensor]:
    trainer = make(folder)
    trainer.fit()
    return [p.detach().clone() for p in trainer.system.parameters()]


def poisoned(folder: str) -> str:
    try:
        make(folder, poison=3).fit()
    except TrainingError as error:
        return str(error.cause)
    return "trained on"


def skipped(folder: str) -> list[torch.Tensor]:
    trainer = make(folder, nan="skip", poison=3)
    assert trainer.fit().steps == 6
    return [p.detach().clone() for p in trainer.system.parameters()]


def stopped_and_resumed(folder: str) -> tuple[int, list[torch.Tensor]]:
    trainer = make(folder, stop=2)
    try:
        trainer.fit()
    except Preempted:
        return checkpoint.steps_on_disk(trainer.run.checkpoints)[-1], resumed(folder)
    return -1, []


def told(folder: str, signals: tuple[str | None, ...]) -> str:
    try:
        make(folder, stop=2, signals=signals).fit()
    except Preempted as error:
        return error.cause
    return "trained on"


def resumed(folder: str) -> list[torch.Tensor]:
    trainer = make(folder)
    trainer.fit(resume=True)
    return [p.detach().clone() for p in trainer.system.parameters()]


@pytest.mark.slow
def test_two_ranks_train_like_one():
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        alone = train(one)
        for weights in run_on_ranks(train, 2, two):
            for a, b in zip(alone, weights, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        run = RunFolder.open(Path(two) / "run")
        assert checkpoint.steps_on_disk(run.checkpoints) == [4, 6]
        assert [row["step"] for row in read_jsonl(run.metrics)] == [3, 6]


@pytest.mark.slow
def test_a_nan_on_one_rank_stops_both():
    with tempfile.TemporaryDirectory() as folder:
        causes = run_on_ranks(poisoned, 2, folder)
        assert causes == ["the loss or its gradient is not finite at step 3"] * 2
        assert checkpoint.steps_on_disk(Path(folder) / "run" / "checkpoints") == [2]


@pytest.mark.slow
def test_a_nan_on_one_rank_is_skipped_by_both_and_names_the_whole_batch():
    with tempfile.TemporaryDirectory() as folder:
        one, other = run_on_ranks(skipped, 2, folder)
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b)
            assert bool(a.isfinite().all())
        events = read_jsonl(Path(folder) / "run" / "events.jsonl")
        (event,) = [row for row in events if row["event"] == "not_finite"]
        assert (event["step"], event["policy"]) == (3, "skip")
        assert len(set(event["ids"])) == CONFIG.batch_size


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_once_and_resumes():
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        straight = run_on_ranks(train, 2, one)
        again = run_on_ranks(stopped_and_resumed, 2, two)
        assert [step for step, _ in again] == [3, 3]
        for weights, (_, after) in zip(straight, again, strict=True):
            for a, b in zip(weights, after, strict=True):
                assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "cause"),
    [
        ((None, "SIGUSR2"), "SIGUSR2"),
        (("SIGUSR2", "SIGTERM"), "SIGTERM"),
        (("SIGTERM", "SIGUSR2"), "SIGTERM"),
    ],
)
def test_all_ranks_tell_one_cause_and_being_cancelled_comes_first(signals, cause):
    """A cancelled job of a cluster, whose leader was told another signal, must not queue again."""
    with tempfile.TemporaryDirectory() as folder:
        said = run_on_ranks(told, 2, folder, signals)
        assert said == [f"stopped by {cause} after step 3 of 6; the state is saved"] * 2
        (event,) = [
            row
            for row in read_jsonl(Path(folder) / "run" / "events.jsonl")
            if row["event"] == "preempted"
        ]
        assert event["cause"] == cause
