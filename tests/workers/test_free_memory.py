"""Free memory, read from made-up ``/proc`` and ``/sys``."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhyme.workers import Pool, free_memory, pool

GIB = 1 << 30
NO_LIMIT = 9223372036854771712  # what version 1 says where there is none


def tree(root: Path, free: int, groups: str, files: dict[str, str]) -> Path:
    """A machine with so many bytes free, on which we are in these groups."""
    listed = {
        "proc/meminfo": f"MemTotal: {512 << 20} kB\nMemAvailable:   {free >> 10} kB\n",
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in listed.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(folder: str, limit: int | str, used: int, **stat: int) -> dict[str, str]:
    """Files of a group of version 2."""
    lines = "".join(f"{name} {value}\n" for name, value in stat.items())
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": lines,
    }


def group_of_version_1(folder: str, limit: int, used: int, **stat: int) -> dict[str, str]:
    lines = "".join(f"{name} {value}\n" for name, value in stat.items())
    return {
        f"memory/{folder}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{folder}memory.usage_in_bytes": f"{used}\n",
        f"memory/{folder}memory.stat": lines,
    }


def test_files_that_were_read_count_as_free(tmp_path: Path) -> None:
    """A container whose limit is full of films that were read: they go when room is asked for."""
    read = {"file": 62 * GIB, "inactive_file": 50 * GIB, "active_file": 11 * GIB}
    full = group("", 64 * GIB, 64 * GIB - 4096, anon=2 * GIB, slab_reclaimable=GIB, **read)
    root = tree(tmp_path, 400 * GIB, "0::/\n", full)
    assert free_memory.available_bytes(root) == 62 * GIB + 4096


def test_files_in_memory_that_nothing_backs_are_used(tmp_path: Path) -> None:
    files = group("", 64 * GIB, 60 * GIB, anon=30 * GIB, file=30 * GIB, shmem=30 * GIB)
    root = tree(tmp_path, 400 * GIB, "0::/\n", files)
    assert free_memory.available_bytes(root) == 4 * GIB


@pytest.mark.parametrize("tightest", ["job_7", "job_7/step_0", "job_7/step_0/user/task_0"])
def test_the_tightest_group_around_ours_counts(tmp_path: Path, tightest: str) -> None:
    """A step of a SLURM job: the limit stands with the job, its step or its task."""
    ours = "system.slice/slurm.scope/job_7/step_0/user/task_0"
    files: dict[str, str] = {}
    for name in ("job_7", "job_7/step_0", "job_7/step_0/user", "job_7/step_0/user/task_0"):
        limit = 16 * GIB if name == tightest else "max"
        files |= group(f"system.slice/slurm.scope/{name}/", limit, 3 * GIB, inactive_file=GIB)
    files |= group("system.slice/", 100 * GIB, 50 * GIB)
    files |= group("system.slice/slurm.scope/job_8/", GIB, GIB)  # somebody else's
    root = tree(tmp_path, 400 * GIB, f"0::/{ours}\n", files)
    assert free_memory.available_bytes(root) == 14 * GIB


def test_a_softer_limit_counts_too(tmp_path: Path) -> None:
    files = {**group("a/", 64 * GIB, 2 * GIB), "a/memory.high": f"{10 * GIB}\n"}
    assert free_memory.available_bytes(tree(tmp_path, 400 * GIB, "0::/a\n", files)) == 8 * GIB


def test_groups_of_version_1(tmp_path: Path) -> None:
    """Their plain figures leave out the groups within; limits may stand further out."""
    files = {
        **group_of_version_1("", NO_LIMIT, 200 * GIB),
        **group_of_version_1(
            "slurm/job_7/",
            32 * GIB,
            31 * GIB,
            inactive_file=0,
            active_file=0,
            total_inactive_file=20 * GIB,
            total_active_file=5 * GIB,
        ),
        **group_of_version_1("slurm/job_7/step_0/", NO_LIMIT, 6 * GIB),
    }
    groups = "11:cpu,cpuacct:/elsewhere\n9:memory:/slurm/job_7/step_0\n1:name=systemd:/x\n0::/x\n"
    assert free_memory.available_bytes(tree(tmp_path, 400 * GIB, groups, files)) == 26 * GIB


@pytest.mark.parametrize("ours", ["/docker/0123abcd", "/../../other", "/"])
def test_a_group_whose_folder_is_not_to_be_seen(tmp_path: Path, ours: str) -> None:
    """Some containers show the machine's name of their group, and only their own folder."""
    for number, (files, line) in enumerate(
        (
            (group("", 8 * GIB, 5 * GIB, active_file=GIB), f"0::{ours}\n"),
            (group_of_version_1("", 8 * GIB, 5 * GIB, active_file=GIB), f"4:memory:{ours}\n"),
        )
    ):
        root = tree(tmp_path / str(number), 400 * GIB, line, files)
        assert free_memory.available_bytes(root) == 4 * GIB


def test_without_groups_the_machine_tells_and_without_it_there_is_a_guess(tmp_path: Path) -> None:
    root = tree(tmp_path / "machine", 3 * GIB, "0::/\n", {})
    assert free_memory.available_bytes(root) == 3 * GIB
    root = tree(tmp_path / "idle", 3 * GIB, "0::/\n", group("", 64 * GIB, GIB))
    assert free_memory.available_bytes(root) == 3 * GIB
    root = tree(tmp_path / "full", 3 * GIB, "0::/\n", group("", GIB, 2 * GIB))
    assert free_memory.available_bytes(root) == 0
    assert free_memory.available_bytes(tmp_path / "nothing") == 8 * GIB
    (tmp_path / "odd/proc/self").mkdir(parents=True)
    (tmp_path / "odd/proc/self/cgroup").write_text("no groups\n")
    (tmp_path / "odd/proc/meminfo").write_text("MemAvailable: much\n")
    assert free_memory.available_bytes(tmp_path / "odd") == 8 * GIB


def test_ranks_of_one_machine_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "available_bytes", lambda: 64 * GIB)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Pool(abs).budget == 16 * GIB  # no rank, whatever else the environment says
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Pool(abs).budget == 4 * GIB
    for odd in ("", "0", "many"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", odd)
        assert Pool(abs).budget == 16 * GIB
