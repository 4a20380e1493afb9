"""Where the kernels in Triton run: on a GPU, else in Triton's interpreter on the CPU."""

import importlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def triton_kernels() -> Iterator[SimpleNamespace]:
    """The modules and their device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.MonkeyPatch.context() as patch:
        if device.type == "cpu":  # looked at where a kernel is defined, and where it is called
            patch.setenv("TRITON_INTERPRET", "1")
        modules = {
            name: importlib.import_module(f"rhyme.kernels.triton.{name}")
            for name in ("queue", "batch", "blocks")
        }
        yield SimpleNamespace(device=device, **modules)
