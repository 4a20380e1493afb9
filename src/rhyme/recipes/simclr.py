"""Recipes of SimCLR."""

from __future__ import annotations

from dataclasses import replace

from rhyme.encoders import HEAD_PRESETS, BackboneConfig
from rhyme.recipes import shared
from rhyme.recipes.base import Recipe
from rhyme.systems.simclr import SimclrConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform

_SMALL_HEAD = replace(HEAD_PRESETS["simclr"], out=64)
_LARS = OptimizerConfig(
    name="lars", lr=0.3, lr_scaling="linear", momentum=0.9, weight_decay=1e-6, eta=1e-3
)


def simclr_imagenet_8gpu() -> Recipe:
    """The paper's run: batch 4096, LARS at 0.3·B/256, 1000 epochs (its studies took 100)."""
    return Recipe(
        name="simclr_imagenet_8gpu",
        system="simclr",
        about="the paper's run: ResNet-50, batch 4096, LARS, 1000 epochs; 8 GPUs of 80 GB",
        model=SimclrConfig(
            backbone=BackboneConfig(name="resnet50"),
            head=HEAD_PRESETS["simclr"],
            transform=ContrastTransform.simclr(size=224, strength=1.0),
            temperature=0.1,
        ),
        train=TrainConfig(
            epochs=1000,
            batch_size=4096,
            optimizer=_LARS,
            schedule=ScheduleConfig(name="cosine", warmup_epochs=10),
            precision="bf16",
            workers=16,
            channels_last=True,
            log_every=50,
            checkpoint_every=1000,
        ),
        needs_gpu=True,
    )


def simclr_imagenet_b512() -> Recipe:
    """The authors' advice for small batches: 0.075·√B, τ = 0.2, and three layers in the head."""
    big = simclr_imagenet_8gpu()
    return replace(
        big,
        name="simclr_imagenet_b512",
        about="small batches as the authors advise: batch 512, LARS at 0.075·√B, τ .2, 200 epochs",
        model=replace(big.model, head=HEAD_PRESETS["simclr_v2"], temperature=0.2),
        train=replace(
            big.train,
            epochs=200,
            batch_size=512,
            optimizer=replace(_LARS, lr=0.075, lr_scaling="sqrt"),
        ),
    )


def simclr_cifar10_1gpu() -> Recipe:
    """ResNet-18 on pictures of 32 pixels, 200 epochs on one GPU.

    The authors' command for CIFAR-10, whose rate of 1.0 is meant for 256 pictures: 2.0 at 512.
    """
    return Recipe(
        name="simclr_cifar10_1gpu",
        system="simclr",
        about="pictures of 32 px: ResNet-18 with a 3x3 stem, batch 512, 200 epochs on one GPU",
        model=SimclrConfig(
            backbone=shared.CIFAR_BACKBONE,
            head=HEAD_PRESETS["simclr"],
            transform=ContrastTransform.simclr(size=32, strength=0.5, blur=0.0),
            temperature=0.5,
        ),
        train=replace(
            shared.CIFAR_TRAIN,
            optimizer=OptimizerConfig(name="lars", lr=1.0, lr_scaling="linear", weight_decay=1e-4),
            schedule=ScheduleConfig(name="cosine", warmup_epochs=10),
        ),
        data=shared.CIFAR_DATA,
        needs_gpu=True,
    )


def simclr_cifar10_cpu() -> Recipe:
    """A small encoder on pictures of 32 pixels, minutes on two cores for 10,000 of them."""
    return Recipe(
        name="simclr_cifar10_cpu",
        system="simclr",
        about="pictures of 32 px: small encoder, 12 epochs; two minutes on two cores for 10,000",
        model=SimclrConfig(
            backbone=shared.CIFAR_CPU_BACKBONE,
            head=_SMALL_HEAD,
            transform=ContrastTransform.simclr(
                size=32, strength=0.5, blur=0.0, interpolation="bilinear"
            ),
            temperature=0.2,
        ),
        train=shared.CIFAR_CPU_TRAIN,
        data=shared.CIFAR_CPU_DATA,
    )


def simclr_folder_cpu() -> Recipe:
    """A small encoder for a small folder of clips or pictures, minutes on a CPU."""
    return Recipe(
        name="simclr_folder_cpu",
        system="simclr",
        about="small encoder at 64 px, 600 steps of 64 items; minutes on two cores",
        model=SimclrConfig(
            backbone=shared.FOLDER_BACKBONE,
            head=_SMALL_HEAD,
            transform=ContrastTransform.simclr(size=64, strength=0.5),
            temperature=0.2,
        ),
        train=shared.FOLDER_TRAIN,
        data=shared.FOLDER_DATA,
    )


def simclr_world_demo() -> Recipe:
    """The generated world at 30 pixels, half a minute on two cores."""
    return Recipe(
        name="simclr_world_demo",
        system="simclr",
        about="the generated world at 30 px, 700 steps of 128 videos; half a minute on two cores",
        model=SimclrConfig(
            backbone=shared.WORLD_BACKBONE,
            head=_SMALL_HEAD,
            transform=shared.WORLD_TRANSFORM,
            temperature=0.2,
        ),
        train=shared.WORLD_TRAIN,
        data=shared.WORLD_DATA,
    )
