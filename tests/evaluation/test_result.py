"""Result rows: to JSON and back, and refusals."""

from __future__ import annotations

import math

import pytest

from rhyme.errors import EvaluationError
from rhyme.evaluation import Result, append_results, read_results


def result(**changes):
    values = {
        "system": "moco",
        "checkpoint": "abc",
        "data": "clips",
        "data_fingerprint": "f" * 64,
        "protocol": "knn",
        "metric": "top1",
        "value": 0.25,
        "seed": 2,
        "pair": "p",
        "items": 40,
        "settings": {"k": 10, "levels": ("video",)},
        "details": {"bank": 7},
        "chance": 0.1,
    }
    return Result(**{**values, **changes})


def test_rows_survive_the_file(tmp_path):
    rows = [result(), result(encoder="untrained", value=math.nan, seed=0, chance=None)]
    file = tmp_path / "results.jsonl"
    append_results(file, rows[:1])
    append_results(file, rows[1:])
    first, second = read_results(file)
    assert first.to_row() == result(created=first.created).to_row()
    assert first.settings == {"k": 10, "levels": ["video"]}
    assert math.isnan(second.value)
    assert (first.arm, second.arm) == ("moco", "moco untrained")
    assert first.created.endswith("+00:00")
    assert "nan" not in file.read_text().splitlines()[0]


def test_rows_of_later_versions_and_torn_rows(tmp_path):
    file = tmp_path / "results.jsonl"
    append_results(file, [result()])
    row = {**result().to_row(), "invented_later": 1}
    assert Result.from_row(row).value == 0.25
    with file.open("a") as f:
        f.write('{"system": "mo')
    assert len(read_results(file)) == 1
    assert read_results(tmp_path / "none.jsonl") == []


def test_refusals(tmp_path):
    row = result().to_row()
    del row["protocol"]
    with pytest.raises(EvaluationError, match="no 'protocol'"):
        Result.from_row(row)
    with pytest.raises(EvaluationError, match="number"):
        Result.from_row({**result().to_row(), "value": "much"})
    (tmp_path / "r.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(EvaluationError) as caught:
        read_results(tmp_path / "r.jsonl")
    assert caught.value.file == str(tmp_path / "r.jsonl")
