"""The alarm rings for an encoder that has collapsed, in time, and for no healthy one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rhyme.errors import TrainingError
from rhyme.loading import ArraySource
from rhyme.run import RunFolder
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig, Trainer, checkpoint
from support.logs import events
from support.tiny_systems import build_tiny

CONFIG = TrainConfig(
    steps=200,
    batch_size=16,
    device="cpu",
    log_every=10,
    checkpoint_every=None,
    optimizer=OptimizerConfig(name="sgd", lr=0.05),
    schedule=ScheduleConfig(name="constant"),
)


def trainer(run, config, seed=0, constant=False):
    system = build_tiny("moco", seed, torch.float32, queue=64)
    if constant:
        with torch.no_grad():
            system.encoders.online.heads["m"].layers[0].weight.zero_()
            system.encoders.momentum.reset()
        system.encoders.online.heads["m"].layers[0].weight.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(64, 1, 3, 12, 12, generator=generator)
    noise = [0.3 * torch.randn(frames.shape, generator=generator) for _ in range(2)]
    views = {"query": frames + noise[0], "key": frames + noise[1]}
    source = ArraySource(views, config.batch_size, seed, kinds=dict.fromkeys(views, "pixels"))
    return Trainer(system, source, config, run, progress=False)


@pytest.mark.parametrize("log_every", [10, 1000])
def test_rings_within_200_steps_of_a_constant_encoder(tmp_path, log_every):
    config = dataclasses.replace(CONFIG, log_every=log_every)
    run = RunFolder.create(tmp_path / "run", config)
    trainer(run, config, constant=True).fit()
    (event,) = events(run, "collapse")
    assert event["embedding"] == "m"
    assert event["step"] == (50 if log_every == 10 else 200)


def test_stops_and_saves_if_asked_and_can_go_on(tmp_path):
    config = dataclasses.replace(CONFIG, steps=60, collapse_stop=True)
    run = RunFolder.create(tmp_path / "run", config)
    with pytest.raises(TrainingError, match="collapsed at step 50") as caught:
        trainer(run, config, constant=True).fit()
    assert caught.value.value == ["m"]
    assert checkpoint.steps_on_disk(run.checkpoints) == [50]
    assert trainer(run, config, constant=True).fit(resume=True).steps == 60


def test_never_rings_on_healthy_runs(tmp_path):
    config = dataclasses.replace(CONFIG, steps=30, log_every=5, collapse_logs=1)
    for seed in range(10):
        run = RunFolder.create(tmp_path / f"run{seed}", config)
        trainer(run, config, seed).fit()
        assert not events(run, "collapse"), f"seed {seed}"
