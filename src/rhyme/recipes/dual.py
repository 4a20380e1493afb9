"""Recipes of DUAL."""

from __future__ import annotations

from dataclasses import replace

from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.recipes import shared
from rhyme.recipes.base import DataConfig, Recipe
from rhyme.systems.dual import DualConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform

_MODEL = DualConfig(
    backbone=BackboneConfig(name="r21d"),
    head=HeadConfig(layers=2, out=128),
    series=HeadConfig(layers=2, out=64),
    segments=2,
    frames=16,
    stride=4,
    place="edges",
    reverse=0.5,
    transform=ContrastTransform.dual(size=112),
    source_skip=0.2,
    temperature=0.07,
    tc_temperature=0.07,
    theta=0.05,
)
# As in R(2+1)D, the last cells see the whole clip; with the backbone's own strides they see 11 of
# 16 frames, and shuffle-rank does not get off the ground.
_SMALL = BackboneConfig(name="small3d", temporal_strides=(1, 2, 2, 2))
_MOCO = replace(_MODEL, base="moco", momentum=0.999, queue=16384)
# 8 GPUs of 8 videos; the published runs go on for 200 epochs and keep the one before the 190th.
_TRAIN = TrainConfig(
    epochs=200,
    batch_size=64,
    optimizer=OptimizerConfig(
        name="sgd", lr=0.003, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=True
    ),
    schedule=ScheduleConfig(name="step", milestones=(120, 160), gamma=0.1, per="epoch"),
    workers=16,
    log_every=50,
    checkpoint_every=2000,
)


def dual_k400_simclr_8gpu() -> Recipe:
    """DUAL over SimCLR on Kinetics-400: the run behind the paper's best figures."""
    return Recipe(
        name="dual_k400_simclr_8gpu",
        system="dual",
        about="the paper's run on Kinetics-400: R(2+1)D, 16 frames of 112 px, batch 64, 200 epochs",
        model=_MODEL,
        train=_TRAIN,
        needs_gpu=True,
    )


def dual_k400_moco_8gpu() -> Recipe:
    """DUAL over MoCo on Kinetics-400: two queues of 16,384 keys."""
    return Recipe(
        name="dual_k400_moco_8gpu",
        system="dual",
        about="the paper's run on Kinetics-400 over MoCo: two queues of 16,384 keys, batch 64",
        model=_MOCO,
        train=_TRAIN,
        needs_gpu=True,
    )


def dual_k400_published_8gpu() -> Recipe:
    """The same over SimCLR, at the balance that the published code has on 8 GPUs."""
    return Recipe(
        name="dual_k400_published_8gpu",
        system="dual",
        about="Kinetics-400 as the published code weighs it: clip term 1/8, ranking cut off",
        model=replace(
            _MODEL, w_clip=DualConfig.published().w_clip, clamp=DualConfig.published().clamp
        ),
        train=_TRAIN,
        needs_gpu=True,
    )


def dual_ucf101_simclr_8gpu() -> Recipe:
    """DUAL over SimCLR on UCF101, the small set of the paper; the same hyper-parameters."""
    return replace(
        dual_k400_simclr_8gpu(),
        name="dual_ucf101_simclr_8gpu",
        about="the paper's run on UCF101: R(2+1)D, 16 frames of 112 px, batch 64, 200 epochs",
        train=replace(_TRAIN, log_every=20, checkpoint_every=500),
    )


def dual_ucf101_moco_8gpu() -> Recipe:
    """DUAL over MoCo on UCF101."""
    return replace(
        dual_k400_moco_8gpu(),
        name="dual_ucf101_moco_8gpu",
        about="the paper's run on UCF101 over MoCo: two queues of 16,384 keys, batch 64",
        train=replace(_TRAIN, log_every=20, checkpoint_every=500),
    )


def dual_folder_cpu() -> Recipe:
    """A small clip encoder for a small folder of videos, on a CPU."""
    return Recipe(
        name="dual_folder_cpu",
        system="dual",
        about="small clip encoder, 16 frames of 56 px over 2.4 s, 600 steps of 16 videos",
        model=replace(
            _MODEL,
            backbone=_SMALL,
            stride=None,
            spacing=0.16,
            transform=ContrastTransform.dual(size=56),
        ),
        train=replace(shared.FOLDER_TRAIN, batch_size=16),
        # 64 frames of an item of 10 s are as far apart as every fourth of 25 a second.
        data=DataConfig(cache_frames=64, cache_size=64),
    )


def dual_world_demo() -> Recipe:
    """The generated world at 24 pixels: ordered movements, minutes on two cores."""
    return Recipe(
        name="dual_world_demo",
        system="dual",
        about="the generated world, 16 frames of 24 px, 800 steps of 32 videos",
        model=replace(
            _MODEL,
            backbone=_SMALL,
            stride=1,
            place="random",
            # Mirrored, a movement to the right would be one to the left; colours are kept apart.
            transform=replace(shared.WORLD_TRANSFORM, flip=0.0, gray=0.0),
            source_skip=0.0,
        ),
        train=replace(
            shared.WORLD_TRAIN,
            steps=800,
            batch_size=32,
            optimizer=OptimizerConfig(name="adamw", lr=2e-3, weight_decay=1e-4),
            probe_every=400,
            checkpoint_every=400,
        ),
        data=DataConfig(cache_frames=24, cache_size=30),
    )
