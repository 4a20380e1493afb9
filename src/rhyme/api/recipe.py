"""Which recipe is meant, and what the caller changes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rhyme.config import dump_yaml, override
from rhyme.errors import ConfigError
from rhyme.recipes import Recipe, left_behind, load_recipe, recipe_from_dict, recipe_to_dict
from rhyme.recipes import recipe as named_recipe
from rhyme.run import RunFolder, atomic_write


def resolve_recipe(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Recipe:
    """A recipe by object, name, system id or file, with dotted changes applied.

    Where ``model.backbone.name`` becomes a network of another kind, options of the old one that are
    not given (strides, stem, widths ...) fall back to the new one's own.

    Args:
        recipe: which.
        overrides: dotted options.
        say: is told what fell back, in a line.

    Raises:
        UnknownName: no such recipe, system or option; the nearest is named.
        ConfigError: a value that does not fit.
    """
    if isinstance(recipe, Recipe):
        found = recipe
    elif str(recipe).endswith((".yaml", ".yml")):
        found = load_recipe(Path(recipe))
    else:
        found = named_recipe(str(recipe))
    changes = dict(overrides or {})
    # One of the two lengths replaces the other, which is what a user who gives it means.
    if "train.steps" in changes and "train.epochs" not in changes:
        changes["train.epochs"] = None
    elif "train.epochs" in changes and "train.steps" not in changes:
        changes["train.steps"] = None
    if changes:
        values = recipe_to_dict(found)
        if behind := left_behind(values, changes):
            changes |= dict.fromkeys(behind)  # null: its own
            if say is not None:
                options = {key.rpartition(".")[2]: value for key, value in behind.items()}
                told = ", ".join(f"{option} {value}" for option, value in options.items())
                old, new = values["model"]["backbone"]["name"], changes["model.backbone.name"]
                own = ", ".join(options)
                say(f"{new} has its own {own}; those of the recipe are made for {old} ({told})")
        for key, value in changes.items():
            values = override(values, {key: value})
        found = recipe_from_dict(values)
    return found


def settle_recipe(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Recipe:
    """The recipe with seed and device, which have options of their own.

    Args:
        recipe: as for :func:`resolve_recipe`, like ``overrides``.
        overrides: dotted options.
        seed: None takes the recipe's.
        device: None takes the recipe's.
        say: as for :func:`resolve_recipe`.

    Raises:
        ConfigError: two values for one of them, or as :func:`resolve_recipe`.
        UnknownName: as :func:`resolve_recipe`.
    """
    changes = dict(overrides or {})
    for name, value in (("train.seed", seed), ("train.device", device)):
        if value is None:
            continue
        if changes.setdefault(name, value) != value:
            raise ConfigError(
                f"two values for {name}",
                stage="config",
                value=(value, changes[name]),
                remedy=f"leave out --{name} or --{name.removeprefix('train.')}",
            )
    return resolve_recipe(recipe, changes, say=say)


def changed_recipe(run: RunFolder, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of a run that is to go on, with other options; nothing is written.

    Args:
        run: its folder.
        overrides: dotted options.

    Raises:
        ConfigError: an option that would change what the run computes.
    """
    recipe = load_recipe(run.config)
    free = [f"train.{name}" for name in recipe.train.operational if name != "device"]
    for name in overrides:
        if name not in free:
            raise ConfigError(
                "a resumed run keeps its recipe",
                file=run.config,
                stage="config",
                value=name,
                remedy=f"leave it out; these may change: {', '.join(free)}",
            )
    return resolve_recipe(recipe, overrides) if overrides else recipe


def keep_recipe(run: RunFolder, recipe: Recipe, overrides: Mapping[str, Any]) -> None:
    """Keep changed options of a run in its ``config.yaml``, once all of them are checked.

    Args:
        run: its folder; nobody else may train in it.
        recipe: with the options.
        overrides: those that were changed.

    Raises:
        RunError: somebody trains in it.
    """
    with run.held():
        atomic_write(run.config, dump_yaml(recipe_to_dict(recipe)))
        run.event("changed", options=dict(overrides))
