from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rhyme.errors import CheckpointError, StorageError
from rhyme.media import patience
from rhyme.run import RunFolder, read_jsonl
from rhyme.training import checkpoint, latest
from rhyme.training.writer import Copies

OPERATIONS = ("write_bytes", "write_tensors", "sync_file", "sync_folder", "rename")


class Killed(BaseException):
    """The process ends here: nothing that catches errors may run."""


def payload(step: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    return {"w": torch.full((50,), float(step))}, {"step": step, "text": "x" * 100}


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return checkpoint.save(folder, step, *payload(step), keep=keep)


def assert_whole(path: Path, step: int) -> None:
    held = checkpoint.read(path)
    tensors, state = payload(step)
    assert held.step == step
    assert held.state == state
    assert torch.equal(held.tensors["w"], tensors["w"])


def test_round_trip_of_dtypes_and_values(tmp_path):
    tensors = {
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "count": torch.tensor(2**40),
        "empty": torch.empty(0, 3),
        "view": torch.arange(6.0).reshape(2, 3).T,
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    copies = Copies().take({**tensors, "same": tensors["flag"]})
    path = checkpoint.save(tmp_path, 1, copies, {"x": 0.1}, keep=1)
    held = checkpoint.read(path)
    for name, tensor in tensors.items():
        assert held.tensors[name].dtype == tensor.dtype
        assert torch.equal(held.tensors[name].nan_to_num(), tensor.nan_to_num())
    assert held.state["x"] == 0.1


def test_keeps_the_newest(tmp_path):
    for step in (1, 2, 3, 12, 100_000_000):
        save(tmp_path, step, keep=2)
    assert checkpoint.steps_on_disk(tmp_path) == [12, 100_000_000]
    assert checkpoint.newest(tmp_path) == tmp_path / "step-100000000"


def test_of_every_so_many_steps_one_stays_for_good(tmp_path):
    for step in range(1, 12):
        checkpoint.save(tmp_path, step, *payload(step), keep=2, keep_every=4)
    assert checkpoint.steps_on_disk(tmp_path) == [4, 8, 10, 11]


def test_a_file_has_the_mode_of_others(tmp_path):
    path = save(tmp_path, 1)
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_several_files_of_tensors_make_one_checkpoint(tmp_path):
    """As written by several ranks, one of which opens and commits."""
    draft = checkpoint.Draft(tmp_path, 3)
    draft.open()
    parts = {f"state-{rank}.safetensors": {f"w{rank}": torch.full((3,), rank)} for rank in (0, 1)}
    listed = {name: draft.add(name, tensors) for name, tensors in parts.items()}
    listed[checkpoint.STATE] = draft.add(checkpoint.STATE, b"{}")
    assert checkpoint.newest(tmp_path) is None
    held = checkpoint.read(draft.commit(listed))
    assert {name: int(t[0]) for name, t in held.tensors.items()} == {"w0": 0, "w1": 1}
    (held.path / "state-1.safetensors").unlink()
    assert checkpoint.problem(held.path) == "state-1.safetensors is missing"


def test_order_of_operations_is_durable(tmp_path, monkeypatch):
    done: list[tuple[str, str]] = []
    for name in OPERATIONS:
        true = getattr(checkpoint, name)

        def note(path, *rest, name=name, true=true):
            done.append((name, path.name.split("-")[0]))
            return true(path, *rest)

        monkeypatch.setattr(checkpoint, name, note)
    save(tmp_path, 7)
    files = ["state.safetensors", "state.json", "manifest.json"]
    writes = ("write_tensors", "write_bytes", "write_bytes")
    expected = [o for w, f in zip(writes, files, strict=True) for o in ((w, f), ("sync_file", f))]
    expected += [("sync_folder", ".writing"), ("rename", ".writing")]
    assert done == [*expected, ("sync_folder", tmp_path.name.split("-")[0])]


def fault_points(folder: Path, monkeypatch, steps: tuple[int, ...]) -> int:
    """How many disk operations the saves of ``steps`` take."""
    count = 0
    for name in OPERATIONS:
        true = getattr(checkpoint, name)

        def counted(*args, true=true):
            nonlocal count
            count += 1
            return true(*args)

        monkeypatch.setattr(checkpoint, name, counted)
    for step in steps:
        save(folder, step, keep=2)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize("when", ["before", "after", "within"])
def test_a_kill_at_any_operation_leaves_a_whole_checkpoint(tmp_path, monkeypatch, when):
    total = fault_points(tmp_path / "count", monkeypatch, (3, 4))
    assert total >= 18
    for point in range(1, total + 1):
        folder = tmp_path / f"{when}-{point}"
        save(folder, 1, keep=2)
        save(folder, 2, keep=2)
        count, finished = 0, [2]
        for name in OPERATIONS:
            true = getattr(checkpoint, name)

            def faulty(*args, name=name, true=true, point=point):
                nonlocal count
                count += 1
                if count == point and when == "before":
                    raise Killed
                if count == point and when == "within" and name.startswith("write"):
                    true(*args)
                    os.truncate(args[0], args[0].stat().st_size // 2)
                    raise Killed
                true(*args)
                if count == point:
                    raise Killed

            monkeypatch.setattr(checkpoint, name, faulty)
        with contextlib.suppress(Killed):
            for step in (3, 4):
                save(folder, step, keep=2)
                finished.append(step)
        assert count == point
        monkeypatch.undo()
        found = checkpoint.newest(folder)
        assert found is not None, f"nothing left after a kill {when} operation {point}"
        step = int(found.name.removeprefix("step-"))
        assert step >= finished[-1], "a finished checkpoint was lost"
        assert_whole(found, step)
        # The next part of the run writes on, and cleans up.
        save(folder, 5, keep=2)
        assert_whole(folder / "step-00000005", 5)
        assert all(entry.name.startswith("step-") for entry in folder.iterdir())


def test_a_damaged_folder_of_the_same_step_is_replaced_whatever_happens(tmp_path, monkeypatch):
    for point in range(1, 11):
        folder = tmp_path / str(point)
        save(folder, 1)
        (save(folder, 2) / "state.json").write_bytes(b"{}")
        count = 0
        for name in OPERATIONS:
            true = getattr(checkpoint, name)

            def faulty(*args, true=true, point=point):
                nonlocal count
                count += 1
                if count == point:
                    raise Killed
                true(*args)

            monkeypatch.setattr(checkpoint, name, faulty)
        with contextlib.suppress(Killed):
            save(folder, 2)
        monkeypatch.undo()
        found = checkpoint.newest(folder)
        assert found is not None
        assert_whole(found, int(found.name.removeprefix("step-")))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_full_or_read_only_disk_is_a_typed_error_and_harms_nothing(tmp_path, monkeypatch, name):
    save(tmp_path, 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, name, full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        save(tmp_path, 2)
    assert "room" in str(caught.value)
    monkeypatch.undo()
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert_whole(found, int(found.name.removeprefix("step-")))
    assert not [e for e in tmp_path.iterdir() if e.name.startswith(".writing")]


def test_every_flipped_byte_is_detected_and_passed_over(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    save(run.checkpoints, 1)
    path = save(run.checkpoints, 2)
    draw = random.Random(0)
    for number in range(200):
        file = path / draw.choice((checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST))
        before = file.read_bytes()
        place = draw.randrange(len(before))
        bent = (
            before[:place] + bytes([before[place] ^ (1 << draw.randrange(8))]) + before[place + 1 :]
        )
        file.write_bytes(bent)
        found = checkpoint.newest(run.checkpoints)
        if found == path:  # only whitespace or the like of the manifest may differ
            assert file.name == checkpoint.MANIFEST, number
            assert_whole(path, 2)
        else:
            assert found == run.checkpoints / "step-00000001", number
            with pytest.raises(CheckpointError):
                checkpoint.read(path)
        file.write_bytes(before)
    assert checkpoint.newest(run.checkpoints) == path


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
def test_latest_names_the_damage_in_an_event_and_falls_back(tmp_path, name):
    run = RunFolder.create(tmp_path / "run", {})
    save(run.checkpoints, 1)
    (save(run.checkpoints, 2) / name).unlink()
    assert latest(run) == run.checkpoints / "step-00000001"
    (event,) = read_jsonl(run.events)
    assert event["event"] == "checkpoint_damaged"
    assert name in event["cause"]


def test_latest_of_nothing_and_of_ruins(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    assert latest(run) is None
    (save(run.checkpoints, 1) / checkpoint.MANIFEST).write_text("[]")
    with pytest.raises(CheckpointError, match="whole"):
        latest(run)


def unsteady(monkeypatch, times: int, step: int, code: int = errno.ESTALE) -> None:
    """The storage fails, so often, under the checkpoint of a step."""
    true, left = checkpoint.sha256_file, [times]

    def read(path):
        if left[0] and checkpoint.folder_name(step) in str(path):
            left[0] -= 1
            raise OSError(code, os.strerror(code), str(path))
        return true(path)

    monkeypatch.setattr(checkpoint, "sha256_file", read)
    monkeypatch.setattr(patience, "PAUSES", (0.0, 0.0))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.filterwarnings("ignore:.*tried again")
def test_storage_that_fails_for_a_moment_costs_no_checkpoint(tmp_path, monkeypatch, code):
    run = RunFolder.create(tmp_path / "run", {})
    save(run.checkpoints, 1)
    path = save(run.checkpoints, 2)
    unsteady(monkeypatch, 1, 2, code)
    assert latest(run) == path
    assert read_jsonl(run.events) == []
    unsteady(monkeypatch, 1, 2, code)
    assert_whole(path, 2)


@pytest.mark.filterwarnings("ignore:.*tried again")
def test_storage_that_keeps_failing_is_no_damage(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", {})
    only = save(run.checkpoints, 2)
    unsteady(monkeypatch, 10**9, 2)
    with pytest.raises(StorageError, match="3 times") as caught:
        latest(run)
    assert "run the command again" in caught.value.remedy
    with pytest.raises(StorageError):
        checkpoint.read(only)
    save(run.checkpoints, 1)
    assert latest(run) == run.checkpoints / "step-00000001", "where there is another one"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"step": 9},
        {"files": {}},
        {"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"files": 3},
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path, change):
    path = save(tmp_path, 1)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    (path / checkpoint.MANIFEST).write_text(json.dumps({**manifest, **change}))
    assert checkpoint.newest(tmp_path) is None


@pytest.mark.slow
def test_kill_nine_at_random_moments(tmp_path):
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom rhyme.training import checkpoint\n"
        "folder = Path(sys.argv[1])\nstep = (checkpoint.steps_on_disk(folder) or [0])[-1]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    step += 1\n"
        "    checkpoint.save(folder, step, {'w': torch.full((20000,), float(step))},"
        " {'step': step}, keep=2)\n    print(step, flush=True)\n"
    )
    draw = random.Random(0)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(draw.uniform(0.02, 0.3))
            child.send_signal(signal.SIGKILL)
            finished = [int(line) for line in child.stdout.read().split("\n")[:-1]]
        found = checkpoint.newest(tmp_path)
        if finished:
            assert found is not None
            held = checkpoint.read(found)
            assert held.step >= finished[-1]
            assert float(held.tensors["w"][7]) == held.state["step"] == held.step
