"""The demo's own work, with a world and a training small enough for a test."""

from __future__ import annotations

import importlib
import statistics
from pathlib import Path
from typing import Any

import pytest

from rhyme import api
from rhyme.errors import RunError
from rhyme.run import read_jsonl
from support.tiny_runs import OVERRIDES, rhyme

STAGES = ["world", "train", "evaluate", "embed", "search", "report"]


@pytest.mark.slow
def test_the_demo_makes_everything_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("rhyme.api.demo")

    def train(*arguments: Any, **options: Any) -> api.Trained:
        return api.train(*arguments, overrides=OVERRIDES["cycle_contrast"], **options)

    def world(*arguments: Any, **options: Any) -> dict[str, Any]:
        return api.world(*arguments, **{**options, "counts": (24, 8, 12), "workers": 0})

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "world", world)
    out = tmp_path / "demo"
    done = rhyme("demo", "--out", out, "--json")
    said = [line.removeprefix("demo: ") for line in done.err.splitlines() if line[:6] == "demo: "]
    assert said == STAGES
    found = done.document
    assert [stage["name"] for stage in found["stages"]] == STAGES
    rows = [
        row
        for row in read_jsonl(out / "results.jsonl")
        if (row["protocol"], row["metric"]) == ("knn", "top1")
    ]
    figures = {
        name: statistics.fmean(r["value"] for r in rows if r["encoder"] == name)
        for name in ("trained", "untrained")
    }
    assert found["trained"] == pytest.approx(figures["trained"])
    assert found["untrained"] == pytest.approx(figures["untrained"])
    gained = figures["trained"] - figures["untrained"] >= found["gate"]
    assert done.code == (0 if gained else 1)
    assert (out / "report.html").is_file()
    assert not (out / "world").exists()
    assert (tmp_path / "demo-world").is_dir(), "beside the run, as --help says"
    assert (out / "store" / "sheet.png").read_bytes().startswith(b"\x89PNG")

    before = (out / "results.jsonl").read_bytes()
    again = rhyme("demo", "--out", out)
    assert again.code == 1
    assert "exists" in again.err
    assert (out / "results.jsonl").read_bytes() == before


def test_the_gate_decides() -> None:
    assert api.Demo(trained=0.8, untrained=0.5).passed
    assert not api.Demo(trained=0.6, untrained=0.5).passed


def test_help_says_where_the_world_goes() -> None:
    assert "OUT-world" in rhyme("demo", "--help").out


def test_the_demo_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(RunError) as caught:
        api.demo(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
