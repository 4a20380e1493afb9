"""Where the kernels in Triton run: on a GPU, else in Triton's interpreter on the CPU."""

import importlib
import os
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="session")
def triton_kernels() -> SimpleNamespace:
    """The modules and their device. The interpreter has to be chosen before Triton is imported."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU; test_triton_interpreted runs this file in Triton's interpreter")
    modules = {
        name: importlib.import_module(f"rhyme.kernels.triton.{name}")
        for name in ("queue", "batch", "blocks")
    }
    return SimpleNamespace(device=device, **modules)
