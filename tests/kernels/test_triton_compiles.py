"""The kernels compile for the GPUs that they say they take, and fit into their memory.

That needs Triton and no GPU. What a kernel computes is tested in its interpreter and on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

KIB = 1024
SHARED = {(8, 0): 163, (8, 6): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
"""KiB that the threads of a program may share, by compute capability (CUDA C++ Programming Guide,
technical specifications): those of an A100, an RTX 3090, an H100, a B200 and an RTX 5090."""
NAMES = {"forward", "backward_queries", "backward_keys", "sums", "weights", "merge"}


@pytest.mark.parametrize(
    "capability",
    [(8, 6), *(pytest.param(at, marks=pytest.mark.slow) for at in SHARED if at != (8, 6))],
)
def test_each_kernel_compiles_and_fits(capability) -> None:
    pytest.importorskip("triton", reason="Triton is not there")
    script = Path(__file__).with_name("compile_for.py")
    done = subprocess.run(
        [sys.executable, str(script), *map(str, capability)],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert {name for name, _, _ in told} == NAMES
    too_large = [line for line in told if line[2] > SHARED[capability] * KIB]
    assert not too_large, f"{SHARED[capability]} KiB do not hold {too_large}"


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    @property
    def device(self):
        return torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("found", "hip", "reason"),
    [((7, 5), None, "compute capability 8.0 or later, not 7.5"), ((9, 0), "6.4", "NVIDIA")],
)
def test_other_gpus_take_the_portable_path(monkeypatch, found, hip, reason) -> None:
    pytest.importorskip("triton", reason="Triton is not there")
    from rhyme.kernels.triton import batch, blocks, queue

    monkeypatch.setattr(blocks, "capability", lambda device: found)
    monkeypatch.setattr(torch.version, "hip", hip)
    x = torch.zeros(2, 4).as_subclass(OnGpu)
    assert reason in queue.refusal(x, x, None)
    assert reason in batch.refusal(x, x)
