"""Recipes of MoCo."""

from __future__ import annotations

from dataclasses import replace

from rhyme.encoders import BackboneConfig
from rhyme.recipes import shared
from rhyme.recipes.base import Recipe
from rhyme.systems.moco import HEAD_V1, HEAD_V2, MocoConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform


def moco_v2_imagenet_8gpu() -> Recipe:
    """MoCo v2 on ImageNet: MLP head, blur, cosine, τ = .2."""
    return Recipe(
        name="moco_v2_imagenet_8gpu",
        system="moco",
        about="MoCo v2 as published: ResNet-50, queue 65,536, batch 256, 200 epochs, 8 GPUs",
        model=MocoConfig(
            backbone=BackboneConfig(name="resnet50", norm_groups=8),
            head=HEAD_V2,
            transform=ContrastTransform.moco_v2(size=224),
            temperature=0.2,
            momentum=0.999,
            queue=65536,
        ),
        train=TrainConfig(
            epochs=200,
            batch_size=256,
            optimizer=OptimizerConfig(
                name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=True
            ),
            schedule=ScheduleConfig(name="cosine", per="epoch"),
            workers=16,
            channels_last=True,
            log_every=50,
            checkpoint_every=5000,
        ),
        needs_gpu=True,
    )


def moco_v1_imagenet_8gpu() -> Recipe:
    """MoCo v1: one linear layer, its own augmentation, τ = .07, the rate divided at 120 and 160."""
    second = moco_v2_imagenet_8gpu()
    return replace(
        second,
        name="moco_v1_imagenet_8gpu",
        about="MoCo v1 as published: ResNet-50, queue 65,536, batch 256, 200 epochs, 8 GPUs",
        model=replace(
            second.model,
            head=HEAD_V1,
            transform=ContrastTransform.moco_v1(size=224),
            temperature=0.07,
        ),
        train=replace(
            second.train,
            schedule=ScheduleConfig(name="step", milestones=(120, 160), gamma=0.1, per="epoch"),
        ),
    )


def moco_cifar10_1gpu() -> Recipe:
    """ResNet-18 on pictures of 32 pixels, 200 epochs on one GPU; batch norm in eight groups."""
    return Recipe(
        name="moco_cifar10_1gpu",
        system="moco",
        about="pictures of 32 px: ResNet-18 with a 3x3 stem, batch 512, 200 epochs on one GPU",
        model=MocoConfig(
            backbone=replace(shared.CIFAR_BACKBONE, norm_groups=8),
            head=HEAD_V2,
            transform=ContrastTransform.moco_v2(size=32, blur=0.0),
            temperature=0.1,
            momentum=0.99,
            queue=4096,
        ),
        train=replace(
            shared.CIFAR_TRAIN,
            optimizer=OptimizerConfig(name="sgd", lr=0.06, momentum=0.9, weight_decay=5e-4),
            schedule=ScheduleConfig(name="cosine"),
        ),
        data=shared.CIFAR_DATA,
        needs_gpu=True,
    )


def moco_cifar10_cpu() -> Recipe:
    """A small encoder on pictures of 32 pixels, minutes on two cores for 10,000 of them."""
    return Recipe(
        name="moco_cifar10_cpu",
        system="moco",
        about="pictures of 32 px: small encoder, 12 epochs; two minutes on two cores for 10,000",
        model=MocoConfig(
            backbone=replace(shared.CIFAR_CPU_BACKBONE, norm_groups=8),
            head=replace(HEAD_V2, hidden_norm=True, out=64),
            transform=ContrastTransform.moco_v2(size=32, blur=0.0),
            temperature=0.2,
            momentum=0.99,
            queue=4096,
        ),
        train=shared.CIFAR_CPU_TRAIN,
        data=shared.CIFAR_CPU_DATA,
    )


def moco_r2v2_8gpu() -> Recipe:
    """The baseline of the CycleContrast paper: image-level MoCo on frames of R2V2."""
    return Recipe(
        name="moco_r2v2_8gpu",
        system="moco",
        about="image-level baseline on video frames: ResNet-50, queue 65,536, batch 512, 8 GPUs",
        model=MocoConfig(
            backbone=shared.R2V2_BACKBONE,
            head=shared.R2V2_HEAD,
            transform=ContrastTransform.moco_v2(size=224),
            temperature=0.07,
            momentum=0.999,
            queue=65536,
        ),
        train=shared.R2V2_TRAIN,
        needs_gpu=True,
    )


def moco_folder_cpu() -> Recipe:
    """A small encoder for a small folder of clips, minutes on a CPU."""
    return Recipe(
        name="moco_folder_cpu",
        system="moco",
        about="small encoder at 64 px, 600 steps of 64 items; minutes on two cores",
        model=MocoConfig(
            backbone=shared.FOLDER_BACKBONE,
            head=shared.FOLDER_HEAD,
            transform=shared.FOLDER_TRANSFORM,
            temperature=0.2,
            momentum=0.99,
            queue=1024,
        ),
        train=shared.FOLDER_TRAIN,
        data=shared.FOLDER_DATA,
    )


def moco_world_demo() -> Recipe:
    """The generated world at 30 pixels, half a minute on two cores."""
    return Recipe(
        name="moco_world_demo",
        system="moco",
        about="the generated world at 30 px, 700 steps of 128 videos; half a minute on two cores",
        model=MocoConfig(
            backbone=shared.WORLD_BACKBONE,
            head=shared.WORLD_HEAD,
            transform=shared.WORLD_TRANSFORM,
            temperature=0.2,
            momentum=0.99,
            queue=1024,
            mask_same_group=True,
        ),
        train=shared.WORLD_TRAIN,
        data=shared.WORLD_DATA,
    )
