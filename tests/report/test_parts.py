"""Parts of a feature side by side."""

from __future__ import annotations

from rhyme.report import ReportData, RunFacts, render
from rhyme.report.parts import part_table
from rhyme.report.summary import compare


def row(metric, value, encoder="trained", seed=0, protocol="linear", column="background"):
    return {
        "protocol": protocol, "metric": metric, "value": value, "encoder": encoder, "seed": seed,
        "chance": 0.05, "items": 40, "settings": {"label_column": column},
    }  # fmt: skip


ROWS = [
    row("top1", 0.7),
    row("top1@stationary", 0.8),
    row("top1@non_stationary", 0.5),
    row("top1@psi", 0.6),
    *(row("top1@stationary", v, "untrained", s) for s, v in enumerate((0.3, 0.4))),
    row("accuracy@stationary", 0.2, protocol="segmentation"),
    row("accuracy@non_stationary", 0.6, protocol="segmentation"),
    row("top1@stationary", 0.4, column="motion"),
    row("top1@non_stationary", 0.4, column="motion"),
    row("map@stationary", 0.4, protocol="retrieval"),
]


def data(rows) -> ReportData:
    return ReportData(system="lsfd", run="runs/x", facts=RunFacts(), results=rows)


def test_a_line_holds_every_part_and_marks_the_higher() -> None:
    table = part_table(compare(ROWS))
    assert table.names == ("stationary half", "non-stationary half", "both together")
    assert [line.metric for line in table.lines] == [
        "top-1 accuracy of background", "accuracy", "top-1 accuracy of motion"
    ]  # fmt: skip
    first, second, third = table.lines
    assert [cell.trained for cell in first.cells] == ["0.800", "0.500", "0.700"]
    assert first.cells[0].untrained.startswith("0.350 ± ")
    assert first.cells[1].untrained == "–"
    assert [cell.higher for cell in first.cells] == [True, False, False]
    assert [cell.higher for cell in second.cells] == [False, True, False]
    assert second.cells[2].trained == "–", "the whole feature was not measured"
    assert not any(cell.higher for cell in third.cells), "equals"
    assert first.chance == "0.050"


def test_the_page_shows_the_table_only_where_parts_were_measured() -> None:
    page = render(data(ROWS))
    assert '<section id="parts">' in page
    assert 'href="#parts"' in page
    assert "non-stationary half" in page
    assert "Action segmentation" in page
    without = render(data([row("top1", 0.7), row("top1@stationary", 0.8)]))
    assert 'id="parts"' not in without
    assert 'href="#parts"' not in without


def test_names_are_escaped() -> None:
    rows = [row(f"top1@{part}", 0.1, column="<b>") for part in ("stationary", "non_stationary")]
    page = render(data(rows))
    assert "of <b>" not in page
    assert "of &lt;b&gt;" in page
