"""Recipes of DenseCL."""

from __future__ import annotations

from dataclasses import replace

from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.recipes import shared
from rhyme.recipes.base import Recipe
from rhyme.systems.densecl import DenseCLConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform

_PAPER_MODEL = DenseCLConfig(
    backbone=BackboneConfig(name="resnet50", norm_groups=8),
    head=HeadConfig(layers=2, out=128),
    dense_head=HeadConfig(layers=2, out=128),
    transform=ContrastTransform.moco_v2(size=224),
    temperature=0.2,
    momentum=0.999,
    queue=65536,
    dense_queue=65536,
    dense_weight=0.5,
)
_PAPER_TRAIN = TrainConfig(
    epochs=200,
    batch_size=256,
    optimizer=OptimizerConfig(
        name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=True
    ),
    schedule=ScheduleConfig(name="cosine", per="epoch"),
    workers=16,
    channels_last=True,
    log_every=50,
    checkpoint_every=2000,
)


def densecl_imagenet_8gpu() -> Recipe:
    """The published run on a folder of single pictures, ImageNet's size: 200 epochs."""
    return Recipe(
        name="densecl_imagenet_8gpu",
        system="densecl",
        about="the published run on ImageNet: ResNet-50, queues of 65,536, 200 epochs, 8 GPUs",
        model=_PAPER_MODEL,
        train=_PAPER_TRAIN,
        needs_gpu=True,
    )


def densecl_coco_8gpu() -> Recipe:
    """The published run on COCO's pictures: ten times the rate, 800 epochs."""
    return Recipe(
        name="densecl_coco_8gpu",
        system="densecl",
        about="the published run on COCO: ResNet-50, learning rate 0.3, 800 epochs, 8 GPUs",
        model=_PAPER_MODEL,
        train=replace(_PAPER_TRAIN, epochs=800, optimizer=replace(_PAPER_TRAIN.optimizer, lr=0.3)),
        needs_gpu=True,
    )


def densecl_folder_cpu() -> Recipe:
    """A small encoder with a map of 8 x 8 cells for a small folder of clips."""
    return Recipe(
        name="densecl_folder_cpu",
        system="densecl",
        about="small encoder of stride 8 at 64 px, 600 steps of 64 items; minutes on two cores",
        model=DenseCLConfig(
            backbone=replace(shared.FOLDER_BACKBONE, strides=(2, 2, 2, 1)),
            head=shared.FOLDER_HEAD,
            dense_head=shared.FOLDER_HEAD,
            transform=shared.FOLDER_TRANSFORM,
            temperature=0.2,
            momentum=0.99,
            queue=1024,
            dense_queue=1024,
        ),
        train=shared.FOLDER_TRAIN,
        data=shared.FOLDER_DATA,
    )


def densecl_world_demo() -> Recipe:
    """The generated world at 30 pixels with a map of 6 x 6 cells."""
    return Recipe(
        name="densecl_world_demo",
        system="densecl",
        about="the generated world at 30 px, 700 steps of 128 videos; minutes on two cores",
        model=DenseCLConfig(
            backbone=replace(shared.WORLD_BACKBONE, strides=(1, 2, 2, 1)),
            head=shared.WORLD_HEAD,
            dense_head=shared.WORLD_HEAD,
            transform=shared.WORLD_TRANSFORM,
            temperature=0.2,
            momentum=0.99,
            queue=1024,
            dense_queue=1024,
            mask_same_group=True,
        ),
        train=shared.WORLD_TRAIN,
        data=shared.WORLD_DATA,
    )
