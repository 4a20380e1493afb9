"""Every built system of the registry resumes bit by bit, at a small size, on made-up frames."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from resume.harness import assert_bit_equal_resume
from rhyme.loading import ArraySource
from rhyme.systems import system_class
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from support.tiny_systems import CASES, build_tiny, memories, targets_for, tiny_backbone

CONFIG = TrainConfig(
    steps=5,
    batch_size=4,
    clip_norm=5.0,
    optimizer=OptimizerConfig(name="adamw", lr=1e-3),
    schedule=ScheduleConfig(name="cosine", warmup_steps=2),
)
ITEMS = 14


def make_source(system):
    """Made-up pixels for every view of a system's plan; three batches an epoch, one left over."""
    generator = torch.Generator().manual_seed(0)
    plan = system.plans()["train"]
    arrays = {
        name: torch.randn(ITEMS, plan.frames(view.clip), 3, 12, 12, generator=generator)
        for name, view in plan.views.items()
    }
    groups, kinds = torch.arange(ITEMS) // 2, dict.fromkeys(arrays, "pixels")
    targets = targets_for(plan, ITEMS)
    return ArraySource(arrays, CONFIG.batch_size, 0, groups=groups, kinds=kinds, targets=targets)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_built_system_resumes_bit_equal(name, options, tmp_path):
    backbone = tiny_backbone(name, 2)

    def make_system(seed):
        return build_tiny(name, seed, torch.float32, backbone=backbone, **options)

    record = assert_bit_equal_resume(
        make_system, lambda: make_source(make_system(0)), CONFIG, tmp_path
    )
    items = record.hashes[CONFIG.steps]
    assert len(record.hashes) == CONFIG.steps
    for memory in memories(make_system(0)):
        assert any(f"{memory}." in item for item in items), f"{memory} is part of the state"


def test_a_system_that_forgets_state_is_found_out(tmp_path):
    """The harness itself: a counter kept outside the state makes it fail."""
    kind = system_class("moco")

    class Forgetful(kind):
        count = 0

        def training_step(self, batch, context):
            output = super().training_step(batch, context)
            self.count += 1
            return dataclasses.replace(output, loss=output.loss * self.count)

    def make_system(seed):
        torch.manual_seed(seed)
        return Forgetful(build_tiny("moco").config)

    with pytest.raises(AssertionError, match="different at"):
        assert_bit_equal_resume(make_system, lambda: make_source(make_system(0)), CONFIG, tmp_path)
