"""Overlapping clips on the page: crops, time line, labels with their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rhyme.report import ClipPair, Frame, ReportData, SeenClip, Told, render


@pytest.fixture
def pair(make_frame: Callable[..., Frame]) -> ClipPair:
    clips = [
        SeenClip(
            frames=[make_frame(k, 24), make_frame(k + 1, 24)],
            times=[2.0 + k, 3.0 + k],
            outline=[(0.1, 0.2), (0.6, 0.2), (0.6, 0.7), (0.1, 0.7)],
            top=(0.35, 0.2),
        )
        for k in range(2)
    ]
    labels = [
        Told(name="overlap in time", drawn="60 %", told="60 %", right=True),
        Told(name="turn, clip 1", drawn="90°", told="<b>270°", right=False),
    ]
    return ClipPair(
        frame=make_frame(9), start=1.0, stop=5.0, clips=(clips[0], clips[1]), labels=labels
    )


def test_a_pair_shows_crops_times_and_answers(page: Callable[[str], Any], pair: ClipPair) -> None:
    data = ReportData(
        system="cstp", pairs=[pair] * 8, pairs_measured=[("overlap in time", 0.41, 0.2)]
    )
    text = render(data)
    found = page(text)
    assert "1 of 2 told right" in found.text
    assert "overlap in time 0.410 (chance 0.200)" in found.text
    assert "✓ 60 %" in found.text
    assert "✗ <b>270°" in found.text, "escaped"
    assert "2 more" in found.text
    crops = [a["d"] for a in found.of_class("halo")]
    assert len(crops) == 2 * 8
    assert crops[0] == "M10.00,20.00 60.00,20.00 60.00,70.00 10.00,70.00Z"
    # one second of four is 150 of 600 units: from 2 to 3 s, and from 3 to 4 s
    lanes = [a["d"] for a in found.of_class("lane")][:2]
    assert lanes == ["M150.0 11h150.0", "M300.0 33h150.0"]
    assert len(found.of_class("tick")) == 4 * 8
    assert '<a href="#overlaps">' in text


def test_without_pairs_or_pictures_the_page_stands(page: Callable[[str], Any], pair: ClipPair):
    assert "Overlaps" not in page(render(ReportData(system="moco"))).text
    bare = ClipPair(
        frame=Frame(),
        start=0.0,
        stop=0.0,
        clips=(SeenClip(frames=[], times=[], outline=[], top=(0, 0)), pair.clips[1]),
        labels=[],
    )
    assert "no picture" in page(render(ReportData(system="cstp", pairs=[bare]))).text
