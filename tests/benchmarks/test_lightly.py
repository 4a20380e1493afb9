"""The benchmark against lightly says what is missing instead of ending in a traceback."""

import importlib.util
import sys

import pytest

from benchmarks import __main__ as bench


def test_without_lightly_a_line_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "step/lightly", "--quick"])
    assert bench.main() == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step/lightly: lightly is left out: not installed (make bench)"]
