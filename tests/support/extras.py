"""Libraries of extras: tests skip without them, and fail where they have to be there."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def extra(name: str) -> Any:
    """The library; with ``RHYME_REQUIRE_EXTRAS`` set, a test that lacks it fails."""
    if os.environ.get("RHYME_REQUIRE_EXTRAS"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
