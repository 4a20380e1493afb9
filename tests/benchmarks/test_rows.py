import importlib

import pytest

from benchmarks import rows
from benchmarks.__main__ import NAMES


def row(name="decode/x", ratio=2.0, met=True, note="", load=0.5):
    return {
        "name": name,
        "peer": "the other",
        "ratio": ratio,
        "spread": [ratio - 0.5, ratio + 0.5],
        "medians": {"ours": 0.25, "peer": 0.25 * ratio},
        "unit": "s",
        "expectation": {"at_least": 1.0, "why": ""},
        "met": met,
        "note": note,
        "commit": "abc",
        "machine": {"cores": 2, "cpu": "x86", "torch": "2", "python": "3.11", "load": load},
    }


def test_the_newest_row_of_a_name_counts(tmp_path):
    path = tmp_path / "results" / "bench.jsonl"
    rows.append(path, [row("b", 1.0), row("a", 1.0)])
    rows.append(path, [row("b", 3.0)])
    assert [(r["name"], r["ratio"]) for r in rows.newest(path)] == [("a", 1.0), ("b", 3.0)]
    assert len(path.read_text().splitlines()) == 3


def test_no_file_has_no_rows(tmp_path):
    assert rows.newest(tmp_path / "bench.jsonl") == []
    assert "Nothing" in rows.markdown([])


def test_text_shows_medians_ratio_spread_and_the_cause_of_a_miss():
    text = rows.text([row(), row("search/y", 0.5, met=False, note="one pass too many")])
    assert "250 ms" in text
    assert "2.00 (1.50–2.50)" in text
    assert text.splitlines()[-1] == "! search/y: one pass too many"


def test_markdown_lists_misses_and_the_load():
    table = rows.markdown([row(load=0.25), row("search/y", 0.5, met=False, load=3.5)])
    assert "| search/y | the other | 250 ms | 125 ms | 0.50 (0.00–1.00) | ≥ 1 | no |" in table
    assert "- `search/y`: cause not known" in table
    assert table.count("Measured on") == 1
    assert "load 0.2 to 3.5" in table


def test_fill_replaces_only_what_is_between_the_marks():
    page = f"before\n{rows.BEGIN}\nold\n{rows.END}\nafter\n"
    filled = rows.fill(page, "new")
    assert filled == f"before\n{rows.BEGIN}\n\nnew\n\n{rows.END}\nafter\n"
    assert rows.fill(filled, "new") == filled


def test_fill_refuses_a_page_without_marks():
    with pytest.raises(ValueError, match="once each"):
        rows.fill("nothing", "new")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_it_expects(name):
    module = importlib.import_module(f"benchmarks.{name}")
    for part in ("Compared:", "Checked:", "Expected"):
        assert part in module.__doc__, part


def test_small_draws_agree(tmp_path):
    draws = importlib.import_module("benchmarks.draws")
    for case in draws.cases(tmp_path, True):
        case.same(case.ours(), case.peer())


def test_markdown_counts_rows_by_commit():
    new = {**row("a/x"), "commit": "def"}
    table = rows.markdown([row("b/x"), new, {**new, "name": "a/y"}])
    assert "rows by commit: `abc` 1, `def` 2." in table
