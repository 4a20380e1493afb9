import os
import subprocess
import sys
from pathlib import Path

import pytest

from rhyme import run
from rhyme.errors import RunError


def test_atomic_write_keeps_the_old_content_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a" / "file.txt"
    run.atomic_write(target, "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        run.atomic_write(target, "new")
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_jsonl_survives_a_torn_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run.append_jsonl(log, {"a": 1})
    with log.open("a") as file:
        file.write('{"a": 2, "b')
    run.append_jsonl(log, {"a": 3, "bad": float("nan"), "name": "\udce4"})
    assert [row["a"] for row in run.read_jsonl(log)] == [1, 3]
    assert run.read_jsonl(log)[-1]["bad"] == "nan"
    assert run.read_jsonl(tmp_path / "none.jsonl") == []


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    folder = run.RunFolder.create(tmp_path / "r", {"seed": 1})
    folder.event("start", step=0)
    assert run.RunFolder.open(tmp_path / "r").config.read_text() == "seed: 1\n"
    with pytest.raises(RunError, match="not empty") as caught:
        run.RunFolder.create(tmp_path / "r", {"seed": 2})
    assert "--resume" in str(caught.value)
    assert folder.config.read_text() == "seed: 1\n"


def test_a_run_that_was_cut_short_in_its_beginning_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "r"

    def cut_short() -> None:
        with run.RunFolder.beginning(path, {"seed": 1}) as folder:
            folder.event("data", items=3)
            (path / "catalog.arrow").write_bytes(b"half")
            raise OSError(5, "cut")

    with pytest.raises(OSError, match="cut"):
        cut_short()
    (path / ".config.yaml.x1").write_bytes(b"")
    with pytest.raises(RunError, match=r"config\.yaml"):
        run.RunFolder.open(path)
    with run.RunFolder.beginning(path, {"seed": 2}):
        assert {p.name for p in path.iterdir()} == {"checkpoints", "events.jsonl"}
        with pytest.raises(RunError, match="another process"):
            run.RunFolder.create(path, {"seed": 3})
    assert run.RunFolder.open(path).config.read_text() == "seed: 2\n"
    with pytest.raises(RunError, match="not empty"):
        run.RunFolder.create(path, {"seed": 4})


@pytest.mark.parametrize("name", ["notes.txt", "metrics.jsonl", "catalog.arrow"])
def test_a_folder_of_something_else_is_never_begun(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("keep me")
    if name != "catalog.arrow":
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunError, match="not empty") as caught:
        run.RunFolder.create(tmp_path, {"seed": 1})
    assert "--resume" not in str(caught.value)
    assert (tmp_path / name).read_text() == "keep me"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such"):
        run.RunFolder.open(tmp_path / "missing")
    with pytest.raises(RunError, match=r"config\.yaml"):
        run.RunFolder.open(tmp_path)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = run.RunFolder.create(tmp_path / "r", {"seed": 1})
    again = run.RunFolder.open(tmp_path / "r")
    with folder.held():
        with pytest.raises(RunError, match="another process") as caught, again.held():
            pass
        assert "rhyme runs" in str(caught.value)
        folder.event("step")
    with again.held():
        again.event("step")
    assert len(run.read_jsonl(folder.events)) == 2


def test_a_killed_process_holds_no_run(tmp_path: Path) -> None:
    folder = run.RunFolder.create(tmp_path / "r", {"seed": 1})
    code = (
        "import sys, time\nfrom rhyme.run import RunFolder\n"
        "with RunFolder.open(sys.argv[1]).held():\n    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError), folder.held():
            pass
        other.kill()
    with folder.held():
        pass
