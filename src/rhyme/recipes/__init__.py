"""Recipes: complete configurations as functions, named ``<system>_<data>_<budget>``."""

from __future__ import annotations

import importlib

from rhyme.errors import UnknownName, nearest
from rhyme.recipes.base import (
    DataConfig,
    Recipe,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from rhyme.recipes.network import left_behind
from rhyme.systems import SYSTEMS, system_class

RECIPES: dict[str, str] = {
    name: f"rhyme.recipes.{module}:{name}"
    for module, names in {
        "cstp": (
            "cstp_folder_cpu",
            "cstp_k400_r21d_8gpu",
            "cstp_ucf101_r21d_1gpu",
            "cstp_world_demo",
        ),
        "cycle_contrast": (
            "cycle_contrast_folder_cpu",
            "cycle_contrast_r2v2_8gpu",
            "cycle_contrast_world_demo",
        ),
        "densecl": (
            "densecl_coco_8gpu",
            "densecl_folder_cpu",
            "densecl_imagenet_8gpu",
            "densecl_world_demo",
        ),
        "dual": (
            "dual_folder_cpu",
            "dual_k400_moco_8gpu",
            "dual_k400_published_8gpu",
            "dual_k400_simclr_8gpu",
            "dual_ucf101_moco_8gpu",
            "dual_ucf101_simclr_8gpu",
            "dual_world_demo",
        ),
        "lsfd": (
            "lsfd_folder_cpu",
            "lsfd_k400_moco_8gpu",
            "lsfd_k400_simclr_8gpu",
            "lsfd_world_demo",
        ),
        "moco": (
            "moco_cifar10_1gpu",
            "moco_cifar10_cpu",
            "moco_folder_cpu",
            "moco_r2v2_8gpu",
            "moco_v1_imagenet_8gpu",
            "moco_v2_imagenet_8gpu",
            "moco_world_demo",
        ),
        "simclr": (
            "simclr_cifar10_1gpu",
            "simclr_cifar10_cpu",
            "simclr_folder_cpu",
            "simclr_imagenet_8gpu",
            "simclr_imagenet_b512",
            "simclr_world_demo",
        ),
        "vfs": (
            "vfs_folder_cpu",
            "vfs_kinetics_negatives_8gpu",
            "vfs_kinetics_r18_2gpu",
            "vfs_kinetics_r18colour_2gpu",
            "vfs_kinetics_r50_8gpu",
            "vfs_kinetics_r50colour_8gpu",
            "vfs_world_demo",
        ),
    }.items()
    for name in names
}
"""Recipe name to ``module:function``."""


def recipe(name: str) -> Recipe:
    """A recipe by its name, or a system's small recipe by the system's id.

    Raises:
        UnknownName: neither; the message names the nearest.
        ConfigError: the system is planned and has no recipe yet.
    """
    if name in SYSTEMS:
        system_class(name)
        name = f"{name}_folder_cpu"
    if name not in RECIPES:
        raise UnknownName(
            f"unknown system or recipe '{name}'",
            stage="recipes",
            remedy=nearest(name, [*RECIPES, *SYSTEMS]),
        )
    module, function = RECIPES[name].split(":")
    return getattr(importlib.import_module(module), function)()


__all__ = [
    "RECIPES",
    "DataConfig",
    "Recipe",
    "left_behind",
    "load_recipe",
    "recipe",
    "recipe_from_dict",
    "recipe_to_dict",
]
