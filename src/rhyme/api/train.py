"""Training: from a recipe and a folder to a run with an encoder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rhyme.api.checks import check_root
from rhyme.api.data import DataOptions, part, quarantined, read_data
from rhyme.api.progress import progress_bar
from rhyme.api.provenance import command_line, commit
from rhyme.catalog import Catalog
from rhyme.config import override
from rhyme.encoders import seeded
from rhyme.errors import ConfigError, DataError
from rhyme.evaluation import group_hashes
from rhyme.loading import CatalogSource, FrameCache
from rhyme.recipes import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from rhyme.recipes import recipe as named_recipe
from rhyme.run import RunFolder
from rhyme.systems import System, system_class
from rhyme.tasks import cycle_return, extract_features
from rhyme.training import Trainer, TrainResult, resolve_device
from rhyme.training.recorder import Probe
from rhyme.views import fork_seed

CATALOG = "catalog.arrow"
PROBE_ITEMS = 256  # enough for a curve; the protocols measure on everything


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that came to its end.

    Attributes:
        path: run folder.
        system: system id.
        steps: steps done.
        seconds: time in training.
        loss: last logged loss.
        items_per_second: throughput of this part of the run.
        wait_share: share of the time spent waiting for data.
        encoder: folder of the encoder package.
        quarantined: files that were left out.
    """

    path: Path
    system: str
    steps: int
    seconds: float
    loss: float
    items_per_second: float
    wait_share: float
    encoder: Path
    quarantined: int = 0


def resolve_recipe(
    recipe: str | Path | Recipe, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """A recipe by object, name, system id or file, with dotted changes applied.

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
        for key, value in changes.items():
            values = override(values, {key: value})
        found = recipe_from_dict(values)
    return found


def train(
    recipe: str | Path | Recipe,
    data: str | Path | Catalog,
    *,
    out: str | Path,
    seed: int = 0,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    options: DataOptions | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train an encoder.

    Args:
        recipe: a system id (its small recipe), a recipe's name, a YAML file, or a recipe.
        data: a folder of files, a catalog, or its path.
        out: new run folder.
        seed: seed of weights, order, draws and split.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        overrides: dotted options, e.g. ``{"train.steps": 100}``.
        options: how the folder is read.
        progress: False for silence on standard error.

    Returns:
        What was made.

    Raises:
        RhymeError: with cause and remedy; nothing that was there before is lost.
    """
    chosen = resolve_recipe(recipe, overrides)
    changes = {"train.seed": seed, "train.device": device}
    chosen = override(chosen, {k: v for k, v in changes.items() if k not in (overrides or {})})
    check_device(chosen)
    wanted = options or DataOptions()
    if wanted.segment is None:
        wanted = replace(wanted, segment=chosen.data.segment)
    catalog = read_data(data, wanted, seed=seed)
    check_size(chosen, catalog)
    system = build_system(chosen)
    run, saved = begin(chosen, catalog, out)
    if progress is not False:
        print(describe(saved, chosen), file=sys.stderr)
    return fit(chosen, saved, run, system, resume=False, progress=progress)


def begin(recipe: Recipe, catalog: Catalog, out: str | Path) -> tuple[RunFolder, Catalog]:
    """Make a run folder with recipe, catalog, and the events that say what the data is.

    Returns:
        The folder, and the catalog as it is kept there, with its split.

    Raises:
        RunError: the folder is in use.
    """
    run = RunFolder.create(out, recipe_to_dict(recipe))
    saved = catalog.save(run.path / CATALOG)
    trained = part(saved, "train")
    run.event(
        "data",
        data=saved.root.name,
        items=len(saved),
        groups=int(saved.group_codes.max()) + 1,
        splits=saved.summary()["splits"],
        train_items=len(trained),
        train_groups=len(set(trained.group_names)),
        fingerprint=saved.fingerprint,
        command=command_line(),
        commit=commit(),
    )
    for row in quarantined(saved):
        run.event("quarantined", **row)
    for path in saved.partial:
        run.event("partial", path=path, cause="the file ends early; its readable part is used")
    return run, saved


def resume(path: str | Path, *, device: str = "auto", progress: bool | None = None) -> Trained:
    """Go on with a run from its newest whole checkpoint; a finished run is exported anew.

    Args:
        path: run folder.
        device: where to go on; a run may move.
        progress: False for silence on standard error.

    Raises:
        RunError: no such run.
        CheckpointError: no checkpoint can be used.
    """
    run = RunFolder.open(path)
    recipe = override(load_recipe(run.config), {"train.device": device})
    catalog = Catalog.open(run.path / CATALOG)
    return fit(recipe, catalog, run, build_system(recipe), resume=True, progress=progress)


def fit(
    recipe: Recipe,
    catalog: Catalog,
    run: RunFolder,
    system: System,
    *,
    resume: bool,
    progress: bool | None,
) -> Trained:
    """Train a recipe's system on the train split of a catalog, inside a run folder."""
    check_root(catalog)
    items = part(catalog, "train")
    cache = frame_cache(recipe, items)
    source = CatalogSource(
        items,
        system.plans()["train"],
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        workers=recipe.train.workers,
        cache=cache,
    )
    trainer = Trainer(
        system,
        source,
        recipe.train,
        run,
        probes=probes(recipe, catalog),
        progress=progress,
        about={"system": recipe.system, "recipe": recipe.name, "data": catalog.root.name},
        extra={
            "train_groups": group_hashes(items.group_names),
            "cycle_head": system.cycle_head,
        },
    )
    try:
        done: TrainResult = trainer.fit(resume=resume)
    finally:
        source.close()
    return Trained(
        path=run.path,
        system=recipe.system,
        steps=done.steps,
        seconds=done.seconds,
        loss=done.final_loss,
        items_per_second=done.items_per_second,
        wait_share=done.wait_share,
        encoder=run.encoder,
        quarantined=len(quarantined(catalog)),
    )


def build_system(recipe: Recipe) -> System:
    """The recipe's system with weights and queues drawn from the run seed."""
    with seeded(fork_seed(recipe.train.seed, "weights")):
        return system_class(recipe.system)(recipe.model)


def frame_cache(recipe: Recipe, catalog: Catalog) -> FrameCache | None:
    """The decoded frames of a catalog, where the recipe asks for a cache."""
    d = recipe.data
    if d.cache_frames is None or d.cache_size is None:
        return None
    with progress_bar("decode", "items") as progress:
        return FrameCache.build(
            catalog,
            frames_per_item=d.cache_frames,
            size=d.cache_size,
            budget_bytes=int(d.cache_gib * 2**30),
            workers=recipe.train.workers,
            progress=progress,
        )


def probes(recipe: Recipe, catalog: Catalog) -> dict[str, Probe]:
    """Measurements during training, on the validation split: the cycle-return rate.

    Splits too small to measure have no probe.
    """
    try:
        held_out = part(catalog, "val")
    except DataError:
        return {}
    held_out = held_out.select(list(range(min(len(held_out), PROBE_ITEMS))))
    device = resolve_device(recipe.train.device)

    def cycle(system: System) -> Mapping[str, float]:
        export = system.exports()["encoder"]
        module = getattr(export.module, "backbone", export.module)
        assert export.plan is not None
        table = extract_features(module, export.plan, held_out, device=device)
        try:
            found = cycle_return(
                table.frames(),
                np.repeat(table.group, table.frames_per_item),
                seed=recipe.train.seed,
            )
        except DataError:
            return {}
        return {"return_rate": found.rate, "return_rate_query": found.rate_query}

    return {"cycle": cycle}


def check_device(recipe: Recipe) -> None:
    """Refuse a recipe that is sized for GPUs where there is none.

    Raises:
        ConfigError: with the ways out.
    """
    device = resolve_device(recipe.train.device)
    if recipe.needs_gpu and device.type == "cpu":
        raise ConfigError(
            f"recipe '{recipe.name}' is sized for GPUs, and this run would be on a CPU",
            stage="train",
            value=recipe.train.device,
            remedy=f"use the small recipe: rhyme train {recipe.system}; or change its sizes in a "
            f"file: rhyme recipes {recipe.name} > mine.yaml, set needs_gpu: false",
        )


def check_size(recipe: Recipe, catalog: Catalog) -> None:
    """Refuse data that do not fill one batch, before a run folder is made.

    Raises:
        DataError: with both numbers and the ways out.
    """
    items, batch = len(part(catalog, "train")), recipe.train.batch_size
    if items < batch:
        raise DataError(
            f"{items} items to train on do not fill a batch of {batch}",
            file=catalog.root,
            stage="train",
            remedy=f"give more videos, cut long ones into shorter items (--segment), "
            f"train on all of them (--split all), or lower the batch: --train.batch_size {items}",
        )


def describe(catalog: Catalog, recipe: Recipe) -> str:
    """What will be trained on what, in two lines."""
    splits = catalog.summary()["splits"]
    counts = ", ".join(f"{n} {name}" for name, n in dict(splits).items())  # pyright: ignore
    t = recipe.train
    length = f"{t.steps} steps" if t.steps is not None else f"{t.epochs} epochs"
    left_out = len(quarantined(catalog))
    note = f"; {left_out} files left out" if left_out else ""
    cut = len(catalog.partial)
    note += f"; {cut} files end early and are used in part" if cut else ""
    return (
        f"{catalog.root.name}: {len(catalog)} items by group: {counts}{note}\n"
        f"{recipe.name}: {length} of {t.batch_size} items on {resolve_device(t.device)}"
    )
