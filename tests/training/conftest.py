from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rhyme.loading.batch import Batch
from rhyme.run import RunFolder
from rhyme.systems.base import Export, StepOutput, System
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig, Trainer
from rhyme.views.view import View


class Numbers:
    """Rows of numbers in order, ``batch_size`` at a time."""

    groups = 4

    def __init__(self, items: int = 12, batch_size: int = 4, data: str = "numbers") -> None:
        self.items, self.batch_size = items, batch_size
        self.batches_per_epoch = items // batch_size
        self.fingerprint = hashlib.sha256(f"{data}{items}".encode()).hexdigest()
        self.rows = torch.from_numpy(np.random.default_rng(0).standard_normal((items, 3))).float()
        self.position = 0
        self.weights: list[float] | None = None
        self.opened = 0

    def batches(self):
        self.opened += 1
        while True:
            slot = self.position % self.batches_per_epoch
            ids = torch.arange(slot * self.batch_size, (slot + 1) * self.batch_size)
            self.position += 1
            views = {"x": View(data=self.rows[ids], kind="array")}
            yield Batch(ids=ids, index=ids, group=ids % 4, views=views)

    def observe(self, output: Any) -> None:
        self.seen = output

    def set_sampler_weights(self, weights: torch.Tensor) -> None:
        self.weights = weights.tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Any) -> None:
        self.position = state["position"]

    def close(self) -> None:
        pass


class Line(System):
    """A small regression with dropout, a counter in its state, and hooks that are written down."""

    def __init__(self, poison: dict[int, float] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.register_buffer("applied", torch.tensor(0))
        self.poison = poison or {}
        self.calls: list[Any] = []

    def setup(self, context):
        self.calls.append("setup")

    def begin_epoch(self, context):
        self.calls.append(("epoch", context.epoch))

    def finish(self, context):
        self.calls.append("finish")

    def training_step(self, batch, context):
        hidden = self.net[0](batch.views["x"].data)
        error = self.net[2](self.net[1](hidden))[:, 0] - batch.views["x"].data.sum(1)
        loss = error.square().mean() * self.poison.get(context.step, 1.0)
        return StepOutput(
            loss=loss,
            parts={"square": loss.detach()},
            diagnostics={"mean": error.detach().mean()},
            embeddings={"hidden": hidden.detach()},
        )

    def after_step(self, applied):
        self.calls.append(applied)
        if applied:
            self.applied += 1

    def exports(self):
        return {"line": Export(kind="classifier", module=self.net)}


CONFIG = TrainConfig(
    steps=7,
    batch_size=4,
    device="cpu",
    optimizer=OptimizerConfig(name="sgd", lr=0.05),
    schedule=ScheduleConfig(name="constant"),
    log_every=2,
    checkpoint_every=3,
)


class Bench:
    """Builds trainers in one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.Line, self.Numbers, self.config = Line, Numbers, CONFIG
        self.run = RunFolder.create(folder / "run", CONFIG)

    def new_run(self) -> RunFolder:
        self.count += 1
        return RunFolder.create(self.folder / f"run{self.count}", CONFIG)

    def trainer(self, system=None, source=None, run=None, *, keywords=None, **changes) -> Trainer:
        return Trainer(
            system or Line(),
            source or Numbers(),
            dataclasses.replace(CONFIG, **changes),
            run or self.run,
            **{"progress": False, **(keywords or {})},
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
