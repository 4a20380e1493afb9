"""What users get wrong and what goes wrong: said plainly, with the way out, and nothing is lost."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

import rhyme as toolkit
from rhyme.run import read_jsonl
from support.tiny_runs import (
    Outcome,
    catalog,
    contents,
    flags,
    rhyme,
    train,
    trained,
    world,
)

ALONE = ("--workers", 0)  # two processes need longer to start than a few files to be read


def refused(outcome: Outcome, code: int | None, *says: object) -> None:
    """The exit code (None: 1 or 2), the words, and no traceback."""
    assert outcome.code in ((1, 2) if code is None else (code,)), outcome.err
    for word in says:
        assert str(word) in outcome.err
    assert "remedy:" in outcome.err
    assert "Traceback" not in outcome.err + outcome.out


def videos(folder: Path, count: int) -> list[Path]:
    """Copy some of the world's videos into a new folder."""
    folder.mkdir()
    chosen = sorted((world() / "videos").rglob("*.mp4"))[:count]
    return [Path(shutil.copy(path, folder)) for path in chosen]


def write_still(path: Path, grey: int) -> None:
    """A video of one frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        pixels = np.full((32, 32, 3), grey, dtype=np.uint8)
        pixels[8:24, 8:24] = 255 - grey
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


# ---------------------------------------------------------------- folders


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "run"
    refused(train("moco", out, data=tmp_path / "empty"), 1, "no media", tmp_path / "empty", "mp4")
    assert not out.exists()
    refused(rhyme("scan", tmp_path / "empty"), 1, "no media", "mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize(("ending", "says"), [("txt", "no media among 3"), ("mp4", "n0.mp4")])
def test_a_folder_of_text(ending: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(3):
        (folder / f"n{i}.{ending}").write_text("hello\n")
    before = contents(folder)
    refused(train("moco", tmp_path / "run", data=folder), 1, says, folder)
    assert not (tmp_path / "run").exists()
    assert contents(folder) == before


def test_no_such_folder(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    refused(train("moco", tmp_path / "run", data=missing), 1, "no such file or folder", missing)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("system", ["cycle_contrast", "moco"])
def test_videos_of_one_frame_train(system: str, tmp_path: Path) -> None:
    """There is no other frame to draw: the same one is another view of itself."""
    folder = tmp_path / "stills"
    folder.mkdir()
    for i in range(15):
        write_still(folder / f"still{i:02}.mp4", 15 * i)
    done = train(system, tmp_path / "run", "--train.batch-size", "4", "--json", data=folder)
    assert done.code == 0, done.err
    assert np.isfinite(done.document["loss"])
    alone = toolkit.load(tmp_path / "run").embed(folder / "still00.mp4")
    assert alone.vectors.shape[0] == 1
    assert np.isfinite(alone.vectors).all()


def test_damaged_files_are_left_out_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    good = videos(folder, 20)
    head, text, empty = folder / "head.mp4", folder / "text.mp4", folder / "empty.mp4"
    head.write_bytes(good[0].read_bytes()[:600])
    text.write_text("this is a letter\n")
    empty.write_bytes(b"")
    before = contents(folder)

    scanned = rhyme("scan", folder, "--out", tmp_path / "c.catalog", *ALONE, "--json")
    assert scanned.code == 3, scanned.err
    rows = {row["path"]: row for row in scanned.document["quarantine"]}
    assert set(rows) == {head.name, text.name, empty.name}
    assert all(row["reason"] and row["remedy"] for row in rows.values())
    assert "TruncatedMedia" in rows[head.name]["reason"]
    assert "NotMedia" in rows[text.name]["reason"]
    assert "EmptyMedia" in rows[empty.name]["reason"]
    shown = rhyme("scan", folder, "--out", tmp_path / "again.catalog", *ALONE)
    assert shown.code == 3
    assert all(name in shown.out for name in rows)
    assert rows[head.name]["remedy"].split(":")[0] in shown.out

    done = train("moco", tmp_path / "run", "--json", data=folder)
    assert done.code == 3, done.err
    assert done.document["quarantined"] == 3
    assert done.document["steps"] == 6
    events = [
        r for r in read_jsonl(tmp_path / "run" / "events.jsonl") if r["event"] == "quarantined"
    ]
    assert {(r["path"], r["remedy"]) for r in events} == {
        (name, row["remedy"]) for name, row in rows.items()
    }
    assert "3 files left out" in done.err

    stored = rhyme(
        "embed", tmp_path / "run", "--data", folder, "--store", tmp_path / "store", "--json"
    )
    assert stored.code == 3, stored.err
    assert stored.document["quarantined"] == 3
    assert stored.document["moments"] == 20 * 2
    assert contents(folder) == before


def test_a_cut_video_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    cut = videos(folder, 20)[0]
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    scanned = rhyme("scan", folder, "--out", tmp_path / "c.catalog", *ALONE, "--json")
    assert scanned.document["facts"]["status"] == {"ok": 19, "partial": 1}
    done = train("moco", tmp_path / "run", "--json", data=folder)
    assert done.code == 0, done.err
    assert "1 files end early" in done.err
    events = read_jsonl(tmp_path / "run" / "events.jsonl")
    assert [row["path"] for row in events if row["event"] == "partial"] == [cut.name]
    moments = toolkit.load(trained("moco")).embed(cut, every=0.25)
    assert 1 <= len(moments.times) < 8
    assert moments.times.max() < 1.9


# ---------------------------------------------------------------- names and values


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--train.stepz", "3"], 2, ["train.stepz", "did you mean 'steps'"]),
        (["--model.quene", "3"], 2, ["model.quene", "did you mean 'queue'"]),
        (["--train.optimizer.lr", "fast"], 2, ["train.optimizer.lr", "fast"]),
        (["--train.batch-size", "0"], 2, ["batch_size", "0"]),
        (["--model.backbone.name", "resnet51"], 2, ["resnet51", "resnet50"]),
        (["--sed", "3"], 2, ["--seed", "rhyme train --help"]),
        (["--seed", "three"], 2, ["three", "rhyme train --help"]),
        (["--fold", "0"], 2, ["--split-column", "'0'"]),
        (["--device", "gpu"], 2, ["gpu", "cuda"]),
    ],
)
def test_mistyped_options(more: list[str], code: int, says: list[str], tmp_path: Path) -> None:
    refused(train("moco", tmp_path / "run", *more), code, *says)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "name", "near"),
    [
        ("--label-column", "appearence", "did you mean 'appearance'"),
        ("--split-column", "splitt", "did you mean 'split'"),
        ("--group-column", "gruop", "did you mean 'group'"),
    ],
)
def test_mistyped_columns(flag: str, name: str, near: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(
        train("moco", out, flag, name, data=world()), 2, repr(name), near, world() / "labels.csv"
    )
    assert not out.exists()


def test_a_column_of_folds_needs_a_fold_that_exists(tmp_path: Path) -> None:
    out = tmp_path / "run"
    folds = ["--split-column", "pattern"]
    refused(train("moco", out, *folds, data=world()), 2, "--fold VALUE", "'striped'")
    refused(train("moco", out, *folds, "--fold", "stripes", data=world()), 2, "stripes", "striped")
    assert not out.exists()


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("mocco", "did you mean 'moco'"),
        ("cycle_contrast_world_dem", "did you mean 'cycle_contrast_world_demo'"),
        ("simclr", "planned"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_mistyped_recipes(recipe: str, says: str, tmp_path: Path) -> None:
    done = rhyme("train", recipe, "--data", catalog(), "--out", tmp_path / "run")
    assert done.code == 2
    assert says in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    ["a: [1", "system: moco\nname: x\n", "- 1\n", "system: !!python/name:os.system\nname: x\n"],
)
def test_broken_recipe_files(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    done = rhyme("train", file, "--data", catalog(), "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.startswith("rhyme: ")
    assert not (tmp_path / "run").exists()


def test_mistyped_protocols_and_columns_when_judging() -> None:
    run = trained("moco")
    before = contents(run)
    refused(rhyme("evaluate", run, "--protocol", "knnn"), 2, "'knnn'", "did you mean 'knn'")
    refused(rhyme("evaluate", run, "--label-column", "apearance"), 2, "apearance", "did you mean")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--split-column", "motion"), ("--fold", "0"), ("--group-column", "colour"),
     ("--segment", "2"), ("--labels", "none")],
)  # fmt: skip
def test_options_on_a_folder_need_a_folder(flag: str, value: str) -> None:
    run = trained("moco")
    before = contents(run)
    refused(rhyme("evaluate", run, flag, value), 2, flag, "--data")
    refused(rhyme("train", "--resume", run, flag, value), 2, "keeps", f"--resume {run}")
    assert contents(run) == before


def test_a_recipe_for_gpus_on_a_cpu(tmp_path: Path) -> None:
    for system in ("cycle_contrast", "moco"):
        done = rhyme(
            "train", f"{system}_r2v2_8gpu", "--data", catalog(), "--out", tmp_path / "run",
            "--device", "cpu",
        )  # fmt: skip
        refused(done, 2, f"{system}_r2v2_8gpu", f"rhyme train {system}", "needs_gpu")
    assert not (tmp_path / "run").exists()


def test_fewer_items_than_a_batch(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train("moco", out, "--train.batch-size", "64")
    refused(done, 1, "24", "64", "batch")
    assert not out.exists() or not any(out.iterdir()), "the corrected command must be able to run"


# ---------------------------------------------------------------- runs


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
    assert toolkit.load(run).package.hash == toolkit.load(trained("moco")).package.hash


def test_when_every_checkpoint_is_damaged_nothing_is_thrown_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    for file in (run / "checkpoints").rglob("state.safetensors"):
        flip(file)
    before = contents(run / "checkpoints") | contents(run / "encoder")
    refused(rhyme("train", "--resume", run), 1, "checkpoint", run)
    assert contents(run / "checkpoints") | contents(run / "encoder") == before


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
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    assert rhyme("evaluate", run, "--protocol", "retrieval").code == 0
    before = contents(run)
    with monkeypatch.context() as patched:
        patched.setattr(result, "append_jsonl", full)
        done = rhyme("evaluate", run, "--protocol", "retrieval")
    refused(done, 1, "No space left", run / "results.jsonl")
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
