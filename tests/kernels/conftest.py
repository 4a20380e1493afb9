"""Where the kernels in Triton run: on a GPU, else in Triton's interpreter on the CPU."""

import importlib
import math
import os
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def exact_temperature() -> Callable[..., float]:
    """Temperatures near a given one, by which float32 scales logits without any rounding.

    Where logits are huge their own rounding decides between keys, and no bound on gradients could
    be kept. Rows of few digits times a power of two have none: then all digits must be right.
    """

    def near(temperature: float, base_2: bool = True) -> float:
        """1/τ is a power of two, for kernels in base 2 that of 1/τ · log₂e."""
        unit = math.log2(math.e) if base_2 else 1.0
        power = 2.0 ** round(math.log2(unit / temperature))
        tau = torch.tensor(unit / power)
        for _ in range(4):
            tau = torch.nextafter(tau, torch.tensor(0.0))
        for _ in range(9):
            if float(1 / tau * unit) == power:
                return float(tau)
            tau = torch.nextafter(tau, torch.tensor(torch.inf))
        raise AssertionError(temperature)

    return near
