"""Small systems and hand-made batches, without files."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.loading import Batch
from rhyme.systems import RunContext, StepContext, System
from rhyme.systems.cycle_contrast import CycleContrast, CycleContrastConfig
from rhyme.systems.moco import Moco, MocoConfig
from rhyme.views import View

TINY = BackboneConfig(name="small", widths=(4, 6, 8, 10))
HEAD = HeadConfig(layers=2, out=8)

Build = Callable[..., System]


def build_tiny(system: str, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any):
    base = {"backbone": TINY, "head": HEAD, "queue": 24, "temperature": 0.2, "momentum": 0.9}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if system == "moco":
            built: System = Moco(MocoConfig(**(base | options)))
        else:
            base |= {"cycle_queue": 30, "support": 10}
            built = CycleContrast(CycleContrastConfig(**(base | options)))
    return built.to(dtype).train()


def make_batch(
    items: int = 6, candidates: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Batch:
    """Random pixels for query, key and candidate; a group of its own for each item."""
    generator = torch.Generator().manual_seed(seed)

    def pixels(frames: int) -> Tensor:
        return torch.randn(items, frames, 3, 12, 12, generator=generator, dtype=dtype)

    ids = torch.arange(items) + 100 * seed
    return Batch(
        ids=ids,
        index=torch.arange(items),
        group=ids.clone(),
        views={
            "query": View(data=pixels(1)),
            "key": View(data=pixels(1)),
            "candidate": View(data=pixels(candidates)),
        },
    )


def at(step: int, seed: int = 0) -> StepContext:
    """The context of a step of a run of 10."""
    return StepContext(step=step, steps=10, seed=seed)


def setup(system: System, items: int) -> System:
    """Tell a system the size of its data."""
    system.setup(RunContext(items=items, groups=items, batch_size=6, steps=10))
    return system


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "moco": [{}, {"positive": "video", "mask_same_group": True}],
    "cycle_contrast": [
        {"cycle_weight": 1.0},
        {"cycle_weight": 1.0, "mask_same_group": True, "include_self": True},
        {"cycle_weight": 0.5, "separate_heads": False, "neighbour_values": "shuffled"},
    ],
}
"""Options under which each built system is tested on several ranks and through resumes."""
