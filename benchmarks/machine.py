"""What a figure was measured on."""

import os
import platform

import torch


def machine() -> dict[str, object]:
    """The facts of this machine that times and rounding depend on."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def gpu() -> str | None:
    """Name, memory and CUDA version of the GPU, if there is one."""
    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
