"""Pictures of differences show every repetition, and come from the rows alone."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import gains, tables
from rhyme.evaluation import append_results
from support.rows import study

ASKED = (
    "<!-- gains study within 0.2\n## what it adds\nstudy knn/top1 | intra − image MoCo | frames\n"
    "study knn/top1 | intra − no mask | never run\n-->\n<!-- end -->\n"
)


def drawn(lines: list[gains.Line], limit: float = 0.2) -> ElementTree.Element:
    return ElementTree.fromstring(gains.svg(lines, limit))


def dots(picture: ElementTree.Element) -> list[float]:
    return [float(x.get("cx", "nan")) for x in picture.iter() if x.tag.endswith("circle")]


def test_every_repetition_is_a_dot_where_its_value_is() -> None:
    found = dots(drawn([gains.Line("a", [-0.2, 0.0, 0.1])]))
    middle = gains.LEFT + gains.PLOT / 2
    assert found == [gains.LEFT, middle, middle + gains.PLOT / 4]


def test_what_lies_beyond_the_limit_is_an_arrow_with_its_figure() -> None:
    picture = drawn([gains.Line("a", [0.1, 0.482]), gains.Line("b", [-0.5])])
    assert len(dots(picture)) == 1
    said = [x.text for x in picture.iter() if x.tag.endswith("text")]
    assert "+0.482" in said
    assert "−0.500" in said
    assert "+0.291, 2 of 2" in said


def test_labels_are_no_markup() -> None:
    picture = drawn([gains.Line('a < b & "c"', [0.1]), gains.Line("<head>")])
    assert {'a < b & "c"', "<head>"} <= {x.text for x in picture.iter()}


def test_a_line_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ValueError, match=re.escape("'study knn/top1 intra'")):
        gains.lines_of("study knn/top1 intra\n", lambda *_: [])


def test_a_page_and_its_picture_come_from_the_rows(tmp_path: Path) -> None:
    docs, results = tmp_path / "docs", tmp_path / "results"
    for folder in (docs / "systems", docs / "images", results):
        folder.mkdir(parents=True)
    page, picture = docs / "systems/page.md", docs / "images/gains-study.svg"
    page.write_text(ASKED)
    append_results(results / "study.jsonl", list(study()))
    options = ["--docs", str(docs), "--results", str(results)]
    assert tables.main([*options, "--check"]) == 1
    assert not picture.exists()
    assert tables.main(options) == 0
    text = page.read_text()
    assert "![frames: +0.100, 3 of 3; never run: not measured yet" in text
    assert "(../images/gains-study.svg)" in text
    assert len(dots(ElementTree.fromstring(picture.read_text()))) == 3
    assert tables.main([*options, "--check"]) == 0
    picture.write_text(picture.read_text().replace("frames", "dreams"))
    assert tables.main([*options, "--check"]) == 1
    page.write_text(ASKED.replace("<!-- end -->\n", ""))
    with pytest.raises(ValueError, match="not closed"):
        tables.main(options)
