"""Precision, compilation and accumulation resume bit by bit, alone and together."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from resume.harness import assert_bit_equal_resume
from resume.test_systems import CONFIG, make_source
from support.tiny_systems import build_tiny, tiny_backbone

CASES = [
    ("moco", {"precision": "fp16", "nan": "skip"}),
    ("cycle_contrast", {"precision": "bf16", "accumulate": 2}),
    ("moco", {"compile": "on", "accumulate": 2}),
]


@pytest.mark.parametrize(("name", "switches"), CASES)
def test_switches_resume_bit_equal(name, switches, tmp_path, monkeypatch):
    if "compile" in switches:  # the graphs of inductor take too long to build for a test
        torch._dynamo.reset()
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    backbone = tiny_backbone(name, 2)

    def make_system(seed):
        return build_tiny(name, seed, torch.float32, backbone=backbone)

    config = dataclasses.replace(CONFIG, steps=4, **switches)
    record = assert_bit_equal_resume(
        make_system, lambda: make_source(make_system(0)), config, tmp_path, steps=[2]
    )
    assert "trainer/stepper" in record.hashes[4]
