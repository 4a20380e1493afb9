"""Without a GPU the kernels in Triton run in its interpreter, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rhyme import kernels
from rhyme.errors import ConfigError

NAMES = ("queue", "batch", "functions")

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="they run on the GPU here")


@pytest.mark.slow
def test_the_kernels_pass_their_tests() -> None:
    files = [str(Path(__file__).with_name(f"test_triton_{name}.py")) for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 20


def test_elsewhere_they_say_that_they_need_a_gpu() -> None:
    x = torch.zeros(2, 4)
    for function in (kernels.in_batch_log_sum_exp, kernels.queue_log_sum_exp):
        with pytest.raises(ConfigError, match="computes on a GPU"):
            function(x, x, temperature=1.0, kernel="triton")
