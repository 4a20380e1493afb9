"""Recipes of CycleContrast."""

from __future__ import annotations

from rhyme.recipes import shared
from rhyme.recipes.base import Recipe
from rhyme.systems.cycle_contrast import CycleContrastConfig
from rhyme.views import ContrastTransform


def cycle_contrast_r2v2_8gpu() -> Recipe:
    """The published run: ResNet-50 on R2V2 or any folder of videos, 8 GPUs, 200 epochs."""
    return Recipe(
        name="cycle_contrast_r2v2_8gpu",
        system="cycle_contrast",
        about="the published run: ResNet-50, queue 65,536 + 81,920, batch 512, 200 epochs, 8 GPUs",
        model=CycleContrastConfig(
            backbone=shared.R2V2_BACKBONE,
            head=shared.R2V2_HEAD,
            transform=ContrastTransform.moco_v2(size=224),
            temperature=0.07,
            momentum=0.999,
            queue=65536,
            cycle_queue=81920,
            support=16384,
            intra_weight=1.0,
            cycle_weight=0.1,
        ),
        train=shared.R2V2_TRAIN,
        needs_gpu=True,
    )


def cycle_contrast_folder_cpu() -> Recipe:
    """A small encoder for a small folder of clips, minutes on a CPU."""
    return Recipe(
        name="cycle_contrast_folder_cpu",
        system="cycle_contrast",
        about="small encoder at 64 px, 600 steps of 64 items; minutes on two cores",
        model=CycleContrastConfig(
            backbone=shared.FOLDER_BACKBONE,
            head=shared.FOLDER_HEAD,
            transform=shared.FOLDER_TRANSFORM,
            temperature=0.2,
            momentum=0.99,
            queue=1024,
            cycle_queue=1280,
            support=256,
            cycle_weight=1.0,
            exclude_query_frame=True,
        ),
        train=shared.FOLDER_TRAIN,
        data=shared.FOLDER_DATA,
    )


def cycle_contrast_world_demo() -> Recipe:
    """The generated world at 30 pixels, a minute on two cores."""
    return Recipe(
        name="cycle_contrast_world_demo",
        system="cycle_contrast",
        about="the generated world at 30 px, 700 steps of 128 videos; a minute on two cores",
        model=CycleContrastConfig(
            backbone=shared.WORLD_BACKBONE,
            head=shared.WORLD_HEAD,
            transform=shared.WORLD_TRANSFORM,
            temperature=0.2,
            momentum=0.99,
            queue=1024,
            cycle_queue=1024,
            support=256,
            cycle_weight=1.0,
            exclude_query_frame=True,
            mask_same_group=True,
        ),
        train=shared.WORLD_TRAIN,
        data=shared.WORLD_DATA,
    )
