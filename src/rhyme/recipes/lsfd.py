"""Recipes of LSFD.

The paper's sizes could not be read: encoder, length and number of views, temperature, queue and
schedule of the runs on Kinetics-400 are ours, and the schedule is DUAL's.
"""

from __future__ import annotations

from dataclasses import replace

from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.recipes import shared
from rhyme.recipes.base import DataConfig, Recipe
from rhyme.systems.lsfd import LSFDConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform

_MODEL = LSFDConfig(
    backbone=BackboneConfig(name="r21d"),
    head=HeadConfig(layers=2, out=128),
    transform=ContrastTransform.dual(size=112),
    parts=2,
    frames=8,
    stride=4,
    aggregator="linear",
    temperature=0.1,
)
_TRAIN = TrainConfig(
    epochs=200,
    batch_size=64,
    optimizer=OptimizerConfig(
        name="sgd", lr=0.003, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=True
    ),
    schedule=ScheduleConfig(name="step", milestones=(120, 160), gamma=0.1, per="epoch"),
    precision="bf16",
    workers=16,
    log_every=50,
    checkpoint_every=2000,
)


def lsfd_k400_simclr_8gpu() -> Recipe:
    """Kinetics-400 at the size of the paper's data, negatives from the batch."""
    return Recipe(
        name="lsfd_k400_simclr_8gpu",
        system="lsfd",
        about="Kinetics-400, R(2+1)D, two views of 8 frames in a long one, 112 px, batch 64; the "
        "published sizes are unknown",
        model=_MODEL,
        train=_TRAIN,
        needs_gpu=True,
    )


def lsfd_k400_moco_8gpu() -> Recipe:
    """The same with a momentum encoder and a queue of 16,384 long views."""
    return Recipe(
        name="lsfd_k400_moco_8gpu",
        system="lsfd",
        about="Kinetics-400 with a momentum encoder and a queue of 16,384 long views, batch 64; "
        "the published sizes are unknown",
        model=replace(_MODEL, base="moco", momentum=0.999, queue=16384),
        train=_TRAIN,
        needs_gpu=True,
    )


def lsfd_folder_cpu() -> Recipe:
    """A small clip encoder for a small folder of videos, on a CPU."""
    return Recipe(
        name="lsfd_folder_cpu",
        system="lsfd",
        about="small clip encoder, two views of 8 frames of 56 px in 2.6 s, 600 steps of 16 videos",
        model=replace(
            _MODEL,
            backbone=BackboneConfig(name="small3d"),
            head=HeadConfig(layers=2, out=64),
            stride=None,
            spacing=0.16,
            transform=ContrastTransform.dual(size=56),
        ),
        train=replace(shared.FOLDER_TRAIN, batch_size=16),
        # 64 frames of an item of 10 s are as far apart as those of a short view.
        data=DataConfig(cache_frames=64, cache_size=64),
    )


def lsfd_world_demo() -> Recipe:
    """The generated world at 24 pixels, clips or untrimmed videos; minutes on two cores."""
    return Recipe(
        name="lsfd_world_demo",
        system="lsfd",
        about="the generated world, two views of 8 frames of 24 px in one of 16, 800 steps of 32 "
        "videos",
        model=replace(
            _MODEL,
            backbone=BackboneConfig(name="small3d"),
            head=HeadConfig(layers=2, out=64),
            stride=1,
            # Mirrored, a movement to the right would be one to the left.
            transform=replace(shared.WORLD_TRANSFORM, flip=0.0, gray=0.0),
        ),
        train=replace(
            shared.WORLD_TRAIN,
            steps=800,
            batch_size=32,
            optimizer=OptimizerConfig(name="adamw", lr=2e-3, weight_decay=1e-4),
            probe_every=400,
            checkpoint_every=400,
        ),
        # Every frame of an item: of long videos the last one may be half as long again as 10 s.
        data=DataConfig(cache_frames=120, cache_size=30),
    )
