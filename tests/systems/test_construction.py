"""What systems are built of: heads of any length, and encoders of the kind that they read."""

import pytest
import torch

from rhyme.encoders import HEAD_PRESETS, HeadConfig
from support.tiny_systems import TINY, at, batch_for, build_tiny

IDENTITY = HEAD_PRESETS["identity"]
WIDE = HeadConfig(layers=2, out=0)
QUEUED = {
    "moco": [{"head": IDENTITY}, {"head": WIDE}],
    "cycle_contrast": [{"head": IDENTITY}, {"head": WIDE, "separate_heads": False}],
    "densecl": [{"head": IDENTITY, "dense_head": IDENTITY}, {"head": WIDE}],
    "vfs": [{"negatives": True, "head": IDENTITY}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, all_ in QUEUED.items() for options in all_]
)
def test_queues_are_as_wide_as_the_head_is_built(name: str, options: dict) -> None:
    """An ``out`` of 0 stands for what the head reads, here the feature; so no head is one too."""
    system = build_tiny(name, **options)
    assert system.queue.dim == TINY.widths[-1] == 10
    batch = batch_for(system)
    assert torch.isfinite(system.training_step(batch, at(0)).loss)
    system.after_step(True)
    assert system.queue.filled == len(batch)
