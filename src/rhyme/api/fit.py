"""Training a run folder's system in this process, on one rank or as one of several."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rhyme import distributed
from rhyme.api.checks import NAMED, STAGED, check_root, describe_missing, find_missing
from rhyme.api.data import part, quarantined
from rhyme.api.initial import start_from
from rhyme.api.progress import progress_bar
from rhyme.catalog import Catalog
from rhyme.config import override
from rhyme.encoders import seeded
from rhyme.errors import CatalogError, ConfigError, DataError
from rhyme.evaluation import train_facts
from rhyme.heap import keep_freed
from rhyme.loading import CatalogSource, FrameCache, Placement, count_reasons
from rhyme.notices import tell
from rhyme.recipes import Recipe, load_recipe
from rhyme.run import RunFolder, read_jsonl
from rhyme.systems import System, system_class
from rhyme.systems.momentum_pair import MomentumPair
from rhyme.tasks import cycle_return, extract_features
from rhyme.training import Trainer, TrainResult, resolve_device
from rhyme.training.checkpoint import steps_on_disk
from rhyme.training.log import RunLog
from rhyme.training.ranks import leader_first
from rhyme.training.recorder import Probe
from rhyme.views import fork_seed

CATALOG = "catalog.arrow"
FRAMES = ".frames"
PUT_BACK = "put them back, or begin a new run with what is there"
LISTED = 1000  # items that are left out, named one by one in the events
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
        held_out: items that it may be judged on; 0 where all of them were trained on.
        quarantined: files that the scan left out.
        damaged: files that proved damaged in training; others took their place.
        left_out: items that were not trained on, by reason: too short for the clips, sound alone,
            not decodable.
    """

    path: Path
    system: str
    steps: int
    seconds: float
    loss: float
    items_per_second: float
    wait_share: float
    encoder: Path
    held_out: int
    quarantined: int = 0
    damaged: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


def fit_run(
    path: str | Path, *, device: str, resume: bool, progress: bool | None = None
) -> Trained:
    """Train a run folder's recipe on the train split of its catalog, as one rank of all there are.

    Args:
        path: run folder with its recipe and catalog.
        device: where to compute.
        resume: go on from the newest whole checkpoint, from the start where there is none.
        progress: False for silence on standard error.

    Raises:
        RhymeError: with cause and remedy; what was saved stays.
    """
    keep_freed()
    run = RunFolder.open(path)
    with run.held() if distributed.rank() == 0 else nullcontext():
        return _fit(run, device, resume, progress)


def kept_device(run: RunFolder, progress: bool | None = None) -> str:
    """The device that a run's recipe names; ``auto``, and a line, where it is not here.

    Args:
        run: run folder with its recipe.
        progress: False for silence on standard error.
    """
    named = load_recipe(run.config).train.device
    try:
        resolve_device(named)
    except ConfigError:
        if progress is not False:
            tell(f"{named}, the device of the run, is not here: it goes on where auto says")
        return "auto"
    return named


def _fit(run: RunFolder, device: str, resume: bool, progress: bool | None) -> Trained:
    recipe = override(load_recipe(run.config), {"train.device": device})
    catalog = catalog_of(run.path)
    check_root(catalog)
    note_staged(run, catalog, progress)
    system = build_system(recipe)
    if recipe.init is not None:
        start_from(run, system)
    items = part(catalog, "train")
    frames = run.path / FRAMES
    log = RunLog(run, recipe.train.save_errors, tell if progress is not False else _say_nothing)
    damaged = damage_log(run, log)
    cache = leader_first(lambda: frame_cache(recipe, items, frames, system.plans()["train"].aspect))
    if cache is not None and distributed.rank() == 0:
        for row, reason in cache.failed.items():
            damaged(items.item(row).path, reason)
    source = CatalogSource(
        items,
        system.plans()["train"],
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        workers=recipe.train.workers,
        cache=cache,
        bad_limit=recipe.data.bad_limit,
        tell=lambda one: damaged(one.path, one.reason, epoch=one.epoch),
        placement=Placement(
            recipe.data.augment,
            resolve_device(recipe.train.device),
            tell=lambda figures: log.event("augment", **figures),
        ),
    )
    reasons = count_reasons(source.left_out)
    if reasons and distributed.rank() == 0:
        note_left_out(run, items, source.left_out)
        if progress is not False:
            tell(f"{describe_left_out(reasons)}, {source.items} are used")
    tell_shuffle(run, system, progress)
    trainer = Trainer(
        system,
        source,
        recipe.train,
        run,
        probes=probes(recipe, catalog),
        progress=progress,
        about=about(recipe, catalog),
        extra=extra(items, system),
    )
    try:
        done: TrainResult = trainer.fit(resume=resume)
    finally:
        source.close()
    if distributed.rank() == 0:
        shutil.rmtree(frames, ignore_errors=True)
    return Trained(
        path=run.path,
        system=recipe.system,
        steps=done.steps,
        seconds=done.seconds,
        loss=done.final_loss,
        items_per_second=done.items_per_second,
        wait_share=done.wait_share,
        encoder=run.encoder,
        held_out=sum(len(part(catalog, n)) for n in catalog.split_names if n != "train"),
        quarantined=len(quarantined(catalog)),
        damaged=len(damaged_files(run)),
        left_out=reasons,
    )


def _say_nothing(text: str) -> None:
    pass


def tell_shuffle(run: RunFolder, system: System, progress: bool | None) -> None:
    """Say which shuffle-BN is active: a queue's keys may be learnt from statistics without it."""
    if distributed.rank() != 0:
        return
    for pair in (module for module in system.modules() if isinstance(module, MomentumPair)):
        run.event("shuffle_bn", active=pair.shuffle_told)
        if progress is not False:
            tell(f"shuffle-BN: {pair.shuffle_told}")


def catalog_of(folder: Path) -> Catalog:
    """The catalog that a run folder keeps of its data.

    Raises:
        CatalogError: missing or damaged; a new scan would not help the run.
    """
    try:
        return Catalog.open(folder / CATALOG)
    except CatalogError as error:
        raise CatalogError(
            f"the run's copy of its catalog cannot be used: {error.cause}",
            file=folder / CATALOG,
            stage="open",
            value=error.value,
            remedy="restore this file from a copy, or begin a new run",
        ) from error


def note_staged(run: RunFolder, catalog: Catalog, progress: bool | None) -> None:
    """Say that the data were put in their place anew, and write it once into the run's events."""
    if distributed.rank() != 0 or not catalog.staged_again():
        return
    if not any(row.get("event") == "staged_again" for row in read_jsonl(run.events)):
        run.event("staged_again", data=str(catalog.root), told=STAGED)
    if progress is not False:
        tell(STAGED)


def describe_left_out(reasons: Mapping[str, int]) -> str:
    """How many items a plan cannot use, and why."""
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} items to train on are left out: {listed}"


def note_left_out(run: RunFolder, items: Catalog, left_out: Mapping[int, str]) -> None:
    """Write once into a run's events which items its plan cannot use."""
    if any(row.get("event") == "left_out" for row in read_jsonl(run.events)):
        return  # of a run that goes on
    listed = [
        {"path": items.item(row).path, "start": items.item(row).start, "reason": reason}
        for row, reason in list(left_out.items())[:LISTED]
    ]
    run.event("left_out", items=len(left_out), reasons=count_reasons(left_out), listed=listed)


def damaged_files(run: RunFolder) -> set[str]:
    """Files that proved damaged in a run, on any rank, before and after any resume."""
    return {str(row["path"]) for row in read_jsonl(run.events) if row.get("event") == "damaged"}


def damage_log(run: RunFolder, log: RunLog) -> Callable[..., None]:
    """Writes the event of a file that proved damaged, once for each file of a run."""
    known = damaged_files(run)

    def tell(path: str, reason: str, **facts: object) -> None:
        if path not in known:
            known.add(path)
            log.event("damaged", path=path, reason=reason, **facts)

    return tell


def about(recipe: Recipe, catalog: Catalog) -> dict[str, Any]:
    """What the card of an encoder says of recipe and data."""
    facts = {"system": recipe.system, "recipe": recipe.name, "data": catalog.root.name}
    return facts if recipe.init is None else {**facts, "started_from": Path(recipe.init).name}


def extra(items: Catalog, system: System) -> dict[str, Any]:
    """What an encoder package keeps: the items that it must not be judged on, and its head."""
    return {**train_facts(items), "cycle_head": system.cycle_head}


def tell_missing(run: RunFolder, recipe: Recipe, progress: bool | None = None) -> None:
    """Name the files that a run's training has lost, before it goes on; a finished one needs none.

    Its catalog stays as it is, so that the order of items does too: whenever a lost item comes,
    another one takes its place, as for any item that proves damaged.

    Args:
        run: the run folder.
        recipe: its recipe.
        progress: False for silence on standard error.

    Raises:
        CatalogError: the whole folder of data is gone.
        DataError: all files are gone, or more than `bad_limit` and than three.
        RunError: another process trains in the folder.
    """
    with run.held():
        if _finished(run):
            return
        items = part(catalog_of(run.path), "train")
        gone = find_missing(items, recipe.data.bad_limit, remedy=PUT_BACK)
        if gone:
            run.event("missing", files=len(gone), first=list(gone)[:NAMED], remedy=PUT_BACK)
    if gone and progress is not False:
        tell(f"{describe_missing(gone)}; others take their place")


def _finished(run: RunFolder) -> bool:
    """Whether the checkpoint of the step is there at which the run ended."""
    ends = [row.get("step") for row in read_jsonl(run.events) if row.get("event") == "finished"]
    return bool(set(ends) & set(steps_on_disk(run.checkpoints)))


def build_system(recipe: Recipe) -> System:
    """The recipe's system with weights and queues drawn from the run seed."""
    with seeded(fork_seed(recipe.train.seed, "weights")):
        return system_class(recipe.system)(recipe.model)


def frame_cache(
    recipe: Recipe, catalog: Catalog, folder: Path, aspect: float | None
) -> FrameCache | None:
    """The decoded frames of a catalog, where the recipe asks for a cache.

    Several ranks share one, which lies in the folder until the run is done.
    """
    d = recipe.data
    if d.cache_frames is None or d.cache_size is None:
        return None
    shared = distributed.world_size() > 1
    with progress_bar("decode", "items") as progress:
        return FrameCache.build(
            catalog,
            frames_per_item=d.cache_frames,
            size=d.cache_size,
            aspect=aspect,
            budget_bytes=int(d.cache_gib * 2**30),
            workers=recipe.train.workers,
            path=folder if shared else None,
            bad_limit=d.bad_limit,
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
                table.frames()[table.moments],
                np.repeat(table.group, table.frames_per_item)[table.moments],
                seed=recipe.train.seed,
            )
        except DataError:
            return {}
        return {"return_rate": found.rate, "return_rate_query": found.rate_query}

    return {"cycle": cycle}
