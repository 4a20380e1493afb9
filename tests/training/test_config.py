from __future__ import annotations

import pytest

from rhyme.config import from_dict, override, to_dict
from rhyme.errors import ConfigError
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig


def test_round_trip_through_plain_data():
    config = TrainConfig(
        epochs=3,
        optimizer=OptimizerConfig(name="adamw", betas=(0.8, 0.9)),
        schedule=ScheduleConfig(name="step", milestones=(2, 3), per="epoch"),
    )
    assert from_dict(TrainConfig, to_dict(config)) == config


def test_dotted_override_reaches_the_optimizer():
    config = override(TrainConfig(steps=5), {"optimizer.lr": 0.5, "steps": 9})
    assert (config.optimizer.lr, config.steps) == (0.5, 9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 0},
        {"steps": True},
        {"epochs": 0},
        {"epochs": float("inf")},
        {"steps": 1, "batch_size": 0},
        {"steps": 1, "clip_norm": 0.0},
        {"steps": 1, "checkpoint_every": 0},
        {"steps": 1, "keep": 0},
        {"steps": 1, "device": "gpu"},
        {"steps": 1, "device": "cpu:1"},
        {"steps": 1, "nan": "ignore"},
        {"steps": 1, "seed": -1},
        {"steps": 1, "workers": -1},
        {"steps": 1, "collapse": -0.1},
    ],
)
def test_train_config_refuses(options):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**options)
    assert caught.value.remedy
    if {"clip_norm", "checkpoint_every"} & options.keys():
        assert "or null" in caught.value.cause


@pytest.mark.parametrize(
    "options",
    [
        {"name": "adam"},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"betas": (0.9, 1.0)},
        {"eta": 0.0},
        {"eps": 0.0},
        {"name": "adamw", "nesterov": True},
        {"momentum": 0.0, "nesterov": True},
    ],
)
def test_optimizer_config_refuses(options):
    with pytest.raises(ConfigError):
        OptimizerConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "linear"},
        {"per": "batch"},
        {"warmup_steps": -1},
        {"warmup_steps": 3, "warmup_epochs": 1.0},
        {"warmup_steps": 3, "warmup_share": 0.5},
        {"warmup_share": 1.0},
        {"name": "step"},
        {"milestones": (3,)},
        {"name": "step", "milestones": (5, 3)},
        {"name": "step", "milestones": (0, 3)},
        {"final_lr": -1.0},
    ],
)
def test_schedule_config_refuses(options):
    with pytest.raises(ConfigError):
        ScheduleConfig(**options)


def test_norm_and_bias_decay_by_optimizer():
    assert OptimizerConfig(name="sgd").decays_all
    assert not OptimizerConfig(name="lars").decays_all
    assert not OptimizerConfig(name="adamw").decays_all
    assert OptimizerConfig(name="lars", decay_norm_and_bias=True).decays_all
