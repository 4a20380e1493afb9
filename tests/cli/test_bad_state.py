"""Runs, stores, outputs and disks that are not as they should be: named, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import rhyme as toolkit
from rhyme.catalog import Catalog
from rhyme.errors import RunError
from rhyme.run import RunFolder, read_jsonl
from support.tiny_runs import (
    ALONE,
    catalog,
    contents,
    flags,
    refused,
    rhyme,
    train,
    trained,
    videos,
    world,
)


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    before = contents(run)
    refused(train("cycle_contrast", run), 1, "exists", run, f"--resume {run}")
    assert contents(run) == before
    letter = tmp_path / "letter"
    letter.write_text("dear reader")
    refused(train("moco", letter), 1, letter)
    assert letter.read_text() == "dear reader"
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("keep me")
    refused(train("moco", notes), 1, notes)
    assert contents(notes) == {"a.txt": b"keep me"}


def test_resume_keeps_the_recipe(tmp_path: Path) -> None:
    run = trained("moco")
    before = contents(run)
    refused(rhyme("train", "--resume", run, "--train.steps", "9"), 2, "keeps its recipe")
    refused(rhyme("train", "moco", "--resume", run), 2, "keeps its recipe")
    refused(rhyme("train", "--resume", run, "--data", world()), 2, "keeps", world())
    refused(rhyme("train", "--resume", run, "--out", tmp_path / "new"), 2, "keeps", "new")
    refused(rhyme("train", "--resume", tmp_path / "nope"), 1, "no such run", tmp_path / "nope")
    (tmp_path / "other").mkdir()
    refused(rhyme("train", "--resume", tmp_path / "other"), 1, "config.yaml")
    assert contents(run) == before


def test_a_run_that_trains_elsewhere_is_not_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    before = contents(run)
    with RunFolder.open(run).held():
        refused(rhyme("train", "--resume", run), 1, "another process trains", run, "rhyme runs")
    assert contents(run) == before


def test_a_run_without_checkpoints_begins_again(tmp_path: Path) -> None:
    run = tmp_path / "moco"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "encoder")
    done = rhyme("train", "--resume", run, "--json")
    assert done.code == 0, done.err
    assert done.document["steps"] == 6
    assert toolkit.load(run).package.hash == toolkit.load(trained("moco")).package.hash


def flip(path: Path) -> None:
    """Flip the bits of a byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.safetensors", flip),
        ("state.safetensors", Path.unlink),
        ("state.json", cut_short),
        ("manifest.json", cut_short),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    name: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    run = tmp_path / "moco"
    shutil.copytree(trained("moco"), run)
    damage(run / "checkpoints" / "step-00000006" / name)
    done = rhyme("train", "--resume", run, "--json")
    assert done.code == 0, done.err
    events = read_jsonl(run / "events.jsonl")
    assert [e["checkpoint"] for e in events if e["event"] == "checkpoint_damaged"] == [
        "step-00000006"
    ]
    assert [e["step"] for e in events if e["event"] == "resumed"] == [4]
    assert "checkpoint step-00000006 is damaged and passed over" in done.err
    assert "goes on from step 4 of 6" in done.err
    assert toolkit.load(run).package.hash == toolkit.load(trained("moco")).package.hash


def test_when_every_checkpoint_is_damaged_nothing_is_thrown_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    for file in (run / "checkpoints").rglob("state.safetensors"):
        flip(file)
    before = contents(run / "checkpoints") | contents(run / "encoder")
    refused(rhyme("train", "--resume", run), 1, "checkpoint", run)
    assert contents(run / "checkpoints") | contents(run / "encoder") == before


@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_a_damaged_catalog_of_a_run_is_told_with_what_helps_a_run(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    damage(run / "catalog.arrow")
    done = rhyme("train", "--resume", run)
    refused(done, 1, run / "catalog.arrow", "restore this file from a copy, or begin a new run")
    assert "scan" not in done.err


def test_a_damaged_encoder_is_not_used(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    flip(run / "encoder" / "weights.safetensors")
    store = tmp_path / "store"
    refused(rhyme("embed", run, "--data", catalog(), "--store", store), 1, "weights.safetensors")
    assert not store.exists()
    refused(rhyme("evaluate", run), 1, "weights.safetensors")
    assert not (run / "results.jsonl").exists()


@pytest.mark.parametrize(
    "arguments",
    [["report", "{}"], ["evaluate", "{}"], ["compare", "{}"], ["runs", "{}"],
     ["export", "{}", "--out", "x.pt2"], ["search", "{}", "--query", "a.mp4"]],
)  # fmt: skip
def test_a_folder_that_does_not_exist(arguments: list[str], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    refused(rhyme(*(a.format(missing) for a in arguments)), 1, "no such", missing)
    assert not missing.exists()


def test_a_run_that_does_not_exist_cannot_go_on(tmp_path: Path) -> None:
    refused(rhyme("train", "--resume", tmp_path / "missing"), 1, "no such run", "rhyme runs")


def test_an_export_is_not_written_over(tmp_path: Path) -> None:
    words = ["export", trained("moco"), "--format", "hub", "--out", tmp_path / "hub"]
    assert rhyme(*words).code == 0
    again = rhyme(*words)
    refused(again, 1, tmp_path / "hub", "choose another folder, or delete this one")
    assert "overwrite" not in again.err


def test_runs_that_were_not_evaluated_cannot_be_compared() -> None:
    refused(rhyme("compare", trained("moco")), 1, "no results", "rhyme evaluate")


def test_an_export_of_another_kind_or_ending_is_refused(tmp_path: Path) -> None:
    run, out = trained("moco"), tmp_path / "encoder.onnx"
    refused(rhyme("export", run, "--out", out), 2, out, ".pt2")
    refused(rhyme("export", run, "--out", out, "--format", "onnx"), 2, "onnx", "torch")
    assert not out.exists()


# ---------------------------------------------------------------- stores


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world, embedded by the MoCo run."""
    folder = tmp_path_factory.mktemp("store") / "world.store"
    done = rhyme("embed", trained("moco"), "--data", catalog(), "--store", folder)
    assert done.code == 0, done.err
    return folder


def test_a_store_of_another_encoder_is_left_alone(store: Path) -> None:
    before = contents(store)
    refused(
        rhyme("embed", trained("cycle_contrast"), "--data", catalog(), "--store", store),
        1, "belongs to the encoder", store, "new folder",
    )  # fmt: skip
    assert contents(store) == before


def test_queries_that_cannot_be_answered(store: Path, tmp_path: Path) -> None:
    film = next((world() / "videos" / "val").glob("*.mp4"))
    letter = tmp_path / "letter.mp4"
    letter.write_text("dear reader")
    before = contents(store)
    for query, code, says in (
        (f"{film}@99", 2, ["99.0", film, "2.00"]),
        (f"{film}@-1", 2, ["-1", "FILE@SECONDS"]),
        (f"{film}@noon", 1, ["no such file", "FILE@SECONDS"]),
        (tmp_path / "gone.mp4@1", 1, ["no such file", "gone.mp4"]),
        (f"{letter}@0", 1, ["text, not media", letter]),
    ):
        refused(rhyme("search", store, "--query", query), code, *says)
    done = rhyme("search", store, "--query", film, "-k", "0")
    assert done.code == 2
    assert "k must be at least 1" in done.err
    assert contents(store) == before


def test_hits_without_a_sheet(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "a store"))
    film = next((world() / "videos" / "val").glob("*.mp4"))
    asked = ("search", copy, "--query", f"{film}@0.5", "-k", 2)
    before = contents(copy)
    done = rhyme(*asked, "--sheet", "none", "--json")
    assert (done.code, done.document["sheet"], len(done.document["hits"])) == (0, None, 2)
    assert "0.500" in rhyme(*asked, "--sheet", "none").out
    assert contents(copy) == before
    (copy / "sheet.png").mkdir()
    done = rhyme(*asked)
    assert done.code == 0, done.err
    assert film.name in done.out
    assert "no contact sheet" in done.out
    assert "contact sheet: " not in done.out.replace("no contact sheet: ", "")


def test_a_damaged_store_is_not_searched(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.store"
    shutil.copytree(store, copy)
    vectors = max(copy.rglob("vectors*"), key=lambda p: p.stat().st_size)
    cut_short(vectors)
    film = next((world() / "videos" / "val").glob("*.mp4"))
    refused(rhyme("search", copy, "--query", film), 1, vectors.name)
    assert not (copy / "sheet.png").exists()


# ---------------------------------------------------------------- outputs in the wrong place


def test_no_output_takes_the_place_of_a_video(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    film = videos(folder, 3)[0]
    before = contents(folder)
    refused(rhyme("scan", folder, "--out", film, *ALONE), None, film)
    refused(rhyme("report", trained("moco"), "--out", film), None, film)
    refused(rhyme("search", store, "--query", film, "--sheet", film), None, film)
    refused(rhyme("export", trained("moco"), "--out", film), None, film)
    refused(rhyme("embed", trained("moco"), "--data", catalog(), "--store", folder), 1, folder)
    refused(rhyme("export", trained("moco"), "--format", "hub", "--out", folder), 1, folder)
    refused(rhyme("world", "--out", folder, "--videos", "5"), 1, folder)
    assert contents(folder) == before


def test_outputs_may_not_be_folders(tmp_path: Path) -> None:
    refused(rhyme("report", trained("moco"), "--out", tmp_path), None, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- data that moved


def test_data_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    videos(folder, 20)
    run = tmp_path / "run"
    assert train("moco", run, data=folder).code == 0
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    folder.rename(tmp_path / "elsewhere")
    before = contents(run / "checkpoints")
    refused(rhyme("train", "--resume", run), None, folder)
    refused(rhyme("evaluate", run), None, folder)
    assert contents(run / "checkpoints") == before
    (tmp_path / "elsewhere").rename(folder)
    assert rhyme("train", "--resume", run).code == 0


def test_files_that_are_gone_are_all_told_before_a_run_goes_on(tmp_path: Path) -> None:
    folder, run = tmp_path / "clips", tmp_path / "run"
    made = videos(folder, 20)
    uncached = ["--data.cache-frames", "null", "--data.cache-size", "null"]
    assert train("moco", run, "--split", "all", *uncached, data=folder).code == 0
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    listed = (run / "catalog.arrow").read_bytes()
    gone, kept = made[3:14:5], tmp_path / "kept"
    kept.mkdir()
    for path in (*gone, made[0]):
        shutil.move(path, kept)
    before = contents(run)
    refused(
        rhyme("train", "--resume", run), 1, "4 files are gone since the scan",
        *(path.name for path in gone), folder, "put them back",
    )  # fmt: skip
    assert {n: b for n, b in contents(run).items() if n in before} == before

    shutil.move(kept / made[0].name, folder)
    done = rhyme("train", "--resume", run)
    assert done.code == 3, done.err
    names = ", ".join(path.name for path in gone)
    assert f"3 files are gone since the scan: {names}; others take their place" in done.err
    assert done.err.index("are gone") < done.err.index("step 6/6")
    events = read_jsonl(run / "events.jsonl")
    (told,) = [row for row in events if row["event"] == "missing"]
    assert told["first"] == [path.name for path in gone]
    damaged = {row["path"] for row in events if row["event"] == "damaged"}
    assert damaged, "those that came were replaced"
    assert damaged <= set(told["first"])
    assert (run / "catalog.arrow").read_bytes() == listed, "the order of items hangs on it"


def test_data_that_were_staged_again_go_on_and_are_judged(tmp_path: Path) -> None:
    """The same bytes at the same place with new times, as `cp -r` and restores leave them."""
    folder, run = tmp_path / "clips", tmp_path / "run"
    made = videos(folder, 20)
    assert train("moco", run, data=folder).code == 0
    for path in made:
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    done = rhyme("train", "--resume", run)
    assert done.code == 0, done.err
    assert done.err.count("taken for a fresh copy") == 1
    events = [row["event"] for row in read_jsonl(run / "events.jsonl")]
    assert events.count("staged_again") == 1
    assert "damaged" not in events
    judged = rhyme("evaluate", run, "--protocol", "cycle")
    assert judged.code == 0, judged.err
    assert "taken for a fresh copy" in judged.err


def test_a_run_whose_files_changed_is_told_how_to_mend_it(tmp_path: Path) -> None:
    folder, run = tmp_path / "clips", tmp_path / "run"
    made = videos(folder, 20)
    assert train("moco", run, "--split", "all", data=folder).code == 0
    for path in made[:8]:
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    refused(rhyme("train", "--resume", run), 1, "has changed", "cp -a", "begin a new run")


def test_only_files_to_train_on_matter_when_a_run_goes_on(tmp_path: Path) -> None:
    folder, run = tmp_path / "clips", tmp_path / "run"
    videos(folder, 20)
    uncached = ["--data.cache-frames", "null", "--data.cache-size", "null"]
    assert train("moco", run, *uncached, data=folder).code == 0
    listed = Catalog.open(run / "catalog.arrow")
    split = {listed.item(i).path: listed.item(i).split for i in range(len(listed))}
    for name in (name for name, part in split.items() if part == "test"):
        (folder / name).unlink()
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    done = rhyme("train", "--resume", run)
    assert done.code == 0, done.err
    assert "gone" not in done.err
    for name in (name for name, part in split.items() if part == "train"):
        (folder / name).unlink()
    done = rhyme("train", "--resume", run)
    assert done.code == 0, f"a finished run needs no file: {done.err}"
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    refused(rhyme("train", "--resume", run), 1, "12 files are gone", "begin a new run")


def test_one_broken_run_hides_no_other(tmp_path: Path) -> None:
    shutil.copytree(trained("moco"), tmp_path / "whole")
    shutil.copytree(trained("moco"), tmp_path / "broken")
    (tmp_path / "broken" / "config.yaml").write_text("system: [")
    listed = rhyme("runs", tmp_path, "--json")
    assert listed.code == 0, listed.err
    states = {Path(line["path"]).name: line["state"] for line in listed.document}
    assert states == {"whole": "finished", "broken": "unreadable"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--device", "tpu"], "tpu"),
        (["--protocol", ","], "knn"),
        (["--frames", "0"], "frames"),
        (["--seed", "-4"], "seed"),
    ],
)
def test_values_that_judging_cannot_use(more: list[str], says: str) -> None:
    done = rhyme("evaluate", trained("moco"), *more)
    assert done.code in (1, 2), done.err
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (trained("moco") / "results.jsonl").exists()


# ---------------------------------------------------------------- a full disk


def test_a_full_disk_while_saving_keeps_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rhyme.training import checkpoint

    write = checkpoint.write_bytes

    def full_after_step_four(path: Path, data: bytes) -> None:
        if "00000006" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    run = tmp_path / "moco"
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_bytes", full_after_step_four)
        done = train("moco", run)
    refused(done, 1, "No space left", run)
    steps = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert steps == ["step-00000002", "step-00000004"]
    resumed = rhyme("train", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert toolkit.load(run).package.hash == toolkit.load(trained("moco")).package.hash


def test_a_full_disk_while_results_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rhyme.evaluation import result

    def full(path: Path, row: object) -> None:
        raise RunError("a row could not be written: No space left on device", file=path)

    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    assert rhyme("evaluate", run, "--protocol", "retrieval").code == 0
    before = contents(run)
    with monkeypatch.context() as patched:
        patched.setattr(result, "append_jsonl", full)
        done = rhyme("evaluate", run, "--protocol", "retrieval", "--json")
    assert done.code == 1, done.err
    assert list(done.document["unsaved"]) == [str(run / "results.jsonl")]
    (told,) = (note for note in done.document["notes"] if note.startswith("NOT SAVED"))
    assert "No space left" in told
    assert done.document["results"], "what was measured is told"
    assert contents(run) == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The parent of the run is a file."""
    (tmp_path / "file").write_text("x")
    done = rhyme(
        "train", "moco_world_demo", "--data", catalog(), "--out", tmp_path / "file" / "run",
        *flags({"train.batch_size": 8}),
    )  # fmt: skip
    refused(done, 1, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
