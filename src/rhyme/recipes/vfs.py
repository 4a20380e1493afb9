"""Recipes of VFS."""

from __future__ import annotations

from dataclasses import replace

from rhyme.encoders import HEAD_PRESETS, BackboneConfig, HeadConfig
from rhyme.recipes import shared
from rhyme.recipes.base import Recipe
from rhyme.systems.vfs import VFSConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform

_R50 = VFSConfig(
    backbone=BackboneConfig(name="resnet50", zero_init_residual=True),
    projector=HEAD_PRESETS["vfs_projector"],
    predictor=HEAD_PRESETS["vfs_predictor"],
    transform=ContrastTransform.vfs_nc(size=224),
    frames=2,
)
_R18 = replace(
    _R50,
    backbone=BackboneConfig(name="resnet18", zero_init_residual=True),
    predictor=replace(HEAD_PRESETS["vfs_predictor"], hidden=128),
    frames=8,
)
# 100 epochs over the set five times (twice for ResNet-18), each time with other frames.
_R50_TRAIN = TrainConfig(
    epochs=500,
    batch_size=256,
    optimizer=OptimizerConfig(
        name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=True
    ),
    schedule=ScheduleConfig(name="cosine"),
    workers=16,
    channels_last=True,
    log_every=50,
    checkpoint_every=2000,
    collapse_stop=True,
)
_R18_TRAIN = replace(_R50_TRAIN, epochs=200, batch_size=64)


def vfs_kinetics_r50_8gpu() -> Recipe:
    """The published ResNet-50 for label propagation: two frames, colours kept."""
    return Recipe(
        name="vfs_kinetics_r50_8gpu",
        system="vfs",
        about="the published run: ResNet-50, two frames, colours kept, batch 256, 8 GPUs",
        model=_R50,
        train=_R50_TRAIN,
        needs_gpu=True,
    )


def vfs_kinetics_r50colour_8gpu() -> Recipe:
    """The published ResNet-50 for tracking: the same with jitter, grayscale and blur."""
    return Recipe(
        name="vfs_kinetics_r50colour_8gpu",
        system="vfs",
        about="the published run for tracking: ResNet-50, two frames, colours changed, 8 GPUs",
        model=replace(_R50, transform=ContrastTransform.moco_v2(size=224)),
        train=_R50_TRAIN,
        needs_gpu=True,
    )


def vfs_kinetics_r18_2gpu() -> Recipe:
    """The published ResNet-18: eight frames, all sixteen pairs of its halves."""
    return Recipe(
        name="vfs_kinetics_r18_2gpu",
        system="vfs",
        about="the published run: ResNet-18, eight frames in all pairs, batch 64, 2 GPUs",
        model=_R18,
        train=_R18_TRAIN,
        needs_gpu=True,
    )


def vfs_kinetics_r18colour_2gpu() -> Recipe:
    """The published ResNet-18 for tracking: the same with jitter, grayscale and blur."""
    return Recipe(
        name="vfs_kinetics_r18colour_2gpu",
        system="vfs",
        about="the published run for tracking: ResNet-18, eight frames, colours changed, 2 GPUs",
        model=replace(_R18, transform=ContrastTransform.moco_v2(size=224)),
        train=_R18_TRAIN,
        needs_gpu=True,
    )


def vfs_kinetics_negatives_8gpu() -> Recipe:
    """The form with negatives: momentum encoder, queue, in-batch negatives."""
    return Recipe(
        name="vfs_kinetics_negatives_8gpu",
        system="vfs",
        about="the form with negatives: ResNet-50, queue 65,536, shuffle-BN, batch 256, 8 GPUs",
        model=replace(
            _R50,
            backbone=BackboneConfig(name="resnet50", norm_groups=8),
            head=HeadConfig(layers=2, out=128),
            negatives=True,
            temperature=0.2,
            momentum=0.999,
            queue=65536,
        ),
        train=replace(_R50_TRAIN, collapse_stop=False),
        needs_gpu=True,
    )


def vfs_folder_cpu() -> Recipe:
    """A small encoder for a small folder of clips, minutes on a CPU."""
    return Recipe(
        name="vfs_folder_cpu",
        system="vfs",
        about="small encoder at 64 px, 600 steps of 64 videos, two frames; minutes on two cores",
        model=VFSConfig(
            backbone=shared.FOLDER_BACKBONE,
            predictor=replace(HEAD_PRESETS["vfs_predictor"], hidden=32),
            transform=ContrastTransform.vfs_nc(size=64),
            queue=1024,
        ),
        train=replace(shared.FOLDER_TRAIN, collapse_stop=True),
        data=shared.FOLDER_DATA,
    )


def vfs_world_demo() -> Recipe:
    """The generated world at 30 pixels, minutes on two cores."""
    return Recipe(
        name="vfs_world_demo",
        system="vfs",
        about="the generated world at 30 px, 700 steps of 128 videos; minutes on two cores",
        model=VFSConfig(
            backbone=shared.WORLD_BACKBONE,
            predictor=replace(HEAD_PRESETS["vfs_predictor"], hidden=32),
            transform=replace(
                shared.WORLD_TRANSFORM, contrast=0.0, brightness=0.0, channel_gain=0.0, gray=0.0
            ),
            queue=1024,
        ),
        # At the others' rate the rank of the projections falls to 12 within 140 steps, and the loss
        # rises again; at this one it stays near 40 (world 2007, no seed of the evidence).
        train=replace(
            shared.WORLD_TRAIN,
            optimizer=replace(shared.WORLD_TRAIN.optimizer, lr=1e-3),
            collapse_stop=True,
        ),
        data=shared.WORLD_DATA,
    )
