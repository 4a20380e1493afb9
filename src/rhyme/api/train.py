"""Training: from a recipe and a folder to a run with an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rhyme import distributed
from rhyme.api.checks import describe_missing, find_missing
from rhyme.api.data import DataOptions, is_catalog, part, quarantined, read_data
from rhyme.api.data_notes import data_notes
from rhyme.api.fit import (
    CATALOG,
    Trained,
    build_system,
    describe_left_out,
    fit_run,
    kept_device,
    tell_missing,
)
from rhyme.api.initial import Initial, keep_initial, read_initial
from rhyme.api.launch import LaunchOptions, check_ranks, check_shared, ranks_here, start_ranks
from rhyme.api.prepare import prepared_note
from rhyme.api.provenance import command_line, commit
from rhyme.api.recipe import changed_recipe, keep_recipe, settle_recipe
from rhyme.catalog import Catalog, official_lists, without_files
from rhyme.errors import ConfigError, DataError
from rhyme.group import in_a_group, launch_id, restarted
from rhyme.loading import count_reasons, unusable
from rhyme.notices import tell
from rhyme.recipes import Recipe, recipe_to_dict
from rhyme.run import RunFolder, read_jsonl
from rhyme.signals import StartGuard
from rhyme.systems import System
from rhyme.systems.base import RunContext
from rhyme.training import check_loggers, resolve_device
from rhyme.training.ranks import joined, leader_first, one_fate
from rhyme.views import ViewPlan


def train(
    recipe: str | Path | Recipe,
    data: str | Path | Catalog,
    *,
    out: str | Path,
    seed: int | None = None,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: DataOptions | None = None,
    init: str | Path | None = None,
    progress: bool | None = None,
    launch: LaunchOptions | None = None,
) -> Trained:
    """Train an encoder.

    Args:
        recipe: a system id (its small recipe), a recipe's name, a YAML file, or a recipe.
        data: a folder of files, a catalog, or its path.
        out: new run folder.
        seed: seed of weights, order, draws and split; None takes the recipe's, as a rule 0.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None takes the recipe's, as a rule
            ``auto``.
        overrides: dotted options, e.g. ``{"train.steps": 100}``.
        options: how the folder is read.
        init: weights that the backbone starts from: a file of torchvision's or MoCo's kind, an
            encoder package, or a run folder.
        progress: False for silence on standard error.
        launch: on how many ranks, and who starts them.

    Returns:
        What was made.

    Raises:
        RhymeError: with cause and remedy; nothing that was there before is lost.
    """
    device = settle_recipe(recipe, overrides, seed=seed, device=device).train.device

    def make(ranks: int) -> RunFolder:
        return new_run(
            recipe, data, out=out, seed=seed, device=device, overrides=overrides, options=options,
            init=init, progress=progress, ranks=ranks,
        )  # fmt: skip

    how = launch or LaunchOptions()
    if restarted() and _begun_here(RunFolder(out)):
        return resume(out, device=device, progress=progress, launch=how)
    return _start(how, make, Path(out), device=device, fresh=True, progress=progress)


def _begun_here(run: RunFolder) -> bool:
    """Whether an earlier start of the same ranks has made the folder."""
    mine = launch_id()
    return run.config.is_file() and any(
        row.get("launch", "") == mine for row in read_jsonl(run.events)
    )


def new_run(
    recipe: str | Path | Recipe,
    data: str | Path | Catalog,
    *,
    out: str | Path,
    seed: int | None = None,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: DataOptions | None = None,
    init: str | Path | None = None,
    progress: bool | None = None,
    ranks: int = 1,
    elsewhere: bool = False,
) -> RunFolder:
    """Check everything that a run needs, and make its folder with recipe and catalog.

    Args:
        recipe: as for :func:`train`, like the other arguments.
        data: a folder of files, a catalog, or its path.
        out: new run folder.
        seed: seed of weights, order, draws and split; None takes the recipe's.
        device: where it is to compute; None takes the recipe's.
        overrides: dotted options.
        options: how the folder is read.
        init: weights that the backbone starts from.
        progress: False for silence on standard error.
        ranks: on how many ranks it is to run.
        elsewhere: it will run on another machine, whose devices are not known here.

    Raises:
        RhymeError: with cause and remedy; no folder is made then.
    """
    say = None if progress is False else tell
    chosen = settle_recipe(recipe, overrides, seed=seed, device=device, say=say)
    if init is not None:
        chosen = replace(chosen, init=str(init))
    if not elsewhere:
        check_device(chosen)
    system = build_system(chosen)
    check_ranks(chosen, system, ranks)
    check_loggers(chosen.train.loggers)
    initial = None if chosen.init is None else read_initial(chosen.init, system)
    wanted = options or DataOptions()
    scanned = isinstance(data, Catalog) or is_catalog(data)
    if not scanned and wanted.segment is None and official_lists(wanted.labels, None) is None:
        wanted = replace(wanted, segment=chosen.data.segment)
    catalog = read_data(data, wanted, seed=chosen.train.seed)
    gone = find_missing(catalog, chosen.data.bad_limit) if scanned else {}
    catalog = without_files(catalog, gone) if gone else catalog
    check_size(chosen, catalog, system)
    run, saved = begin(chosen, catalog, out, initial)
    if progress is not False:
        where = "" if elsewhere else f" on {resolve_device(chosen.train.device)}"
        tell(describe(saved, chosen) + where + several(ranks))
        for note in data_notes(data, catalog):
            tell(note)
        if gone:
            tell(f"{describe_missing(gone)}; left out")
        if initial is not None:
            tell(f"starts from {initial.told}")
    return run


def several(ranks: int) -> str:
    """How many ranks, where there is more than one."""
    return f", {ranks} ranks" if ranks > 1 else ""


def begin(
    recipe: Recipe, catalog: Catalog, out: str | Path, initial: Initial | None = None
) -> tuple[RunFolder, Catalog]:
    """Make a run folder with recipe, catalog, and the events that say what the data is.

    Args:
        recipe: the recipe.
        catalog: items with their split.
        out: the new folder.
        initial: weights to start from.

    Returns:
        The folder, and the catalog as it is kept there, with its split.

    Raises:
        RunError: the folder is in use.
    """
    with RunFolder.beginning(out, recipe_to_dict(recipe)) as run:
        if initial is not None:
            keep_initial(run, initial)
        saved = catalog.save(run.path / CATALOG)
        trained = part(saved, "train")
        run.event(
            "data",
            data=saved.root.name,
            items=len(saved),
            groups=int(saved.group_codes.max()) + 1,
            splits=saved.summary()["splits"],
            train_items=len(trained),
            train_groups=len(trained.distinct_groups),
            fingerprint=saved.fingerprint,
            collection=saved.with_splits([None] * len(saved)).fingerprint,  # of any seed or fold
            prepared=prepared_note(saved),
            command=command_line(),
            commit=commit(),
            **({"launch": launch_id()} if in_a_group() else {}),
        )
        for row in quarantined(saved):
            run.event("quarantined", **row)
        for path in saved.partial:
            run.event("partial", path=path, cause="the file ends early; its readable part is used")
    return run, saved


def resume(
    path: str | Path,
    *,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    launch: LaunchOptions | None = None,
) -> Trained:
    """Go on with a run from its newest whole checkpoint; a finished run is exported anew.

    Args:
        path: run folder.
        device: where to go on, for a run may move; None is where its recipe says, or ``"auto"``
            where that device is not here.
        overrides: dotted options that touch no number of the run, e.g. ``{"train.workers": 1}``;
            they are kept in its ``config.yaml``.
        progress: False for silence on standard error.
        launch: on how many ranks, and who starts them; it may be another number than before.

    Raises:
        RunError: no such run.
        ConfigError: an option that would change what the run computes.
        CheckpointError: no checkpoint can be used.
        DataError: too many of its files are gone.
    """

    def make(ranks: int) -> RunFolder:
        return reopen(path, ranks=ranks, overrides=overrides, progress=progress)

    how = launch or LaunchOptions()
    where = kept_device(RunFolder.open(path), progress) if device is None else device
    return _start(how, make, Path(path), device=where, fresh=False, progress=progress)


def reopen(
    path: str | Path,
    *,
    ranks: int = 1,
    overrides: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> RunFolder:
    """The folder of a run that is to go on, on so many ranks; files that are gone are named.

    Args:
        path: run folder.
        ranks: on how many ranks it is to go on.
        overrides: as for :func:`resume`.
        progress: False for silence on standard error.

    Raises:
        RunError: no such run.
        ConfigError: it does not divide among the ranks, a logger is not here, or an option may not
            change; the run is as it was.
        DataError: too many of its files are gone.
    """
    run = RunFolder.open(path)
    recipe = changed_recipe(run, overrides or {})
    check_loggers(recipe.train.loggers)
    if ranks > 1:
        check_ranks(recipe, build_system(recipe), ranks)
    tell_missing(run, recipe, progress)
    if overrides:
        keep_recipe(run, recipe, overrides)
    return run


def _start(
    how: LaunchOptions,
    make: Callable[[int], RunFolder],
    out: Path,
    *,
    device: str,
    fresh: bool,
    progress: bool | None,
) -> Trained:
    """Make or open the run folder once, then train in it on all ranks.

    Raises:
        ConfigError: a launcher that does not fit the environment, or that only submits.
    """
    where = how.resolved()
    if where in ("alone", "local"):
        with StartGuard("before the first step", file=out, remedy=lambda: way_on(out)):
            if where == "alone":
                run = make(1)
                return fit_run(run.path, device=device, resume=not fresh, progress=progress)
            ranks = ranks_here(how, device)
            run = make(ranks)
            return start_ranks(
                run.path, ranks=ranks, restarts=how.restarts, device=device, fresh=fresh,
                progress=progress,
            )  # fmt: skip
    if where == "torchrun":
        check_shared(device)
        with joined(device), one_fate():
            ranks = distributed.world_size()
            leads = distributed.rank() == 0
            leader_first(lambda: make(ranks) if leads else RunFolder.open(out))
            return fit_run(out, device=device, resume=not fresh, progress=progress)
    raise ConfigError(
        "a job for SLURM is submitted, not trained here",
        stage="launch",
        remedy="rhyme.api.submit(rhyme.api.new_run(..., ranks=8, elsewhere=True).path)",
    )


def way_on(out: Path) -> str:
    """How to go on with what was stopped before its first step."""
    if RunFolder(out).config.is_file():
        return f"go on with: rhyme train --resume {out}"
    return "nothing was begun: give the same command again"


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


def check_size(recipe: Recipe, catalog: Catalog, system: System) -> None:
    """Refuse data that a system cannot train on, before a run folder is made.

    Raises:
        DataError: they do not fill one batch, or leave nothing to contrast with.
        ConfigError: the batch does.
    """
    items, batch = part(catalog, "train"), recipe.train.batch_size
    left_out: dict[str, int] = {}
    plan = system.plans().get("train")
    if isinstance(plan, ViewPlan):
        left_out = count_reasons(unusable(items, plan, frames=recipe.data.cache_frames))
    count = len(items) - sum(left_out.values())
    if left_out and not count:
        raise DataError(
            f"no item can be used to train {recipe.system}; {describe_left_out(left_out)}",
            file=catalog.root,
            stage="train",
            remedy="give longer videos, or shorter clips; moco, simclr and densecl learn from "
            "still pictures too",
        )
    if count < batch:
        note = f"; {describe_left_out(left_out)}" if left_out else ""
        ways = "give shorter clips, or another policy than short=drop; " if left_out else ""
        lower = f", or lower the batch: --train.batch_size {count}" if count else ""
        raise DataError(
            f"{count} items to train on do not fill a batch of {batch}{note}",
            file=catalog.root,
            stage="train",
            remedy=f"{ways}give more videos, cut long ones into shorter items (--segment), "
            f"train on all of them (--split all){lower}",
        )
    groups = len(items.distinct_groups)
    system.setup(RunContext(items=count, groups=groups, batch_size=batch, steps=1))


def describe(catalog: Catalog, recipe: Recipe) -> str:
    """What will be trained on what, in two lines."""
    splits = catalog.summary()["splits"]
    counts = ", ".join(f"{n} {name}" for name, n in dict(splits).items())  # pyright: ignore
    t = recipe.train
    lengths = [f"{n:g} {unit}" for n, unit in ((t.steps, "steps"), (t.epochs, "epochs")) if n]
    length = " or ".join(lengths) + (", whichever ends first," if len(lengths) > 1 else "")
    left_out = len(quarantined(catalog))
    note = f"; {left_out} files left out" if left_out else ""
    cut = len(catalog.partial)
    note += f"; {cut} files end early and are used in part" if cut else ""
    shards = prepared_note(catalog)
    note += f"\n{shards}" if shards else ""
    return (
        f"{catalog.root.name}: {len(catalog)} items by group: {counts}{note}\n"
        f"{recipe.name}: {length} of {t.batch_size} items"
    )
