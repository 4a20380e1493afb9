"""What a run would take, from a short measurement on this machine."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from rhyme.api.data import DataOptions, part
from rhyme.api.estimate_reading import (
    STAND_IN,
    fill_cache,
    look_cost,
    reading_cost,
    request,
    take_sample,
)
from rhyme.api.fit import PROBE_ITEMS, build_system, describe_left_out
from rhyme.api.own_data import refuse_data_options
from rhyme.api.recipe import settle_recipe
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError
from rhyme.heap import keep_freed
from rhyme.loading import Batch, count_reasons, unusable
from rhyme.loading.maker import BatchMaker
from rhyme.notices import tell
from rhyme.recipes import Recipe
from rhyme.run import RunFolder
from rhyme.systems import RunContext, System
from rhyme.training import resolve_device, steps_of
from rhyme.training.measure import Span, StepCost, StepMeter, in_use, resident, state_bytes
from rhyme.training.stepper import Stepper

DRIFT = 0.1  # a machine's clock and load move by this much within hours
_ROW = 1_500  # bytes of a row of metrics


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would take.

    Attributes:
        recipe: its name.
        device: what the steps were measured on.
        ranks: devices that share a batch.
        items: items to train on.
        batch: items of a global batch.
        steps: steps of the run.
        seconds: time of the training, with bounds.
        step: seconds of a step's arithmetic on one rank.
        loading: seconds of one core to read and augment a rank's part of a batch.
        bound: what the pace hangs on.
        setup: seconds before the first step (decoding into the cache).
        memory: bytes of a rank at its peak, on the device.
        host_memory: bytes beside it on the machine: frame cache.
        disk: bytes of checkpoints, encoder and logs, at most.
        error: half the distance between the bounds of ``seconds``, as a share of it.
        notes: what was measured, and what the figures leave out.
    """

    recipe: str
    device: str
    ranks: int
    items: int
    batch: int
    steps: int
    seconds: Span
    step: Span
    loading: Span
    bound: Literal["compute", "data"]
    setup: float
    memory: float | None
    host_memory: float
    disk: Mapping[str, float]
    error: float
    notes: Sequence[str]


def estimate(
    recipe: str | Path | Recipe,
    *,
    items: int | None = None,
    data: str | Path | Catalog | None = None,
    gpus: int = 1,
    device: str | None = None,
    seconds: float = 20.0,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: DataOptions | None = None,
) -> Estimate:
    """Time, memory and disk of a run, from some steps and some items on this machine.

    The steps run on the recipe's own system, optimiser and batch size; a batch that takes too long
    is measured at two smaller sizes. Reading is measured on items of the data, or on a stand-in
    where only their number is given.

    Args:
        recipe: as for training.
        items: items to train on; those of the data by default.
        data: a folder or catalog to measure the reading on.
        gpus: devices like this one that share each batch.
        device: what to measure on; None takes the recipe's.
        seconds: time to spend on the steps, and half as much on the reading.
        seed: of weights, draws, and the choice of items; None takes the recipe's.
        overrides: dotted options, as for training.
        options: how a folder is read.

    Raises:
        ConfigError: neither items nor data, fewer than 1 item, options on how a folder is read
            without one, or a batch that cannot be shared by so many devices.
    """
    if data is None and items is None:
        raise ConfigError(
            "the number of items is missing",
            stage="estimate",
            remedy="give --items N, or --data to measure the reading on your files",
        )
    if items is not None and items < 1:
        raise ConfigError(
            "a run needs at least 1 item to train on",
            stage="estimate",
            value=items,
            remedy="e.g. --items 1000, or --data to count those of your files",
        )
    if data is None:
        refuse_data_options(options, "estimate", run=False)
    chosen = settle_recipe(recipe, overrides, seed=seed, device=device, say=tell)
    local = _local_batch(chosen, gpus)
    target = resolve_device(chosen.train.device)
    with tempfile.TemporaryDirectory(prefix="rhyme-estimate-") as folder:
        room = Path(folder)
        found, sample = take_sample(chosen, data, options, chosen.train.seed, room)
        own = part(found, "train")
        count = items or len(own)
        _length(chosen, count)  # refuses too few before anything is measured
        tell(f"measuring {chosen.name} on {target}: {local} items a step, about {seconds:.0f} s")
        baseline, held = in_use(target), resident() or 0
        system = build_system(chosen)
        short: dict[str, int] = {}
        if items is None and chosen.data.cache_frames is None:
            short = count_reasons(unusable(own, system.plans()["train"]))
            count -= sum(short.values())
            _length(chosen, count)
        cache, decode_s = fill_cache(chosen, sample, system.plans()["train"].aspect)
        maker = BatchMaker(
            catalog=sample, plan=system.plans()["train"], seed=chosen.train.seed, cache=cache
        )
        reading = reading_cost(maker, min(local, 16), seconds / 2)
        alone = data is None or len(own) == 0
        groups = count if alone else round(count * len(own.distinct_groups) / len(own))
        context = RunContext(items=count, groups=max(groups, 1), batch_size=local * gpus, steps=1)
        run = RunFolder(room / "run")
        cost, state, encoder = _steps(chosen, system, maker, run, context, gpus, baseline, seconds)
        look_s = look_cost(system, sample, target)
        maker.close()
    return _compose(
        chosen,
        count=count,
        ranks=gpus,
        local=local,
        target=target,
        cost=cost,
        reading=reading,
        decode_s=decode_s,
        look_s=look_s,
        state=state,
        encoder=encoder,
        held=held,
        cached=0 if cache is None else cache.frames[0].nbytes,
        stand_in=data is None,
        short=short,
    )


def _local_batch(recipe: Recipe, ranks: int) -> int:
    batch = recipe.train.batch_size
    if ranks < 1 or batch % ranks:
        raise ConfigError(
            f"a batch of {batch} cannot be shared by {ranks} devices",
            stage="estimate",
            value=ranks,
            remedy=f"choose a divisor of {batch}, or another --train.batch_size",
        )
    return batch // ranks


def _steps(
    recipe: Recipe,
    system: System,
    maker: BatchMaker,
    run: RunFolder,
    context: RunContext,
    ranks: int,
    baseline: int,
    budget: float,
) -> tuple[StepCost, int, int]:
    """Cost of a step, bytes of a checkpoint, bytes of the encoder."""
    device = resolve_device(recipe.train.device)
    system = system.to(device).train()
    system.setup(context)
    groups = 1
    for module in system.modules():  # this rank's share of the batch-norm groups
        own = getattr(module, "norm_groups", None)
        if isinstance(own, int):
            here = max(own // ranks, 1)
            cast(Any, module).norm_groups = here
            groups = max(groups, here)
    keep_freed()  # as the training does
    # Measuring whether graphs pay would mix both ways; the parts of a step are its own.
    stepper = Stepper(system, replace(recipe.train, compile="off"), run)

    def make(items: int, number: int) -> Batch:
        return maker(request(maker, items, number)).batch

    meter = StepMeter(
        stepper,
        make,
        device,
        baseline,
        multiple=math.lcm(groups, recipe.train.accumulate),
        budget=budget,
    )
    cost = meter.measure(context.batch_size // ranks)
    exported = [export.module for export in system.exports().values()]
    encoder = sum(
        t.numel() * t.element_size() for module in exported for t in module.state_dict().values()
    )
    return cost, state_bytes(system, stepper), encoder


def _compose(
    recipe: Recipe,
    *,
    count: int,
    ranks: int,
    local: int,
    target: torch.device,
    cost: StepCost,
    reading: Span,
    decode_s: float,
    look_s: float,
    state: int,
    encoder: int,
    held: int,
    cached: int,
    stand_in: bool,
    short: Mapping[str, int],
) -> Estimate:
    t = recipe.train
    steps = _length(recipe, count)
    loading = reading * local
    paces = [_pace(s, r, t.workers, target, ranks) for s, r in (
        (cost.seconds.value, loading.value),
        (cost.seconds.low, loading.low),
        (cost.seconds.high, loading.high),
    )]  # fmt: skip
    probes = 1 + (steps // t.probe_every if t.probe_every else 0)
    held_out = min(PROBE_ITEMS, round(0.2 / 0.6 * count))  # the split is 60/20/20
    setup = decode_s * count / max(min(t.workers, os.cpu_count() or 1), 1)
    constant = setup + probes * held_out * look_s
    value, low, high = (pace * steps + constant for pace in paces)
    seconds = Span(value, low, high).wider(DRIFT)
    made = steps // t.checkpoint_every + 1 if t.checkpoint_every else 1
    saved = min(made, t.keep + (steps // t.keep_every if t.keep_every else 0))
    return Estimate(
        recipe=recipe.name,
        device=_device_name(target),
        ranks=ranks,
        items=count,
        batch=t.batch_size,
        steps=steps,
        seconds=seconds,
        step=cost.seconds,
        loading=loading,
        bound="data" if paces[0] > 1.05 * cost.seconds.value else "compute",
        setup=setup,
        memory=None if cost.memory is None else cost.memory + (
            0 if target.type == "cuda" else held
        ),
        host_memory=float(count * cached),
        disk={
            "checkpoints": float((saved + 1) * state),  # one more while the newest is written
            "encoder": float(encoder),
            "logs": float(_ROW * (steps // t.log_every + probes)),
        },
        error=(seconds.high - seconds.low) / 2 / seconds.value,
        notes=[
            *_notes(recipe, cost, local, ranks, target, stand_in),
            *([describe_left_out(short)] if short else []),
        ],
    )  # fmt: skip


def _length(recipe: Recipe, count: int) -> int:
    """Steps of the run, as the loop counts them."""
    t = recipe.train
    whole = count // t.batch_size
    if whole < 1:
        lower = f", or lower the batch: --train.batch_size {count}" if count >= 1 else ""
        raise ConfigError(
            f"{count} items do not fill a batch of {t.batch_size}",
            stage="estimate",
            value=count,
            remedy=f"give more items{lower}",
        )
    return steps_of(t, whole)


def _pace(step: float, loading: float, workers: int, device: torch.device, ranks: int) -> float:
    """Seconds from one step to the next, when workers read ahead, or nobody does."""
    if workers == 0:
        return step + loading
    cores = os.cpu_count() or 1
    if device.type == "cuda":
        return max(step, loading / min(workers, max(cores // ranks, 1)))
    threads = torch.get_num_threads()
    return max(step, loading / workers, (step * threads + loading) / cores)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _notes(
    recipe: Recipe, cost: StepCost, local: int, ranks: int, target: torch.device, stand_in: bool
) -> list[str]:
    sizes = " and ".join(str(size) for size in cost.sizes)
    notes = [f"{cost.steps} steps of {sizes} items were timed"]
    if cost.sizes[-1] < local:
        notes[0] += f", and carried on along a line to {local}"
    if stand_in:
        s = STAND_IN
        notes.append(
            f"reading was measured on a stand-in ({s.size} x {s.size} pixels, H.264, key frame "
            f"every {s.gop}); give --data for your own files"
        )
    if ranks > 1:
        notes.append(f"{ranks} devices like this one; their communication is not measured")
    if recipe.needs_gpu and target.type == "cpu":
        notes.append("the recipe is sized for GPUs, and the time is for this CPU: measure on a GPU")
    if recipe.train.compile != "off":
        notes.append("measured without train.compile, which may only make it faster")
    notes.append("not counted: starting up, scanning, judging")
    return notes
