"""Tables of the docs come from the rows in results/, and from nothing else."""

import math
import re
from pathlib import Path

import pytest

from benchmarks import tables
from rhyme.evaluation import append_results
from support.rows import FACTS, row, study

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "# Study\n\nBefore.\n\n<!-- table study -->\nold\n<!-- end -->\n\nAfter.\n"


def cells(text: str) -> dict[str, list[str]]:
    """Cells of the lines of all tables by their first cell."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    docs, results = tmp_path / "docs", tmp_path / "results"
    (docs / "systems").mkdir(parents=True)
    (docs / "systems" / "page.md").write_text(PAGE)
    return docs, results


def test_the_tables_of_the_docs_are_those_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_of_pilots_that_left_no_rows_no_figure_is_told(page: Path) -> None:
    for sentence in re.split(r"(?<=[.:])\s", page.read_text(encoding="utf-8")):
        if re.search("pilot", sentence, re.IGNORECASE) and "results/" not in sentence:
            assert not re.search(r"(?<!\w)\.\d|\d (steps|points)", sentence), sentence


def test_without_rows_the_page_says_so(folders: tuple[Path, Path]) -> None:
    docs, results = folders
    arguments = [f"--docs={docs}", f"--results={results}"]
    assert tables.main([*arguments, "--check"]) == 1
    assert tables.main(arguments) == 0
    page = (docs / "systems" / "page.md").read_text()
    assert "\n*not measured yet*\n" in page
    assert "old" not in page
    assert page.startswith("# Study\n\nBefore.\n")
    assert page.endswith("<!-- end -->\n\nAfter.\n")


def test_a_new_row_makes_the_page_differ(folders: tuple[Path, Path]) -> None:
    docs, results = folders
    arguments = [f"--docs={docs}", f"--results={results}"]
    append_results(results / "study.jsonl", study())
    assert tables.main(arguments) == 0
    assert tables.main([*arguments, "--check"]) == 0
    append_results(results / "study.jsonl", [row("intra", 3, 0.5)])
    before = (docs / "systems" / "page.md").read_text()
    assert tables.main([*arguments, "--check"]) == 1
    assert (docs / "systems" / "page.md").read_text() == before


def test_means_spreads_and_paired_differences() -> None:
    lines = cells(tables.table([*study()]))
    assert [*lines][2] == "untrained"
    # Fresh weights are averaged in each world first: three repetitions, not nine or eighteen.
    assert lines["untrained"] == ["0.220 ± 0.010 (3)"]
    assert lines["image MoCo"] == ["0.320 ± 0.020 (3)"]
    assert lines["a guess"] == ["0.100"]
    assert lines["intra − image MoCo"] == ["+0.100 ± 0.017 (3 of 3 higher)"]
    assert lines["intra − untrained"] == ["+0.200 ± 0.020 (3 of 3 higher)"]


def test_differences_are_taken_over_shared_repetitions_alone() -> None:
    rows = [row("a", 0, 0.5), row("a", 1, 0.9), row("b", 0, 0.4), row("b", 2, 0.0)]
    assert cells(tables.table(rows))["b − a"] == ["-0.100 (0 of 1 higher)"]
    assert "b − a" not in cells(tables.table([rows[1], rows[3]]))


def test_the_last_of_a_figure_measured_twice_counts() -> None:
    rows = [row("a", 0, 0.9), row("a", 1, 0.3), row("a", 0, 0.1)]
    assert cells(tables.table(rows))["a"] == ["0.200 ± 0.141 (2)"]


def test_an_encoder_evaluated_with_another_seed_is_no_repetition() -> None:
    rows = [
        row(arm, 0, value + seed / 10, pair=f"w/split/{seed}/seed0")
        for arm, value in (("a", 0.3), ("b", 0.5))
        for seed in range(3)
    ]
    lines = cells(tables.table(rows))
    assert lines["a"] == ["0.400 (1)"]
    assert lines["b − a"] == ["+0.200 (1 of 1 higher)"]


def test_other_settings_are_another_column() -> None:
    rows = [row("a", 0, 0.3), row("a", 0, 0.4, settings={"k": 20})]
    text = tables.table(rows)
    assert len(cells(text)["a"]) == 2
    assert "k: 20" in text


def test_a_guess_is_that_of_its_column() -> None:
    """Each label has its own: a mean over both would be a guess at neither."""
    rows = [
        row("a", 0, 0.3, settings={"label_column": label}, chance=chance)
        for label, chance in (("action", 0.1), ("colour", 0.5))
    ]
    assert cells(tables.table(rows))["a guess"] == ["0.100", "0.500"]


def test_figures_behind_a_head_stand_apart() -> None:
    rows = [row("a", 0, 0.3), row("a", 0, 0.4, metric="top1@c"), row("b", 0, 0.2)]
    text = tables.table(rows)
    assert "**knn**, behind head `c`" in text
    assert re.findall(r"^\| b \|.*", text, re.M) == ["| b | 0.200 (1) |"]


def test_values_that_are_not_finite_are_told() -> None:
    text = tables.table([row("a", 0, math.nan), row("a", 1, 0.5)])
    assert cells(text)["a"] == ["0.500 (1)"]
    assert "1 values are not finite" in text


def test_how_it_was_made_stands_below() -> None:
    text = tables.table([*study(), row("intra", 3, 0.4, commit="def")])
    for part in (
        "- image MoCo: `small` with `a.b=0.0`",
        "- items: test 1,000",
        "- seeds: 0, 1, 2, 3",
        "- command: `python -m benchmarks.evidence`",
        "- commits: `abc`, `def`",
        "- machine: cpu a chip, cores 2",
    ):
        assert part in text


def test_a_table_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not closed"):
        tables.fill("<!-- table a -->\n<!-- table b -->\n<!-- end -->\n", tmp_path)


def test_where_an_encoder_was_trained_is_told_apart_from_where_it_was_judged() -> None:
    here = tables.table([row("a", 0, 0.5)])
    assert "- machine: cpu a chip" in here
    away = {"trained_on": "a GPU", "trained_beside": "another one", "train_commit": "f00"}
    details = {**FACTS, "job": "a-0", "recipe": "small", "changes": {}, "train_seconds": 9, **away}
    there = tables.table([row("a", 0, 0.5, details=details)])
    assert "trained in 9 s on a GPU beside another one at f00" in there
    assert "- judged on: cpu a chip" in there
    assert (
        "benchmarks.evidence`, which is not how these rows came: trained and judged apart" in there
    )
    assert "not how these rows came" not in here
    assert "- machine" not in there


def test_what_is_judged_on_another_collection_has_no_split_of_its_own() -> None:
    details = {**FACTS, "train_items": 0, "val_items": 0, "test_items": 12, "recipe": "small"}
    lines = tables.table([row("a", 0, 0.5, details=details)]).splitlines()
    assert "- items: test 12" in lines
    known = {**details, "trained_data": "action", "trained_items": 1318}
    lines = tables.table([row("a", 0, 0.5, details=known)]).splitlines()
    assert "- trained on items: 1,318 of action" in lines
    assert "- items judged: test 12" in lines


def test_studies_side_by_side_hold_what_all_of_them_measured(folders: tuple[Path, Path]) -> None:
    docs, results = folders
    append_results(results / "study_long.jsonl", list(study()))
    other = [
        row(arm, world, value, pair=f"k{world}/split/{world}/seed{world}")
        for world, values in enumerate([(0.5, 0.4), (0.6, 0.6)])
        for arm, value in zip(("image MoCo", "intra"), values, strict=True)
    ]
    append_results(results / "study_kept.jsonl", [*other, row("no mask", 0, 0.9)])
    begin = "<!-- beside study_long study_kept of knn/top1 -->"
    page = docs / "beside.md"
    page.write_text(f"{begin}\n<!-- end -->\n")
    assert tables.main(["--docs", str(docs), "--results", str(results)]) == 0
    text = page.read_text()
    assert text.startswith(begin)
    assert text.endswith("<!-- end -->\n")
    assert cells(text) == {
        "": ["knn `top1`, long", "knn `top1`, kept"],
        "---": ["---", "---"],
        "image MoCo": ["0.320 ± 0.020 (3)", "0.550 ± 0.071 (2)"],
        "intra": ["0.420 ± 0.026 (3)", "0.500 ± 0.141 (2)"],
        "intra − image MoCo": ["+0.100 ± 0.017 (3 of 3 higher)", "-0.050 ± 0.071 (0 of 2 higher)"],
    }
    page.write_text(f"{begin.replace('kept', 'nothing')}\n<!-- end -->\n")
    assert tables.NOTHING in tables.fill(page.read_text(), results).page
