"""Lists: systems and recipes."""

from __future__ import annotations

from typing import Any

from rhyme.config import dump_yaml
from rhyme.recipes import RECIPES, Recipe, recipe_to_dict
from rhyme.recipes import recipe as named_recipe
from rhyme.systems import SYSTEMS, SystemEntry


def systems() -> list[SystemEntry]:
    """All systems with their true state."""
    return list(SYSTEMS.values())


def recipe_names() -> list[str]:
    """Names of all recipes."""
    return list(RECIPES)


def recipe(name: str) -> Recipe:
    """A recipe by name, or a system's small recipe by its id."""
    return named_recipe(name)


def recipe_values(name: str) -> dict[str, Any]:
    """A recipe as plain data."""
    return recipe_to_dict(named_recipe(name))


def as_yaml(values: Any) -> str:
    """Plain data as YAML."""
    return dump_yaml(values)
