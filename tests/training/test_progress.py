from __future__ import annotations

import io
import sys
import time

import pytest
import torch

from rhyme.run import append_jsonl, read_jsonl
from rhyme.training.metrics import Window, forget_rows_after
from rhyme.training.progress import Progress, duration
from support.logs import rows

ROW = {"step": 3, "epoch": 1, "loss": 2.5, "items_per_s": 120.0, "wait_share": 0.07, "eta": 300.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3000, "50 min"), (11_100, "3 h 05 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_say_loss_rate_wait_and_time_left():
    stream = io.StringIO()
    Progress(10, stream=stream).row(ROW)
    line = stream.getvalue()
    for part in ("step 3/10", "loss 2.5", "120 items/s", "data wait 7%", "5 min left"):
        assert part in line
    assert "\x1b" not in line


def test_plain_lines_are_rare_but_the_last_is_shown():
    stream = io.StringIO()
    progress = Progress(5, stream=stream, every=60.0)
    for step in range(1, 6):
        progress.row({**ROW, "step": step})
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/5", "5/5"]


def test_a_terminal_that_is_gone_or_never_was_is_no_failure(monkeypatch):
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", None)
        progress = Progress(10, stream=stream)
        progress.row(ROW)
        progress.say("hello")
        progress.advance(10)
        progress.close()


def test_silence():
    stream = Terminal()
    progress = Progress(5, shown=False, stream=stream)
    progress.row(ROW)
    progress.say("hello")
    progress.close()
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_with_the_same_facts():
    stream = Terminal()
    progress = Progress(10, stream=stream)
    progress.row(ROW)
    progress.say("[brackets] stay")
    progress.close()
    assert "3/10" in stream.getvalue()
    assert "[brackets] stay" in stream.getvalue()


def test_window_means_by_hand_and_through_its_state():
    window = Window()
    for value in (1.0, 2.0, 6.0):
        window.add("loss", torch.tensor(value, requires_grad=True))
    window.add("rare", 5)
    other = Window()
    other.load_state_dict(window.state_dict())
    other.add("loss", 3.0)
    assert window.means() == {"loss": 3.0, "rare": 5.0}
    assert other.means() == {"loss": 3.0, "rare": 5.0}
    window.clear()
    assert window.means() == {}


def test_rows_to_be_redone_are_forgotten(bench):
    for step in (2, 4, 6):
        append_jsonl(bench.run.metrics, {"step": step})
    assert forget_rows_after(bench.run, 4) == 1
    assert [row["step"] for row in read_jsonl(bench.run.metrics)] == [2, 4]
    assert forget_rows_after(bench.run, 4) == 0


def test_rates_leave_pauses_out(bench):
    recorder = bench.trainer().recorder
    recorder.start(0)
    recorder.waited(0.0, 10)
    with recorder.paused():
        time.sleep(0.2)
    assert recorder.rates()[0] > 10 / 0.15


def test_a_clock_that_jumps_changes_no_rate(bench, monkeypatch):
    days = iter(range(10**9, 0, -86_400))
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, lambda: next(days))
    assert time.time() > time.time()
    result = bench.trainer().fit()
    found = rows(bench.run)
    assert found
    assert all(row["items_per_s"] > 0 and 0 <= row["wait_share"] <= 1 for row in found)
    assert all(0 <= row["eta"] < 60 for row in found)
    lengths = [row["seconds"] for row in found]
    assert lengths == sorted(lengths)
    assert 0 < result.seconds < 60
    assert result.items_per_second > 0
