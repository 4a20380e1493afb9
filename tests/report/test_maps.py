from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rhyme.errors import DataError
from rhyme.report import ClassShare, EmbeddingMaps, FeatureMap, ReportData, Strip, render
from rhyme.report.maps import CLASSES, SIDE, map_views


def made(labels: list[str], **facts: Any) -> EmbeddingMaps:
    points = np.random.default_rng(0).normal(size=(len(labels), 2)) * (9.0, 1.0)
    maps = [
        FeatureMap(name=name, points=points, kept=0.9, faithful=0.95, same_class=share)
        for name, share in (("Trained", 0.8), ("Untrained", None))
    ]
    known: dict[str, Any] = {"videos": 5, "components": 50, "perplexity": 30.0, "seed": 0}
    return EmbeddingMaps(maps=maps, labels=labels, **{**known, **facts})


def points(svg: str) -> list[tuple[float, float]]:
    paths = " ".join(re.findall(r' d="([^"]+)"', svg))
    return [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)m", paths)]


def test_every_frame_is_a_point_within_the_map_and_axes_share_a_scale() -> None:
    view = map_views(made(["disc", "ring"] * 20))
    found = np.array(points(str(view.shown[0][2])))
    assert len(found) == 40
    assert found.min() >= 9
    assert found.max() <= SIDE - 9
    reach = np.ptp(found, axis=0)
    assert reach[0] > 3 * reach[1]


def test_classes_differ_in_form_and_rare_ones_share_a_mark() -> None:
    labels = [f"class {k}" for k in range(CLASSES + 3) for _ in range(30 - k)] + ["", ""]
    view = map_views(made(labels))
    assert [key.name for key in view.keys][:2] == ["class 0", "class 1"]
    assert view.keys[-1].name == "3 further classes"
    assert view.keys[-1].frames == sum(30 - k for k in range(CLASSES, CLASSES + 3)) + 2
    assert sum(key.frames for key in view.keys) == len(labels)
    # Class and form together: no two of the marks are alike.
    icons = [str(key.icon) for key in view.keys]
    assert len(set(icons)) == len(icons)
    forms = [re.findall(r"M6 6([^\"]+)", icon)[0] for icon in icons[:7]]
    assert len(set(forms)) == 7


def test_maps_stand_beside_each_other_and_say_what_may_be_read(page: Callable[[str], Any]) -> None:
    read = page(render(ReportData(system="moco", maps=made(["<i>", ""] * 10))))
    assert len(read.of_class("scatter")) == 2
    assert "nearest frame of another video of the same class: 0.800; trustworthiness 0.95" in (
        read.text
    )
    for said in ("May be read:", "May not be read:", "perplexity 30, seed 0", "no label"):
        assert said in read.text
    assert not read.all("i")


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_points_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"\[n, 2\]"):
        FeatureMap(name="x", points=np.zeros(shape), kept=1.0, faithful=1.0)
    bad = np.full((4, 2), np.nan)
    with pytest.raises(DataError, match="finite"):
        FeatureMap(name="x", points=bad, kept=1.0, faithful=1.0)
    with pytest.raises(DataError, match="length"):
        dataclasses.replace(made(["a"] * 4), labels=["a"] * 5)


def test_worst_classes_and_searches_are_shown(
    make_frame: Callable[..., Any], page: Callable[[str], Any]
) -> None:
    classes = [
        ClassShare(name="ring", queries=9, trained=0.1, untrained=0.2, chance=0.1, instead="disc"),
        ClassShare(name="disc", queries=8, trained=0.9, untrained=None, chance=0.1),
    ]
    worst = [Strip(query=make_frame(1), hits=[make_frame(2, score=0.99, same_class=False)])]
    read = page(render(ReportData(system="moco", classes=classes, classes_k=5, worst=worst)))
    assert "for the 2 classes that fare worst" in read.text
    assert "0.100 ▼ no better than untrained 0.200 0.100 disc 9" in read.text
    assert "0.900 – 0.100 – 8" in read.text
    assert "Failure 1" in read.text
    assert read.text.index("Worst cases") < read.text.index("Failure 1")


def test_a_section_that_cannot_be_drawn_says_why_and_what_helps(page: Callable[[str], Any]) -> None:
    absent = {"rhymes": ("All was trained on.", "Give others."), "map": ("Too few.", "More.")}
    data = ReportData(system="moco", absent=absent, events=[{"event": "finished"}])
    read = page(render(data))
    assert "All was trained on. Give others." in read.text
    assert "Too few. More." in read.text
    assert "out and back yet" not in read.text
    assert [a["href"] for a in read.all("a")][:3] == ["#evaluation", "#rhymes", "#map"]
