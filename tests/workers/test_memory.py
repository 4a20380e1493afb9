"""Results in shared memory: right for as long as they are held, bounded, and gone afterwards."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import worker_jobs as jobs

from rhyme.errors import WorkerError
from rhyme.workers import Pool, map_ordered, memory

BIG = 100_000  # bytes that go through shared memory

shared = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory files")


def right(result: dict) -> bool:
    return bool((result["data"] == result["item"] % 251).all())


def items(count: int, size: int = BIG) -> list[tuple[int, int]]:
    return [(value, size) for value in range(count)]


def arena(pool: Pool) -> memory.Arena:
    found = pool._shared.setup.arena
    assert found is not None
    return found


def inside(pool: Pool, array: np.ndarray) -> bool:
    """Whether an array lies in the pool's shared memory."""
    start = np.frombuffer(arena(pool)._map, np.uint8, 1).ctypes.data
    return start <= array.ctypes.data < start + arena(pool).regions * arena(pool).size


@shared
def test_large_results_lie_in_shared_memory_and_small_ones_do_not() -> None:
    with Pool(jobs.filled, workers=1) as pool:
        for size, where in ((BIG, True), (100, False)):
            result = pool.submit((7, size)).result()
            assert right(result)
            assert inside(pool, result["data"]) is where
        del result
        assert len(arena(pool)._free) == arena(pool).regions


@shared
def test_results_that_are_kept_stay_right_when_memory_is_used_again() -> None:
    with Pool(jobs.filled, workers=2) as pool:
        kept = []
        for result in pool.map(items(40)):
            if result["item"] % 3 == 0:
                kept.append(result["data"][5:].reshape(-1)[1:])  # a view of a view holds the region
                del result
        assert arena(pool)._lent
        for place, part in enumerate(kept):
            assert (part == place * 3 % 251).all()
        del part
        kept.clear()
        gc.collect()
        assert not arena(pool)._lent
        assert sorted(arena(pool)._free) == list(range(arena(pool).regions))


@shared
def test_results_outlive_their_pool() -> None:
    with Pool(jobs.filled, workers=1) as pool:
        kept = list(pool.map(items(3)))
        assert inside(pool, kept[0]["data"])
    del pool
    gc.collect()
    assert all(right(result) for result in kept)
    kept[0]["data"] += 1  # writable


@shared
def test_a_consumer_that_keeps_everything_costs_no_further_shared_memory() -> None:
    with Pool(jobs.filled, workers=1) as pool:
        kept = list(pool.map(items(30)))
        assert all(right(result) for result in kept)
        places = [inside(pool, result["data"]) for result in kept]
        assert sum(places) == arena(pool).regions
        assert os.fstat(arena(pool).descriptor).st_blocks * 512 < arena(pool).regions * 2 * BIG


@shared
def test_the_memory_of_dead_workers_is_used_again() -> None:
    with Pool(jobs.exit_on, workers=1, prefetch=1) as pool:
        for _ in range(arena(pool).regions + 1):
            assert isinstance(pool.submit("kill").exception(), WorkerError)
        assert len(arena(pool)._free) == arena(pool).regions


@shared
def test_a_result_that_does_not_fit_comes_through_the_pipe_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "REGION", 1 << 16)
    with caplog.at_level(logging.WARNING), Pool(jobs.filled, workers=1) as pool:
        got = list(pool.map([*items(3), (3, 50_000)]))
        assert all(right(result) for result in got)
        assert [inside(pool, result["data"]) for result in got] == [False] * 3 + [True]
    assert [r.message for r in caplog.records if "did not fit" in r.message] == [
        "0.1 MB of a result did not fit into shared memory and came through a pipe, which is "
        "slower; smaller batches avoid it"
    ]


def test_without_memory_files_everything_comes_through_the_pipe(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "anonymous_file", lambda name, size=0: None)
    monkeypatch.setattr("rhyme.workers.packing.anonymous_file", lambda name, size=0: None)
    monkeypatch.setattr("rhyme.workers.process.anonymous_file", lambda name, size=0: None)
    with caplog.at_level(logging.WARNING):
        got = list(map_ordered(jobs.filled, items(4), workers=1))
    assert all(right(result) for result in got)
    assert sum("travel through pipes" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize(("budget", "most"), [(3 * BIG, 3), (1, 1), (None, 8)])
def test_large_results_are_made_ahead_only_as_far_as_memory_allows(
    budget: int | None, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[int] = []

    def source() -> Iterator[tuple[int, int]]:
        for value in itertools.count():
            taken.append(value)
            yield value, BIG

    ahead = []
    with (
        caplog.at_level(logging.WARNING),
        Pool(jobs.filled, workers=1, prefetch=8, budget=budget) as pool,
    ):
        for result in itertools.islice(pool.map(source()), 30):
            ahead.append(taken[-1] - result["item"])
    assert max(ahead[15:]) < most
    assert max(ahead[15:]) >= most - 2
    told = [r.message for r in caplog.records if "made ahead" in r.message]
    assert len(told) == (budget is not None)


@shared
def test_a_forked_process_keeps_what_it_saw() -> None:
    with Pool(jobs.filled, workers=1) as pool:
        result = pool.submit((5, BIG)).result()
        read, write = os.pipe()
        go, start = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(go, 1)
            os.write(write, b"1" if right(result) else b"0")
            os._exit(0)
        del result
        for other in pool.map(items(20)):
            assert right(other)
        os.write(start, b"x")
        assert os.read(read, 1) == b"1"
        os.waitpid(child, 0)
    for descriptor in (read, write, go, start):
        os.close(descriptor)


@shared
def test_a_large_array_of_the_function_is_shared_until_it_is_written() -> None:
    values = np.zeros(4_000_000)  # 32 MB
    with Pool(jobs.pid, workers=1) as pool:
        pool.submit(0).result()
    with Pool(jobs.Table(values), workers=2) as pool:
        got = list(pool.map(range(40)))
    assert len({pid for pid, *_ in got}) == 2
    assert all(before == 0.0 and last == 0.0 for _, before, last, _ in got)
    assert not values.any()  # what a worker writes stays with it
    assert max(private for *_, private in got) < 32_000_000 + 20_000_000


SCRIPT = textwrap.dedent(
    """
    import os, worker_jobs as jobs
    from rhyme.workers import map_ordered
    if __name__ == "__main__":
        got = list(map_ordered(jobs.filled, [(k, 3_000_000) for k in range(6)], workers=2))
        assert all((r["data"] == r["item"]).all() for r in got)
        print("fine", os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize)
    """
)


@shared
def test_a_tiny_dev_shm_does_not_matter(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    run = f"{mount} && exec {sys.executable} {script}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", run], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["fine", "65536"], done.stderr
