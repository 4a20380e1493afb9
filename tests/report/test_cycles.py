from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rhyme.report import Frame, ReportData, Rhyme, render
from rhyme.report.cycles import GAP, LEFT, MARGIN, NAME, RIGHT, WIDTH, cycle, percent


def at(file: str, time: float, **facts: Any) -> Frame:
    return Frame(file=file, time=time, span=(0.0, 10.0), group=file, **facts)


def way(
    *near: tuple[str, float, float], end: tuple[str, float] = ("q.mp4", 8.0), home: bool = True
) -> Rhyme:
    return Rhyme(
        query=at("q.mp4", 2.0),
        neighbours=[(at(file, time), weight) for file, time, weight in near],
        returns=[(at(*end), 0.9)],
        returned=home,
    )


def drawn(rhyme: Rhyme) -> str:
    return cycle(rhyme, rhyme.neighbours)


def marks(svg: str) -> list[tuple[str, float, float]]:
    """(kind, x, y) of circles and diamonds, in the order drawn."""
    found = [
        (kind, float(x), float(y))
        for kind, x, y in re.findall(r'class="stop (\w+)" cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]
    ends = re.findall(r'class="stop (\w+)" d="M([\d.]+) ([\d.]+)l([\d.]+)', svg)
    return found + [(kind, float(x), float(y) + float(r)) for kind, x, y, r in ends]


def test_a_line_a_video_and_marks_at_their_times() -> None:
    svg = drawn(way(("a.mp4", 5.0, 0.6), ("b.mp4", 0.0, 0.3), ("a.mp4", 9.0, 0.05)))
    assert svg.count('class="rail') == 3  # q, a and b
    assert svg.count('class="rail own"') == 1
    found = marks(svg)
    assert [kind for kind, _, _ in found] == ["query", "near", "near", "near", "right"]
    query, end = found[0], found[-1]
    assert query[2] == end[2]
    assert query[1] == pytest.approx(LEFT + 0.2 * (RIGHT - LEFT), abs=0.1)
    assert end[1] == pytest.approx(LEFT + 0.8 * (RIGHT - LEFT), abs=0.1)
    heights = {y for _, _, y in found}
    assert len(heights) == 3
    assert all(text in svg for text in (">a.mp4<", ">b.mp4<", ">10.0 s<"))
    # Beside each line the weights of its own neighbours.
    assert re.findall(r">(\d: [^<]+)<", svg) == ["1: 60%, 3: 5%", "2: 30%"]


def test_a_way_that_goes_astray_ends_on_its_own_line_and_differs_in_form() -> None:
    near = ("a.mp4", 5.0, 0.6)
    good, bad = drawn(way(near)), drawn(way(near, end=("z.mp4", 1.0), home=False))
    assert good.count('class="rail') == 2
    assert bad.count('class="rail') == 3
    end = marks(bad)[-1]
    assert end[0] == "wrong"
    assert end[2] == max(y for _, _, y in marks(bad))
    assert ">✓<" in good
    assert ">✗<" in bad
    assert 'class="to right"' in good
    assert 'class="to wrong"' in bad
    assert "came home" in good
    assert "went astray" in bad


def test_dashes_tell_outcomes_apart_without_colour() -> None:
    css = render(ReportData(system="moco"))
    dashes = {
        kind: re.search(rf"\.to\.{kind} {{[^}}]*stroke-dasharray: ([^;]+);", css)
        for kind in ("right", "wrong")
    }
    assert all(dashes.values())
    assert len({found.group(1) for found in dashes.values() if found}) == 2


def test_arrows_are_as_thick_as_weights_and_as_many() -> None:
    svg = drawn(way(("a.mp4", 5.0, 0.3), ("b.mp4", 1.0, 0.2), ("c.mp4", 1.0, 0.01)))
    for kind in ("out", "to right"):
        found = [float(w) for w in re.findall(rf'class="{kind}" stroke-width="([\d.]+)"', svg)]
        assert len(found) == 3
        assert found == sorted(found, reverse=True)
        assert len(set(found)) == 3
    assert svg.count('class="tip out"') == 3
    assert svg.count('class="tip to right"') == 3


def test_marks_of_one_line_stand_beside_each_other_within_the_picture() -> None:
    svg = drawn(way(*[("a.mp4", 9.9 + 0.01 * k, 0.2) for k in range(5)], end=("a.mp4", 10.0)))
    on_line = sorted(x for kind, x, _ in marks(svg) if kind != "query")
    assert len(on_line) == 6
    assert all(b - a >= GAP - 0.2 for a, b in pairwise(on_line))
    assert on_line[0] >= LEFT - 0.1
    assert on_line[-1] <= RIGHT + 0.1
    xs = [float(x) for x in re.findall(r"[ML]([-\d.]+) ", svg)]
    assert min(xs) >= 0
    assert max(xs) <= WIDTH


def test_no_arrow_enters_the_margin_of_names() -> None:
    # Marks at the very start of their lines, whose arrows bend to the left.
    files = [f"a_name_longer_than_the_margin_{k}.mp4" for k in range(5)]
    svg = drawn(way(*[(file, 0.0, 1.0) for file in files], end=("q.mp4", 0.0)))
    curves = re.findall(r'stroke-width="([\d.]+)" d="M([^"]+)"', svg)
    assert len(curves) == 10
    share = np.linspace(0, 1, 50)[:, None]
    for width, path in curves:
        p = np.array(path.replace("C", " ").split(), dtype=float).reshape(4, 2)
        points = (
            p[0] * (1 - share) ** 3
            + 3 * p[1] * share * (1 - share) ** 2
            + 3 * p[2] * share**2 * (1 - share)
            + p[3] * share**3
        )
        assert points[:, 0].min() - float(width) / 2 > MARGIN
    assert all(len(name) <= NAME for name in re.findall(r'class="strong"[^>]*>([^<]+)<', svg))


def test_a_line_of_many_neighbours_has_room_for_their_weights() -> None:
    svg = drawn(way(*[("a.mp4", float(k), 0.2) for k in range(6)], ("b.mp4", 0.0, 0.1)))
    lines = [float(y) for y in re.findall(r'class="rail[^"]*" d="M\d+ (\d+)H', svg)]
    texts = [float(y) for y in re.findall(r'<text (?:class="strong" )?x="4" y="(\d+)"', svg)]
    assert len(texts) == 2 + (2 + 3) + 3  # name and length, and three lines of weights for a.mp4
    assert all(b - a >= 10 for a, b in pairwise(texts))
    assert {y + 4 for y in lines} <= {*texts}


def test_a_frame_without_time_has_no_cycle_and_keeps_its_pictures(
    page: Callable[[str], Any],
) -> None:
    rhyme = way(("a.mp4", 5.0, 0.6))
    bare = dataclasses.replace(rhyme, query=Frame(file="q.mp4", group="q"))
    assert drawn(bare) == ""
    read = page(render(ReportData(system="moco", rhymes=[bare])))
    assert len(read.of_class("bare")) == 1
    assert not read.of_class("cycle")


def test_a_time_outside_its_span_stretches_the_line() -> None:
    frame = Frame(file="a.mp4", time=30.0, span=(10.0, 20.0), group="a")
    rhyme = dataclasses.replace(way(), neighbours=[(frame, 1.0)])
    assert ">20.0 s<" in drawn(rhyme)


def test_names_are_escaped_and_the_reason_is_told(page: Callable[[str], Any]) -> None:
    rhyme = dataclasses.replace(way(('<b>&".mp4', 5.0, float("nan"))), why="the <worst>")
    read = page(render(ReportData(system="moco", rhymes=[rhyme])))
    assert all(b.get("class") in ("badge", "sign") for b in read.all("b"))
    assert "✓ came home: the <worst>" in read.text
    (svg,) = read.of_class("cycle")
    assert '<b>&".mp4 at 5.0 s, weight ?' in (svg["aria-label"] or "")


def test_weights_as_percentages() -> None:
    assert [percent(w) for w in (0.0, 0.004, 0.056, 1.0)] == ["0%", "<1%", "6%", "100%"]
