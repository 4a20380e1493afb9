from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import worker_jobs as jobs

from rhyme.errors import ConfigError, TruncatedMedia, WorkerError
from rhyme.workers import Pool, map_ordered


def children() -> set[int]:
    """Worker processes of this process; other tests may keep processes of their own."""
    found = multiprocessing.active_children()
    return {c.pid for c in found if c.pid is not None and c.name == "rhyme_worker"}


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_keep_the_order_of_the_items(workers: int) -> None:
    assert list(map_ordered(jobs.square, range(13), workers=workers)) == [i * i for i in range(13)]


def test_no_items_start_no_process() -> None:
    assert list(map_ordered(jobs.square, [], workers=2)) == []


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 3), (1, 1), (2, 2)])
def test_an_endless_stream_is_consumed_only_as_far_as_there_is_room(
    workers: int, prefetch: int
) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in itertools.count():
            taken.append(i)
            yield i

    results = map_ordered(jobs.square, items(), workers=workers, prefetch=prefetch)
    assert taken == []
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(taken) <= 4 + max(1, workers * prefetch)
    results.close()  # type: ignore[attr-defined]


def test_work_is_done_in_parallel_in_several_processes() -> None:
    pids = set(map_ordered(jobs.pid, range(12), workers=2))
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_arrives_with_its_type_and_fields(workers: int) -> None:
    with pytest.raises(TruncatedMedia) as caught:
        list(map_ordered(jobs.truncated, ["good", "bad", "good"], workers=workers))
    error = caught.value
    assert (error.cause, error.file, error.stage, error.value, error.remedy) == (
        "ends early", "clips/a.mp4", "decode", 3, "mend",
    )  # fmt: skip
    if workers:
        assert "in truncated" in error.__notes__[0]


def test_an_error_that_cannot_travel_becomes_a_worker_error() -> None:
    results = list(map_ordered(jobs.truncated, ["odd", "stop"], workers=1, errors="return"))
    assert isinstance(results[0], WorkerError)
    assert "Odd: odd 3" in results[0].cause
    assert isinstance(results[1], StopIteration)
    with pytest.raises(TypeError, match="stays here"):
        list(map_ordered(jobs.unpicklable, [1], workers=1))


def test_returned_errors_leave_the_map_running() -> None:
    items = ["a", "bad", "b"]
    for workers in (0, 1):
        got = list(map_ordered(jobs.truncated, items, workers=workers, errors="return"))
        assert got[0] == "a"
        assert isinstance(got[1], TruncatedMedia)
        assert got[2] == "b"


def test_a_deadline_names_the_item_and_the_remedy() -> None:
    with Pool(jobs.nap, workers=1, deadline=0.5) as pool:
        got = list(pool.map([0.0, 60.0, 0.01], errors="return"))
    assert got[0] == 0.0
    assert isinstance(got[1], WorkerError)
    assert "0.5 s" in got[1].cause
    assert got[1].value == "60.0"
    assert got[1].remedy is not None
    assert got[2] == 0.01


@pytest.mark.parametrize(("how", "text"), [("exit", "exit code 7"), ("kill", "signal 9")])
def test_a_dead_worker_is_reported_and_replaced(how: str, text: str) -> None:
    got = list(map_ordered(jobs.exit_on, ["a", how, "b", how, "c"], workers=2, errors="return"))
    assert [got[0], got[2], got[4]] == ["a", "b", "c"]
    for error in (got[1], got[3]):
        assert isinstance(error, WorkerError)
        assert text in error.cause
        assert repr(how) in str(error.value)
    with pytest.raises(WorkerError, match="died"):
        list(map_ordered(jobs.exit_on, ["a", how], workers=1))


def test_sys_exit_in_a_worker_does_not_end_the_parent() -> None:
    with pytest.raises(WorkerError, match="SystemExit"):
        list(map_ordered(jobs.exit_on, ["system"], workers=1))


def test_a_worker_killed_while_it_sends_blocks_nobody() -> None:
    killed: list[int] = []

    def kill_a_sender() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and not killed:
            for pid in children():
                try:
                    call = Path(f"/proc/{pid}/syscall").read_text().split()
                except OSError:
                    continue
                if len(call) > 3 and int(call[3], 16) > 10_000_000 and call[0] == "1":
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break

    thread = threading.Thread(target=kill_a_sender, daemon=True)
    thread.start()
    sizes = [20_000_000] * 30
    got = list(map_ordered(jobs.large, sizes, workers=2, errors="return"))
    thread.join()
    if not killed:
        pytest.skip("no worker was seen inside a large write on this machine")
    errors = [r for r in got if isinstance(r, Exception)]
    assert len(errors) == 1
    assert isinstance(errors[0], WorkerError)
    assert sum(isinstance(r, bytes) and len(r) == 20_000_000 for r in got) == 29


def test_a_worker_that_died_idle_is_replaced_without_a_failed_item() -> None:
    with Pool(jobs.pid, workers=1) as pool:
        first = pool.submit(0).result()
        os.kill(first, signal.SIGKILL)
        time.sleep(0.5)
        assert pool.submit(1).result() != first


def test_a_pool_is_kept_over_epochs_and_prepares_each_worker_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Pool(jobs.recall, workers=2, initializer=jobs.remember, initargs=("k", str(log))) as pool:
        for _ in range(3):
            assert list(pool.map(["k"] * 6)) == [1] * 6
        half = pool.map(itertools.repeat("k"))
        assert next(half) == 1
        half.close()  # type: ignore[attr-defined]
        assert list(pool.map(["k"])) == [1]
    pids = log.read_text().split()
    assert len(pids) == len(set(pids)) <= 2


def test_inline_prepares_once(tmp_path: Path) -> None:
    jobs.state.clear()
    got = map_ordered(
        jobs.recall, ["q", "q"], initializer=jobs.remember, initargs=("q", str(tmp_path / "x"))
    )
    assert list(got) == [1, 1]


def test_a_failing_initializer_ends_the_map_even_when_errors_are_returned() -> None:
    with pytest.raises(TruncatedMedia, match="no decoder"):
        list(
            map_ordered(jobs.square, range(50), workers=1, initializer=jobs.refuse, errors="return")
        )


def test_workers_compute_on_one_thread() -> None:
    assert list(map_ordered(jobs.threads, [0], workers=1)) == [(1, "1")]


def test_tensors_arrive_whole_and_leave_no_shared_memory() -> None:
    shm = Path("/dev/shm")
    before = set(shm.iterdir()) if shm.exists() else set()
    (got,) = map_ordered(jobs.tensors, [5], workers=1)
    want = jobs.tensors(5)
    for name in ("large", "slice", "half", "flag", "empty", "grad"):
        assert got[name].dtype == want[name].dtype
        assert got[name].shape == want[name].shape
        assert torch.equal(got[name], want[name].detach())
    got["slice"].add_(1)  # writable
    got["large"].add_(1)
    assert not got["slice"].is_shared()
    assert np.array_equal(got["array"], want["array"])
    if shm.exists():
        new = {p.name for p in set(shm.iterdir()) - before}
        assert not {n for n in new if n.startswith("torch_")}


def test_nothing_is_left_after_close_error_and_garbage() -> None:
    results = map_ordered(jobs.nap, [0.0] + [60.0] * 9, workers=2)
    next(results)
    mine = children()
    assert len(mine) == 2
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 5
    assert not any(alive(p) for p in mine)

    results = map_ordered(jobs.nap, [0.0] + [60.0] * 9, workers=1)
    next(results)
    mine = children()
    del results
    gc.collect()
    assert not any(alive(p) for p in mine)

    def broken() -> Iterator[float]:
        yield 0.0
        yield 60.0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_ordered(jobs.nap, broken(), workers=1, prefetch=1, deadline=0.2, errors="return"))


def test_a_closed_pool_refuses_and_answers_waiting_tickets() -> None:
    pool = Pool(jobs.nap, workers=1)
    running, waiting = pool.submit(60.0), pool.submit(60.0)
    time.sleep(0.3)
    pool.close()
    pool.close()
    with pytest.raises(WorkerError, match="closed"):
        running.result()
    assert waiting.cancelled()
    with pytest.raises(WorkerError, match="closed"):
        pool.submit(1.0)


SCRIPT = textwrap.dedent(
    """
    import sys, time, multiprocessing
    import worker_jobs as jobs
    from rhyme.workers import map_ordered
    if __name__ == "__main__":
        results = map_ordered(jobs.nap, [0.0, 0.0] + [60.0] * 9, workers=2)
        next(results); next(results)
        print(*[c.pid for c in multiprocessing.active_children()], flush=True)
        next(results)
    """
)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_when_the_parent_is_interrupted_or_killed(
    how: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    assert pids
    parent.send_signal(how)
    parent.wait(20)
    parent.stdout.close()
    end = time.monotonic() + 10
    while any(alive(p) for p in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(p) for p in pids)


def test_an_unguarded_script_gets_an_error_that_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import worker_jobs as jobs\nfrom rhyme.workers import map_ordered\n"
        "print(list(map_ordered(jobs.square, range(4), workers=1, errors='return')))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert '__name__ == "__main__"' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("bad", [{"workers": -1}, {"prefetch": 0}, {"deadline": 0.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        map_ordered(jobs.square, [1], **bad)  # type: ignore[arg-type]
