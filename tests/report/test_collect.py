from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rhyme.errors import RunError
from rhyme.report import ReportData, collect, model_card, render
from rhyme.run import append_jsonl


def write_run(path: Path, **config: Any) -> Path:
    path.mkdir()
    options = {"system": "moco", "seed": 3, "train": {"steps": 500, "device": "auto"}, **config}
    (path / "config.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    return path


def test_collect_reads_the_four_files(
    tmp_path: Path, make_metrics: Callable[..., Any], make_result: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run", data="clips")
    for row in make_metrics(5):
        append_jsonl(run / "metrics.jsonl", row)
    append_jsonl(run / "results.jsonl", make_result(0.5, data="other", checkpoint="beef"))
    facts = {"device": "cpu", "versions": {"torch": "2.11"}, "commit": "abc", "items": 90}
    append_jsonl(run / "events.jsonl", {"event": "started", "step": 0, "steps": 500, **facts})
    append_jsonl(run / "events.jsonl", {"event": "finished", "step": 45, "seconds": 12.5})
    data = collect(run, titles={"moco": "MoCo v2"})
    assert (data.system, data.system_title) == ("moco", "MoCo v2")
    assert data.facts.data == "clips"  # the training's, not the measurement's
    assert data.facts.seed == 3
    assert data.facts.steps == 45  # done, not asked for
    assert data.facts.seconds == 12.5
    assert data.facts.device == "cpu"
    assert data.facts.versions == {"torch": "2.11"}
    assert data.facts.items == 90
    assert data.facts.package_hash == "beef"
    assert len(data.metrics) == 5
    assert len(data.results) == 1
    assert len(data.events) == 2
    assert "steps: 500" in data.config
    assert "MoCo v2 encoder trained on clips" in render(data)


def test_items_are_those_of_the_training_split(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", data={"segment": 10.0})
    splits = {"train": 60, "val": 20, "test": 20}
    event = {"event": "data", "data": "clips", "items": 100, "groups": 50, "splits": splits}
    append_jsonl(run / "events.jsonl", {**event, "fingerprint": "f00d", "command": "rhyme train"})
    row = {"event": "quarantined", "path": "bad.mp4", "reason": "EmptyMedia", "items": 1}
    append_jsonl(run / "events.jsonl", row)
    append_jsonl(run / "events.jsonl", {"event": "started", "step": 0, "torch": "2.11"})
    append_jsonl(run / "metrics.jsonl", {"step": 30, "loss": 1.0, "seconds": 4.5})
    data = collect(run)
    assert data.facts.data == "clips"
    assert data.facts.items == 60
    assert data.facts.groups is None  # those of all splits are not those trained on
    assert data.facts.data_fingerprint == "f00d"
    assert data.facts.versions == {"torch": "2.11"}
    assert (data.facts.steps, data.facts.seconds) == (30, 4.5)
    assert "1 file could not be read and took no part; see Events." in render(data)


def test_items_left_out_are_not_those_trained_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", system="dual")
    facts = {"data": "v", "items": 1500, "train_items": 1000, "train_groups": 1000}
    append_jsonl(run / "events.jsonl", {"event": "data", **facts})
    append_jsonl(run / "events.jsonl", {"event": "left_out", "items": 7, "reasons": {"short": 7}})
    data = collect(run)
    assert (data.facts.items, data.facts.groups) == (1000, 1000)
    assert "1,000 items of 1,000 groups" in render(data)


def test_a_run_that_has_only_begun_renders(tmp_path: Path) -> None:
    data = collect(write_run(tmp_path / "run"))
    assert data.facts.steps is None
    assert data.facts.device is None
    assert "has not logged a step yet" in render(data)


def test_collect_tolerates_torn_and_strange_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", system={"name": "dual"}, data={"path": "clips"})
    rows = '{"step": 1, "loss": 2}\n[1]\n{"step": "x", "loss": {}}\n{"step": 2, "parts": 3}\n{"st'
    (run / "metrics.jsonl").write_text(rows, encoding="utf-8")
    (run / "results.jsonl").write_text('{"protocol": 1}\n{"value": 2}\n', encoding="utf-8")
    (run / "events.jsonl").write_text('{"seconds": "abc", "device": 4}\n{}\n', encoding="utf-8")
    data = collect(run)
    assert data.system == "dual"
    assert data.facts.data == "clips"
    assert data.facts.seconds is None
    assert data.facts.steps == 2
    assert "Loss" in render(data)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", ""])
def test_a_broken_configuration_is_named(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RunError) as caught:
        collect(run)
    assert caught.value.file is not None
    assert caught.value.file.endswith("config.yaml")
    assert caught.value.remedy


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        collect(tmp_path / "absent")
    with pytest.raises(RunError):
        collect(tmp_path)


def test_configuration_cannot_run_code(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    made = tmp_path / "made"
    text = f"system: !!python/object/apply:os.mkdir ['{made}']\n"
    (run / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RunError):
        collect(run)
    assert not made.exists()


def test_model_card_states_figures_facts_and_limits(full: ReportData) -> None:
    card = model_card(full)
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "rhyme"
    assert "cycle_contrast" in head["tags"]
    assert "| k-NN | top-1 accuracy | 0.600 | 0.320 ± 0.020 (n = 3) |" in card
    assert "a gain of 0.280 ± 0.020" in card
    assert "- **Seed**: 7" in card
    assert "- 3 files were quarantined." in card


def test_model_card_escapes_foreign_text(make_result: Callable[..., Any]) -> None:
    bad = "a|b`c[x](y)<script>\n# title\udcff"
    rows = [make_result(0.5, protocol=bad, settings={bad: bad})]
    card = model_card(ReportData(system=bad, title=bad, results=rows, notes=[bad]))
    card.encode("utf-8")
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body.replace("\\<script\\>", "")
    assert not any(line.startswith("# title") for line in card.splitlines())
    (row,) = [line for line in body.splitlines() if line.startswith("| a")]
    plain = row.replace("\\|", "")
    assert plain.count("|") == 7  # six columns, whatever the text holds


def test_model_card_of_an_unmeasured_encoder() -> None:
    assert "Not evaluated yet" in model_card(ReportData(system="moco"))
