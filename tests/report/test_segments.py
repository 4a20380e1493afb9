"""The section on segments: reels, matrices, and what counts as found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rhyme.errors import DataError
from rhyme.report import Frame, ReportData, SegmentStrip, render
from rhyme.report.segments import found_themselves, matrix

RIGHT = np.array([[0.9, 0.1], [-0.2, 0.8]], dtype=np.float32)
SWAPPED = RIGHT[:, ::-1].copy()


@pytest.fixture
def strip(make_frame: Callable[..., Frame]) -> SegmentStrip:
    clip = [make_frame(k, 24, label="upward-rightward") for k in range(6)]
    return SegmentStrip(clip=clip, order=(1, 0), trained=RIGHT, untrained=SWAPPED)


def test_what_found_itself() -> None:
    assert found_themselves(RIGHT) == 2
    assert found_themselves(SWAPPED) == 0
    assert found_themselves(np.array([[0.5, 0.5], [0.1, 0.9]], dtype=np.float32)) == 1, "a tie"


def test_the_page_shows_clip_copy_and_both_matrices(
    strip: SegmentStrip, page: Callable[[str], Any]
) -> None:
    read = page(render(ReportData(system="dual", segments=[strip] * 2)))
    assert {"id": "segments"} in read.all("section")
    assert {"href": "#segments"} in read.all("a")
    words = read.text
    assert "Trained, 4 of the 4 segments shown found themselves; untrained, 0." in words
    assert "2 of 2 found themselves, untrained 0" in words
    reels = re.findall(r"segment (\d)", words)
    assert reels[:4] == ["1", "2", "2", "1"], "the copy has them in the other order"
    pictures = [a["src"] for a in read.all("img")]
    assert pictures[:6] == pictures[9:12] + pictures[6:9]
    assert len(read.of_class("map")) == 4
    assert len(read.of_class("right")) == len(read.of_class("wrong")) == 4
    assert "segment 2: \N{MINUS SIGN}0.200, 0.800" in read.of_class("map")[1]["aria-label"]


def test_without_clips_there_is_no_section(page: Callable[[str], Any]) -> None:
    assert "#segments" not in render(ReportData(system="moco"))


def test_a_matrix_of_more_segments(page: Callable[[str], Any]) -> None:
    read = page(matrix(np.eye(4, dtype=np.float32), "of an encoder"))
    assert len(read.of_class("cell")) == 16
    assert len(read.of_class("right")) == 4


@pytest.mark.parametrize(
    "change", [{"order": (0, 0)}, {"order": (0, 2, 1)}, {"trained": RIGHT[:1]}]
)
def test_sizes_that_do_not_fit_are_refused(strip: SegmentStrip, change: dict[str, Any]) -> None:
    values = {"clip": strip.clip, "order": (1, 0), "trained": RIGHT, "untrained": RIGHT}
    with pytest.raises(DataError, match="one number of segments"):
        SegmentStrip(**(values | change))
