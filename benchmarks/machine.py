"""What a figure was measured on."""

import os
import platform

import torch


def machine() -> dict[str, object]:
    """The facts of this machine that times and rounding depend on."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
