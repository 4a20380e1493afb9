"""Every built system at a size for tests, and hand-made batches for it, without files.

A new system joins the tests of ranks and resumes by its entry in the registry: its small options
are made from its ``Config``, its batches from its view plan. What cannot be derived is asked for by
name: a size that the table :data:`SMALL` does not know.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhyme.catalog import ItemFacts
from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.loading import Batch
from rhyme.memory import FeatureQueue, MomentumEncoder
from rhyme.systems import SYSTEMS, RunContext, StepContext, System, system_class
from rhyme.views import Keys, Overlap, View, ViewPlan

TINY = BackboneConfig(name="small", widths=(4, 6, 8, 10))
TINY_CLIP = BackboneConfig(name="small3d", widths=(4, 6, 8, 10))
HEAD = HeadConfig(layers=2, out=8)
LARGE = 64  # a default above it needs a small value

SMALL: dict[str, Any] = {
    "queue": 24,
    "cycle_queue": 30,
    "dense_queue": 28,
    "support": 10,
    "temperature": 0.2,
    "momentum": 0.9,
}
"""Small values of options by name, the same for all systems."""

Build = Callable[..., System]

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "moco": [{}, {"positive": "video", "mask_same_group": True}, {"shuffle": False}],
    "densecl": [
        {"mask_same_group": True},
        {"matching": "random", "dense_weight": 1.0},
        {"matching": "head", "grid": 1},
    ],
    "simclr": [{}, {"positive": "video", "mask_same_group": True, "balance": "official"}],
    "vfs": [
        {},
        {"frames": 4, "stride": 1},
        {"negatives": True, "frames": 4, "mask_same_group": True},
        {"negatives": True, "batch_negatives": False},
    ],
    "dual": [
        {"frames": 4},
        {"frames": 6, "segments": 3, "base": "moco", "mask_same_group": True},
        {"frames": 4, "mode": "clip-sr", "mask_same_group": True, "calibration": "random"},
    ],
    "cstp": [
        {"frames": 4},
        {"frames": 4, "byol_weight": 0.0, "overlap": Overlap(sampler="released")},
        {"frames": 4, "spatial_weight": 0.0, "pace_weight": 0.0, "rotation_weight": 0.0},
    ],
    "lsfd": [
        {"frames": 4, "aggregator": "gru", "order_negatives": True},
        {"frames": 4, "aggregator": "mlp", "base": "moco", "mask_same_group": True},
    ],
    "cycle_contrast": [
        {"cycle_weight": 1.0},
        {"cycle_weight": 1.0, "mask_same_group": True, "include_self": True},
        {"cycle_weight": 0.5, "separate_heads": False, "neighbour_values": "shuffled"},
    ],
}
"""Options beside the small ones, where a system has arms worth a test of their own."""

MAPPED: dict[str, list[dict[str, Any]]] = {"densecl": [{"matching": "geometry"}]}
"""Options of arms that read the maps of views, which arrays do not have."""

BUILT = sorted(entry.id for entry in SYSTEMS.values() if entry.target)
CASES = [(name, options) for name in BUILT for options in OPTIONS.get(name, [{}])]
"""(system, options) of everything that is built."""


MAPPED_CASES = [(name, options) for name in BUILT for options in MAPPED.get(name, [])]


def tiny_backbone(system: str, norm_groups: int = 1) -> BackboneConfig:
    """A tiny backbone of the kind that a system needs: of frames, or of clips."""
    kind = TINY_CLIP if SYSTEMS[system].family == "clips" else TINY
    return dataclasses.replace(kind, norm_groups=norm_groups)


def small_options(system: str) -> dict[str, Any]:
    """Options of a system at a size for tests, derived from its ``Config``."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(system_class(system).Config):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if isinstance(default, BackboneConfig):
            found[field.name] = tiny_backbone(system)
        elif isinstance(default, HeadConfig):
            found[field.name] = HEAD
        elif field.name in SMALL:
            found[field.name] = SMALL[field.name]
        elif isinstance(default, int) and default > LARGE:
            raise AssertionError(f"{system}.{field.name}: give tests/support a SMALL value")
    return found


def build_tiny(system: str, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any):
    kind = system_class(system)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built: System = kind(kind.Config(**(small_options(system) | options)))
    return built.to(dtype).train()


def memories(system: System) -> list[str]:
    """Names of what a system remembers: its queues and momentum copies."""
    kinds = (FeatureQueue, MomentumEncoder)
    return [name for name, module in system.named_modules() if isinstance(module, kinds)]


def make_batch(
    items: int = 6, candidates: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Batch:
    """Random pixels for query, key and candidate; a group of its own for each item."""
    return _batch({"query": 1, "key": 1, "candidate": candidates}, items, seed, dtype)


def batch_for(
    system: System, items: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Batch:
    """Random pixels for every view of a system's training plan."""
    plan = system.plans()["train"]
    frames = {name: plan.frames(view.clip) for name, view in plan.views.items()}
    batch = _batch(frames, items, seed, dtype)
    return dataclasses.replace(batch, targets=targets_for(plan, items, seed))


def made_up_facts(items: int) -> ItemFacts:
    """Facts of videos of 40 frames, ten a second."""
    return ItemFacts(
        id=np.arange(items, dtype=np.uint64),
        start=np.zeros(items),
        stop=np.full(items, 4.0),
        fps=np.full(items, 10.0),
        frames=np.full(items, 40),
        width=np.full(items, 32),
        height=np.full(items, 24),
        group=np.arange(items),
    )


def targets_for(plan: ViewPlan, items: int, seed: int = 0) -> dict[str, Tensor]:
    """What a plan draws beside its views."""
    facts = made_up_facts(items)
    drawn = plan.draw(facts, Keys.of(seed, 0, facts.id)).targets
    return {name: torch.from_numpy(value) for name, value in drawn.items()}


def _batch(frames: dict[str, int], items: int, seed: int, dtype: torch.dtype) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def pixels(count: int) -> Tensor:
        return torch.randn(items, count, 3, 12, 12, generator=generator, dtype=dtype)

    def maps(count: int) -> Tensor:
        """Crops of some part of a frame, half of them mirrored."""
        drawn = torch.rand(items, count, 4, generator=generator)
        found = torch.zeros(items, count, 2, 3)
        scale = 0.5 + drawn[..., 0]
        found[..., 1, 1], found[..., 0, 0] = scale, scale * (drawn[..., 1] - 0.5).sign()
        found[..., 2] = 8 * drawn[..., 2:] + (found[..., 0, :1] < 0) * 11
        return found

    ids = torch.arange(items) + 100 * seed
    return Batch(
        ids=ids,
        index=torch.arange(items),
        group=ids.clone(),
        views={n: View(data=pixels(count), map=maps(count)) for n, count in frames.items()},
    )


def at(step: int, seed: int = 0) -> StepContext:
    """The context of a step of a run of 10."""
    return StepContext(step=step, steps=10, seed=seed)


def setup(system: System, items: int) -> System:
    """Tell a system the size of its data."""
    system.setup(RunContext(items=items, groups=items, batch_size=6, steps=10))
    return system
