"""Recipes of CSTP."""

from __future__ import annotations

from dataclasses import replace

from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.recipes.base import DataConfig, Recipe
from rhyme.systems.cstp import CstpConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform, Overlap

_R21D = CstpConfig(
    backbone=BackboneConfig(name="r21d"),
    transform=ContrastTransform.cstp(size=112),
    frames=16,
    stride=4,
)
# The rate rises over the first half of the run and falls over the second.
_RISE_AND_FALL = ScheduleConfig(name="cosine", warmup_share=0.5, warmup_lr=1e-5, final_lr=1e-5)
_K400_TRAIN = TrainConfig(
    epochs=300,
    batch_size=128,
    optimizer=OptimizerConfig(
        name="sgd", lr=0.09, momentum=0.9, weight_decay=5e-4, decay_norm_and_bias=True
    ),
    schedule=_RISE_AND_FALL,
    clip_norm=18.0,
    workers=16,
    log_every=50,
    checkpoint_every=2000,
)

_HEAD = HeadConfig(layers=2, out=64, hidden=256, hidden_norm=True, normalise=False)
_SMALL = CstpConfig(
    backbone=BackboneConfig(name="small3d"),
    projector=_HEAD,
    predictor=replace(_HEAD, out=0),
    transform=ContrastTransform.cstp(size=24),
    frames=8,
    stride=4,
)
_SMALL_TRAIN = TrainConfig(
    steps=800,
    batch_size=32,
    optimizer=OptimizerConfig(name="adamw", lr=2e-3, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine", warmup_steps=50),
    clip_norm=18.0,
    log_every=20,
    checkpoint_every=200,
    probe_every=200,
)


def cstp_k400_r21d_8gpu() -> Recipe:
    """The published run on Kinetics-400: R(2+1)D, batch 128, 300 epochs."""
    return Recipe(
        name="cstp_k400_r21d_8gpu",
        system="cstp",
        about="the published run: R(2+1)D, 16 frames at 112 px, batch 128, 300 epochs, 8 GPUs",
        model=_R21D,
        train=_K400_TRAIN,
        needs_gpu=True,
    )


def cstp_ucf101_r21d_1gpu() -> Recipe:
    """The published run on UCF101: R(2+1)D, batch 60."""
    return Recipe(
        name="cstp_ucf101_r21d_1gpu",
        system="cstp",
        about="the published run on UCF101: R(2+1)D, 16 frames at 112 px, batch 60, 300 epochs",
        model=_R21D,
        train=replace(
            _K400_TRAIN, batch_size=60, optimizer=replace(_K400_TRAIN.optimizer, lr=0.03)
        ),
        needs_gpu=True,
    )


def cstp_folder_cpu() -> Recipe:
    """A small encoder for a small folder of videos, minutes on a CPU."""
    return Recipe(
        name="cstp_folder_cpu",
        system="cstp",
        about="small clip encoder at 48 px, 600 steps of 32 videos, clips of 8 frames",
        model=replace(_SMALL, transform=ContrastTransform.cstp(size=48), stride=8),
        train=replace(_SMALL_TRAIN, steps=600),
        data=DataConfig(cache_frames=64, cache_size=64),
    )


def cstp_world_demo() -> Recipe:
    """The generated world at 24 pixels, videos of 32 frames, minutes on two cores."""
    return Recipe(
        name="cstp_world_demo",
        system="cstp",
        about="the generated world at 24 px (32 frames a video), 800 steps of 32 videos",
        # As many paces as clips of 8 frames find room for in 32; all crops of one zoom. A mirrored
        # movement is another one.
        model=replace(
            _SMALL,
            transform=ContrastTransform.cstp(size=24, flip=0.0),
            overlap=Overlap(paces=(1, 2, 4), level_zoom=True),
        ),
        train=_SMALL_TRAIN,
        data=DataConfig(cache_frames=32, cache_size=30),
    )
