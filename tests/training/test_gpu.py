"""The engine on a GPU: the step of the CPU, half precision, compiling, NCCL, a whole run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

from rhyme.run import RunFolder, read_jsonl
from rhyme.training import TrainConfig
from rhyme.training.stepper import Stepper
from support import tiny_runs
from support.tiny_systems import BUILT, at, batch_for, build_tiny, setup

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def exact():
    """Convolutions of cuDNN compute in TF32 unless told otherwise."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def steps(name, device, folder, count=3, **options):
    """Losses and gradient norms of a system's first steps, and the stepper.

    In float16 the scale of the loss starts high, and comes down by steps left out: a batch is tried
    until it is stepped on.
    """
    system = setup(build_tiny(name, dtype=torch.float32), 12).to(device)
    config = TrainConfig(steps=10, batch_size=6, **options)
    stepper = Stepper(system, config, RunFolder.create(folder, config))
    found = []
    for step in range(count):
        batch = batch_for(system, seed=step, dtype=torch.float32).to(device)
        phase = stepper.phases()[0]
        for _ in range(16 if options.get("precision") == "fp16" else 1):
            output, norm, applied = stepper.step(batch, phase, at(step), {"all": 0.01})
            if applied:
                break
        assert applied
        found.append((float(output.loss.detach()), float(norm)))
    return torch.tensor(found), stepper


@pytest.mark.parametrize("name", BUILT)
def test_a_step_is_that_of_the_cpu(name, tmp_path):
    here, _ = steps(name, "cpu", tmp_path / "cpu")
    there, stepper = steps(name, "cuda", tmp_path / "cuda")
    torch.testing.assert_close(there, here, rtol=2e-4, atol=1e-5)
    assert {p.device.type for p in stepper.system.parameters()} == {"cuda"}
    assert {b.device.type for b in stepper.system.buffers()} == {"cuda"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", BUILT)
def test_half_precision_stays_near(name, precision, tmp_path):
    full, _ = steps(name, "cuda", tmp_path / "full")
    half, stepper = steps(name, "cuda", tmp_path / "half", precision=precision)
    torch.testing.assert_close(half, full, rtol=0.15, atol=0.02)
    assert all(p.dtype is torch.float32 for p in stepper.system.parameters())


def test_a_compiled_step_is_that_of_an_eager_one(tmp_path):
    eager, _ = steps("moco", "cuda", tmp_path / "eager", 4)
    compiled, _ = steps("moco", "cuda", tmp_path / "compiled", 4, compile="on")
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


ONE_RANK = """
import torch, torch.distributed as dist
from rhyme import distributed
torch.cuda.set_device(0)
dist.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1, init_method="{meet}")
x = torch.randn(4, 3, device="cuda", requires_grad=True)
g = distributed.gather(x, grad=True)
(g * torch.arange(4., device="cuda")[:, None]).sum().backward()
factors = torch.arange(4., device="cuda")[:, None].expand(4, 3)
assert torch.equal(g, x) and torch.equal(x.grad, factors)
whole = x.detach().clone()
dist.all_reduce(whole)
assert torch.equal(whole, x), "nccl"
print("gathered")
"""


def test_a_rank_gathers_through_nccl(tmp_path):
    code = ONE_RANK.format(meet=(tmp_path / "meet").as_uri())
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert done.stdout.strip() == "gathered", done.stderr[-2000:]


@pytest.mark.parametrize("augment", ["cpu", "device"])
def test_a_run_trains_on_the_gpu_and_goes_on_after_a_stop(augment, tmp_path):
    run = tmp_path / "run"
    done = tiny_runs.train("moco", run, "--device", "cuda", "--data.augment", augment)
    assert done.code == 0, done.err
    straight = [row["loss"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert len(straight) == 6
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    done = tiny_runs.rhyme("train", "--resume", run, "--device", "cuda")
    assert done.code == 0, done.err
    losses = [row["loss"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert losses[-2:] == pytest.approx(straight[-2:], rel=1e-3)
