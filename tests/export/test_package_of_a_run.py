"""The encoder package of a run that is not at its end, and packages that are replaced under way."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

import rhyme.api as toolkit
from rhyme.encoders import InferencePlan, build_backbone, files, load_package, save_package
from rhyme.errors import CheckpointError
from rhyme.run import RunFolder, swap
from rhyme.training import checkpoint
from support.tiny_runs import contents, refused, rhyme, train, trained

PLAN = InferencePlan(size=32, resize=36)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run as it is between its checkpoints 4 and 6: nothing is exported yet."""
    run = tmp_path / "moco"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "encoder")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    return run


def test_the_package_of_the_last_checkpoint_is_that_of_the_run(tmp_path: Path) -> None:
    run, out = trained("moco"), tmp_path / "encoder"
    before = contents(run)
    done = rhyme("export", run, "--format", "package", "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.document == {"path": str(out), "step": 6}
    assert contents(run) == before
    ours, theirs = load_package(out), load_package(run / "encoder")
    assert ours.hash == theirs.hash
    assert ours.card == theirs.card
    assert ours.extra == theirs.extra


def test_the_package_of_a_stopped_run_goes_into_it(stopped: Path) -> None:
    before = contents(stopped)
    done = rhyme("export", stopped, "--format", "package")
    assert done.code == 0, done.err
    assert "step 4" in done.out
    after = contents(stopped)
    assert {name for name in after if after[name] != before.get(name)} == {
        f"encoder/{name}" for name in (files.WEIGHTS, files.CONFIG, files.PLAN, files.CARD)
    }
    package = toolkit.load(stopped).package
    assert package.card["step"] == 4
    assert package.hash != toolkit.load(trained("moco")).package.hash
    assert rhyme("evaluate", stopped, "--protocol", "retrieval").code == 0
    assert rhyme("train", "--resume", stopped).code == 0
    assert toolkit.load(stopped).package.hash == toolkit.load(trained("moco")).package.hash


def test_a_run_exports_on_its_way(tmp_path: Path) -> None:
    """What is there after the last step is what a run without it has."""
    run, seen = tmp_path / "moco", []
    true = files.write_folder

    def noted(target, content, *, overwrite=False):
        true(target, content, overwrite=overwrite)
        seen.append(load_package(target).card["step"])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rhyme.encoders.package.write_folder", noted)
        assert train("moco", run, "--train.export-every", 3).code == 0
    assert seen == [3, 6]
    assert toolkit.load(run).package.hash == toolkit.load(trained("moco")).package.hash


def test_a_checkpoint_that_is_dropped_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that keeps one checkpoint writes its 6 and drops its 4 while that is being read."""
    run, later = tmp_path / "moco", tmp_path / "later"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    (run / "checkpoints" / "step-00000006").rename(later)
    true = checkpoint.problem

    def meanwhile(path: Path) -> str | None:
        if later.exists():
            later.rename(run / "checkpoints" / "step-00000006")
            shutil.rmtree(path)
        return true(path)

    monkeypatch.setattr(checkpoint, "problem", meanwhile)
    assert toolkit.export_package(run, tmp_path / "out").step == 6


def test_a_run_without_checkpoints_says_when_there_will_be_one(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    refused(rhyme("export", stopped, "--format", "package"), 1, "no checkpoint", "--resume")


def test_a_changed_configuration_is_refused_with_the_difference(stopped: Path) -> None:
    config = stopped / "config.yaml"
    config.write_text(config.read_text().replace("queue: 32", "queue: 48"))
    with pytest.raises(CheckpointError, match="configuration") as caught:
        toolkit.export_package(stopped)
    assert "32 -> 48" in str(caught.value.value)
    assert not (stopped / "encoder").exists()


def test_an_existing_folder_is_not_replaced_and_a_place_is_asked_for(stopped: Path) -> None:
    out = stopped.parent / "full"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    refused(rhyme("export", stopped, "--format", "package", "--out", out), 1, out)
    refused(rhyme("export", trained("moco"), "--format", "hub"), 2, "--out")
    assert contents(out) == {"mine.txt": b"x"}


# ---- replacing


def packages(folder: Path) -> tuple[Path, Path]:
    pair = folder / "one", folder / "two"
    for seed, path in enumerate(pair):
        save_package(path, build_backbone("small", seed=seed), PLAN, card={"title": str(seed)})
    return pair


@pytest.mark.parametrize("by_system", [True, False])
def test_a_kill_while_replacing_leaves_a_whole_package(tmp_path, monkeypatch, by_system):
    """The world stops around every change of a name."""

    class Killed(BaseException):
        pass

    if not by_system:
        monkeypatch.setattr(files, "swap", lambda one, other: False)
    true_swap, true_rename, point = files.swap, Path.rename, 0
    while True:
        point += 1
        folder = tmp_path / str(point)
        folder.mkdir()
        old, new = packages(folder)
        whole = {load_package(p).hash for p in (old, new)}
        fresh = {p.name: p.read_bytes() for p in new.iterdir()}
        count = 0

        def stop(true, *args, point=point):
            nonlocal count
            count += 1
            if count == point:
                raise Killed
            return true(*args)

        with monkeypatch.context() as patched:
            patched.setattr(files, "swap", lambda *a, s=stop: s(true_swap, *a))
            patched.setattr(Path, "rename", lambda *a, s=stop: s(true_rename, *a))
            patched.setattr(files.shutil, "rmtree", lambda *a, **k: None)
            try:
                files.write_folder(old, fresh, overwrite=True)
            except Killed:
                if by_system:
                    assert load_package(old).hash in whole
                continue
            break
    assert load_package(old).hash == load_package(new).hash
    assert point == (2 if by_system else 4)


def test_who_reads_while_a_package_is_replaced_gets_the_old_one_or_the_new(tmp_path):
    if not can_swap(tmp_path):
        pytest.skip("the system cannot let two folders trade names")
    old, new = packages(tmp_path)
    whole = {load_package(p).hash for p in (old, new)}
    contents = [{p.name: p.read_bytes() for p in path.iterdir()} for path in (old, new)]
    over = threading.Event()

    def replace() -> None:
        while not over.is_set():
            for files_of in contents:
                files.write_folder(old, files_of, overwrite=True)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = {load_package(old).hash for _ in range(60)}
        end = time.monotonic() + 30  # until both were met: reader and writer may keep step
        while seen < whole and time.monotonic() < end:
            seen.add(load_package(old).hash)
    finally:
        over.set()
        writer.join()
    assert seen == whole
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two", "a", "b"}


def can_swap(folder: Path) -> bool:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "name").write_text(name)
    if not swap(folder / "a", folder / "b"):
        return False
    assert (folder / "a" / "name").read_text() == "b"
    return True


def test_swap_changes_nothing_where_it_cannot(tmp_path):
    (tmp_path / "a").mkdir()
    assert not swap(tmp_path / "a", tmp_path / "missing")
    assert (tmp_path / "a").is_dir()


def test_the_document_of_a_run_names_its_run(stopped: Path) -> None:
    toolkit.export_package(stopped, stopped.parent / "out")
    card = json.loads((stopped.parent / "out" / files.CONFIG).read_text())["card"]
    assert (card["run"], card["recipe"]) == (RunFolder(stopped).path.name, "moco_world_demo")
