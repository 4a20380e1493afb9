"""What `rhyme doctor` looks at."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from rhyme.api import doctor

ROOT = Path(__file__).parents[2]


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def test_every_requirement_and_the_libraries_of_ffmpeg_are_named(tmp_path: Path) -> None:
    found = {plain(finding.name): finding for finding in doctor(tmp_path)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        name = plain(re.split(r"[<>=]", line)[0])
        assert found[name].level == "ok"
        assert found[name].value == importlib.metadata.version(name)
    assert re.search(r"libavcodec \d+\.\d+\.\d+", found["libraries of ffmpeg"].value)
    assert "wandb" not in found, "extras are no requirements"


def test_a_requirement_that_is_missing_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = ["torch>=2", "no-such-package>=1", "other>=1; extra == 'more'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: listed)
    found = {finding.name: finding for finding in doctor(tmp_path)}
    assert found["no-such-package"].level == "problem"
    assert found["no-such-package"].remedy
    assert "other" not in found
