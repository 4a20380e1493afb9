"""What a figure was measured on."""

import os
import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


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


def revision() -> str:
    """The commit that is measured, ``-dirty`` where more than rows and pages was changed since.

    RHYME_COMMIT tells it where there is a copy without history.
    """
    told = os.environ.get("RHYME_COMMIT", "")
    head = _git("describe", "--always", "--abbrev=12")
    code = _git("status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)docs")
    return told or (f"{head}-dirty" if code else head)


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
