"""Workers that hang, crash, and lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import worker_jobs as jobs

from rhyme.errors import WorkerError
from rhyme.workers import Pool


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


@pytest.mark.parametrize("how", ["loop", "stop", "lock"])
def test_one_of_two_workers_hangs_and_is_replaced_at_its_deadline(how: str) -> None:
    with Pool(jobs.spin, workers=2, deadline=1.0) as pool:
        assert list(pool.map(["a", "b"])) == ["a", "b"]  # both are up
        begun = time.monotonic()
        got = list(pool.map(["a", how, "b", "c", "d"], errors="return"))
        assert time.monotonic() - begun < 10
    assert [got[0], *got[2:]] == ["a", "b", "c", "d"]
    error = got[1]
    assert isinstance(error, WorkerError)
    assert "deadline of 1 s" in error.cause
    assert error.value == repr(how)
    if how != "stop":  # a stopped process answers nothing
        assert "worker_jobs.py" in error.cause
        assert "in spin" in error.__notes__[0]


def test_a_crash_in_native_code_names_the_place() -> None:
    with Pool(jobs.crash, workers=1) as pool:
        got = list(pool.map(["a", "crash", "b"], errors="return"))
    assert [got[0], got[2]] == ["a", "b"]
    assert isinstance(got[1], WorkerError)
    assert "signal 11; its code crashed" in got[1].cause
    assert "Segmentation fault" in got[1].__notes__[0]


def test_a_killed_worker_is_back_within_seconds_and_the_order_stays() -> None:
    with Pool(jobs.pid, workers=2) as pool:
        first = set(pool.map(range(8)))
        for victim in sorted(first):
            os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        again = set(pool.map(range(8)))
        assert time.monotonic() - begun < 10
    assert len(again) == 2
    assert not again & first


def test_signals_to_the_whole_job_leave_the_workers_to_their_parent() -> None:
    with Pool(jobs.pid, workers=1) as pool:
        worker = pool.submit(0).result()
        for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"):
            os.kill(worker, getattr(signal, name))
        assert pool.submit(1).result() == worker


def test_workers_that_end_again_and_again_stop_the_pool_and_name_the_items() -> None:
    with Pool(jobs.exit_on, workers=1, restarts=3) as pool:
        results = pool.map(["a", "kill", "b", "exit", "kill", "kill", "c"], errors="return")
        got = [next(results) for _ in range(5)]
        with pytest.raises(WorkerError, match="ended 4 times within 60 s") as error:
            next(results)
        assert [r for r in got if isinstance(r, str)] == ["a", "b"]
        assert error.value.value == ["'kill'", "'exit'"]
        assert error.value.remedy is not None
        with pytest.raises(WorkerError, match="ended 4 times"):
            pool.submit("d").result()


def test_ends_that_are_forgiven_do_not_count() -> None:
    with Pool(jobs.exit_on, workers=1, restarts=1) as pool:
        for _ in range(3):
            assert isinstance(pool.submit("kill").exception(), WorkerError)
            pool.forgive()
        assert pool.submit("a").result() == "a"


PARENT = textwrap.dedent(
    """
    import sys, time, multiprocessing
    import worker_jobs as jobs
    from rhyme.workers import Pool
    if __name__ == "__main__":
        pool = Pool(jobs.spin, workers=2)
        list(pool.map(["a", "b", "c", "d"]))
        waiting = [pool.submit(sys.argv[1]) for _ in range(2)]
        time.sleep(0.2)
        print(*[c.pid for c in multiprocessing.active_children()], flush=True)
        time.sleep(60)
    """
)


def killed_parent(script: Path, how: str) -> list[int]:
    """Workers of a parent that was killed with kill -9 a moment ago."""
    command = [sys.executable, str(script), how]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    return pids


@pytest.mark.parametrize("how", ["loop", "stop", "lock"])
def test_no_worker_outlives_a_killed_parent_whatever_it_does(how: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    pids = killed_parent(script, how)
    end = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.slow
def test_twenty_restarts_after_kills_in_a_row(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    shm = Path("/dev/shm")
    before = set(shm.iterdir()) if shm.exists() else set()
    pids = [pid for turn in range(20) for pid in killed_parent(script, ("loop", "stop")[turn % 2])]
    time.sleep(5)
    assert not [pid for pid in pids if alive(pid)]
    assert (set(shm.iterdir()) if shm.exists() else set()) <= before
