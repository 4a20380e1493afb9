"""Loads the miniature systems and the resume harness from their files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
NAMES = ("graph", "adversarial", "bandit", "zipped", "tokens")


def load(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(params=NAMES)
def mini(request: pytest.FixtureRequest) -> ModuleType:
    load("contract_support", HERE / "support.py")
    return load(f"contract_{request.param}", HERE / f"{request.param}.py")


@pytest.fixture
def harness() -> ModuleType:
    return load("resume_harness", HERE.parent / "resume" / "harness.py")
