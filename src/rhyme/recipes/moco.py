"""Recipes of MoCo."""

from __future__ import annotations

from rhyme.recipes import shared
from rhyme.recipes.base import Recipe
from rhyme.systems.moco import MocoConfig
from rhyme.views import ContrastTransform


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
