"""What a command that needs no network and no pictures does not load."""

import subprocess
import sys

HEAVY = ("torchvision", "torch._dynamo", "matplotlib", "lancedb", "sklearn", "timm", "transformers")
ROOMS = (
    "rhyme.cli",
    "rhyme.api",
    "rhyme.training",
    "rhyme.encoders",
    "rhyme.evaluation",
    "rhyme.report",
)


def test_heavy_libraries_are_loaded_where_they_are_used() -> None:
    """They take seconds, and each rank and each worker would take them."""
    code = f"import sys, {', '.join(ROOMS)}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
