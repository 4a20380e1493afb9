from __future__ import annotations

import pytest

from rhyme.api import progress


def test_long_work_tells_rate_and_time_left_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_bar("scan", "files") as tell:
        for done in range(41, 101):  # forty were known before
            now[0] += 1.0
            tell(done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "scan: 55 of 100 files, 1/s, 45 s left",
        "scan: 70 of 100 files, 1/s, 30 s left",
        "scan: 85 of 100 files, 1/s, 15 s left",
    ]


def test_another_part_of_the_work_has_a_rate_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_bar("evaluate", "frames") as tell:
        for total, seconds in ((1000, 0.01), (30, 1.0)):
            for done in range(1, total + 1):
                now[0] += seconds
                tell(done, total)
        now[0] += 20.0
        tell(1, 5)  # the first of a part may take long
    assert capsys.readouterr().err.splitlines() == ["evaluate: 16 of 30 frames, 1/s, 14 s left"]


def test_short_work_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("scan", "files") as tell:
        tell(1, 1)
    assert capsys.readouterr().err == ""
