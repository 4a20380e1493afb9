"""A recipe: everything that a run needs but the data, on one page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rhyme.config import from_dict, load_yaml, to_dict
from rhyme.errors import ConfigError, RhymeError
from rhyme.recipes.network import without_nulls
from rhyme.systems import config_class
from rhyme.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How a collection is read for training.

    Attributes:
        segment: seconds of an item of a long file.
        cache_frames: frames of each item that are held decoded in memory, equally spaced from its
            first to its last; None decodes files in every step.
        cache_size: shorter side of the cached frames, in pixels.
        cache_gib: most memory that the cache may take.
        bad_limit: largest share of items that may prove damaged before training stops (three
            always may).
        augment: where views are made: ``"cpu"`` beside the decoding, ``"device"`` on the training
            device, ``"auto"`` where it proves faster (on a CPU, ``"cpu"``).
    """

    segment: float = 10.0
    cache_frames: int | None = None
    cache_size: int | None = None
    cache_gib: float = 4.0
    bad_limit: float = 0.01
    augment: Literal["auto", "cpu", "device"] = "auto"

    def __post_init__(self) -> None:
        if self.augment not in ("auto", "cpu", "device"):
            raise ConfigError(
                "unknown place for the augmentation",
                value=self.augment,
                remedy="choose cpu, device or auto",
            )
        if self.segment <= 0:
            raise ConfigError("data.segment must be positive", value=self.segment)
        if not 0 <= self.bad_limit <= 1:
            raise ConfigError("data.bad_limit is a share from 0 to 1", value=self.bad_limit)
        if (self.cache_frames is None) != (self.cache_size is None):
            raise ConfigError(
                "data.cache_frames and data.cache_size go together",
                value=(self.cache_frames, self.cache_size),
                remedy="set both, or neither",
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete configuration.

    Attributes:
        name: its name, ``<system>_<data>_<budget>``.
        system: id of the system.
        model: the system's own configuration.
        train: loop, optimiser and schedule.
        data: how the collection is read.
        init: file, encoder package or run folder whose weights the backbone starts from; None draws
            them.
        needs_gpu: the recipe is sized for GPUs; on a CPU it is refused unless told otherwise.
        about: what it is, in one sentence.
    """

    name: str
    system: str
    model: Any
    train: TrainConfig
    data: DataConfig = field(default_factory=DataConfig)
    init: str | None = None
    needs_gpu: bool = False
    about: str = ""


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain data; the system decides what ``model`` means.

    Raises:
        UnknownName: a key that is no option.
        ConfigError: a value of the wrong type, or a key that is missing.
    """
    plain = dict(values)
    model = plain.pop("model", {})
    if "system" not in plain:
        raise ConfigError("option 'system' is missing", stage="recipe")
    kind = config_class(str(plain["system"]))
    if isinstance(model, Mapping):
        model = without_nulls(model)
    return from_dict(Recipe, {**plain, "model": from_dict(kind, model, where="model.")})


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, as it stands in a run's ``config.yaml``."""
    return to_dict(recipe)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file; without a name it has that of the file.

    Raises:
        UnknownName: a key that is no option.
        ConfigError: no such file, or as :func:`recipe_from_dict`.
    """
    try:
        return recipe_from_dict({"name": path.stem, **load_yaml(path)})
    except RhymeError as error:
        error.file = error.file or str(path)
        error.remedy = error.remedy or "begin with a whole one: rhyme recipes moco > mine.yaml"
        raise
