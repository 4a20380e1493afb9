"""What a command that needs no network and no pictures does not load."""

import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("name", ["report", "export", "systems"])
def test_a_room_that_is_called_names_the_verb(name: str) -> None:
    """Whether anything was imported before or not; the room stays a room."""
    for first in ("rhyme", "rhyme.api"):
        code = (
            f"import {first}, rhyme\nfrom rhyme.errors import RhymeError\n"
            f"assert callable(rhyme.api.{name})\n"
            f"try: rhyme.{name}('runs/mine', out='x')\nexcept RhymeError as error: print(error)\n"
            f"import rhyme.{name} as room; print(len(room.__all__) > 0)"
        )
        if first == "rhyme":
            code = code.replace(f"assert callable(rhyme.api.{name})\n", "")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"remedy: call rhyme.api.{name}" in done.stdout, done.stderr
        assert done.stdout.endswith("True\n")


def test_the_verbs_are_reached_through_the_package() -> None:
    code = "import rhyme; print(rhyme.api.report.__name__, 'api' in dir(rhyme))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "report True\n"
