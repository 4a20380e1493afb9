"""Clips of whole videos: each published rule against a slow reading of it, frame by frame."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhyme.errors import ConfigError, UnknownName
from rhyme.views import CLIP_RULES, ClipSampling, clip_sampling


def facts(*counts: int, fps: float = 8.0) -> SimpleNamespace:
    n = len(counts)
    frames = np.array(counts, dtype=np.int64)
    return SimpleNamespace(
        id=np.arange(n, dtype=np.uint64),
        start=np.zeros(n),
        stop=frames / fps if fps else np.zeros(n),
        fps=np.full(n, fps),
        frames=frames,
        width=np.full(n, 32),
        height=np.full(n, 24),
        group=np.arange(n),
    )


def short_frame(index: int, length: int, span: int, policy: str) -> int:
    """One frame of a video that may be too short, written out case by case."""
    if policy == "loop":
        while index >= length:
            index -= length
        return index
    if policy == "repeat-first" and span > length - 1:
        return max(index - (span - (length - 1)), 0)
    return length - 1 if index > length - 1 else index


def slow(name: str, length: int, t: int, s: int) -> list[list[int]]:
    """The clips of one video, from the words of the rule."""
    policy = CLIP_RULES.get(name, (None, "clamp"))[1]
    if name.endswith("-stride1"):
        s = 1
    starts: list[int] = []
    if name.startswith("linspace"):
        n = int(name.removeprefix("linspace").removesuffix("-stride1"))
        low, high = Fraction(t * s, 2), Fraction(2 * length - t * s, 2)
        for i in range(n):
            centre = Fraction(length, 2) if n == 1 else low + (high - low) * Fraction(i, n - 1)
            starts.append(max(0, floor(centre) - (t * s) // 2))
    elif name == "half-overlap":
        start = 0
        while start == 0 or start + (t - 1) * s <= length - 1:
            starts.append(start)
            start += max(t * s // 2 - 1, 1)
    else:
        span = (t - 1) * s
        start = 0
        while start == 0 or start + span <= length - 1:
            starts.append(start)
            start += max(span, 1)
        if length - 1 - span > starts[-1]:
            starts.append(length - 1 - span)
    span = (t - 1) * s
    return [[short_frame(a + k * s, length, span, policy) for k in range(t)] for a in starts]


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from([*CLIP_RULES, "linspace1", "linspace3", "linspace7-stride1"]),
    lengths=st.lists(st.integers(1, 260), min_size=1, max_size=4),
    t=st.integers(1, 17),
    s=st.integers(1, 5),
)
def test_every_rule_against_its_words(name: str, lengths: list[int], t: int, s: int) -> None:
    found = clip_sampling(name, frames=t, stride=s).of(facts(*lengths))
    expected = [slow(name, length, t, s) for length in lengths]
    assert found.index.tolist() == [clip for clips in expected for clip in clips]
    assert found.rows.tolist() == [i for i, clips in enumerate(expected) for _ in clips]
    step = 1 if name.endswith("-stride1") else s
    assert found.short.tolist() == [(t - 1) * step > length - 1 for length in lengths]


def test_ten_clips_of_dual_on_a_usual_video() -> None:
    """181 frames (UCF101's mean), 16 at stride 2: first and last clip touch the ends."""
    found = clip_sampling("linspace10", stride=2).of(facts(181))
    assert found.index[:, 0].tolist() == [0, 16, 33, 49, 66, 82, 99, 115, 132, 149]
    assert found.index[-1, -1] == 179
    assert len(found) == 10


def test_windows_cover_the_video() -> None:
    tiled = clip_sampling("tiled+last", stride=4).of(facts(181, 61, 62))
    assert tiled.index[tiled.rows == 0][:, 0].tolist() == [0, 60, 120]
    assert tiled.index[tiled.rows == 1][:, 0].tolist() == [0]
    assert tiled.index[tiled.rows == 2][:, 0].tolist() == [0, 1]
    half = clip_sampling("half-overlap", stride=2).of(facts(181))
    assert np.diff(half.index[:, 0]).tolist() == [15] * 10


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ("clamp", [0, 2, 4, 4]),
        ("repeat-first", [0, 0, 2, 4]),
        ("loop", [0, 2, 4, 1]),
    ],
)
def test_short_videos(short: str, expected: list[int]) -> None:
    sampling = clip_sampling("tiled+last", frames=4, stride=2, short=short)  # pyright: ignore
    found = sampling.of(facts(5, 7))
    assert found.index[0].tolist() == expected
    assert found.short.tolist() == [True, False]
    assert found.index[1].tolist() == [0, 2, 4, 6], "a clip that fits is left alone"


def test_one_frame_and_pictures() -> None:
    """A frame encoder has clips of one frame; a picture has one frame and no rate."""
    found = clip_sampling("linspace10", frames=1, stride=1).of(facts(16))
    assert found.index[:, 0].tolist() == [0, 2, 3, 5, 7, 8, 10, 12, 13, 15]
    still = facts(1, fps=0.0)
    for name in CLIP_RULES:
        assert set(clip_sampling(name, frames=4, stride=2).of(still).index.ravel()) == {0}


def test_spacing_in_seconds_follows_each_rate() -> None:
    both = facts(100, 100)
    both.fps = np.array([8.0, 25.0])
    found = clip_sampling("tiled+last", frames=3, spacing=0.25).of(both)
    assert np.diff(found.index[found.rows == 0][0]).tolist() == [2, 2]
    assert np.diff(found.index[found.rows == 1][0]).tolist() == [6, 6]


def test_refusals() -> None:
    with pytest.raises(UnknownName, match="unknown rule") as caught:
        clip_sampling("linspce10")
    assert "linspace10" in caught.value.remedy
    for name in ("linspace0", "linspace10-stride2", "tiled", ""):
        with pytest.raises(UnknownName):
            clip_sampling(name)
    with pytest.raises(UnknownName, match="unknown short"):
        clip_sampling("linspace10", short="drop")  # pyright: ignore
    for wrong in ({"frames": 0}, {"stride": -1}, {"clips": 0}, {"spacing": float("inf")}):
        with pytest.raises(ConfigError):
            ClipSampling(**wrong)
