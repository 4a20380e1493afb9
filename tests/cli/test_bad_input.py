"""What users get wrong and what goes wrong: said plainly, with the way out, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

import rhyme as toolkit
from media.test_archives import make, png
from rhyme.catalog import Catalog
from rhyme.errors import CatalogError, DataError
from rhyme.run import read_jsonl
from support.tiny_runs import (
    ALONE,
    catalog,
    contents,
    refused,
    rhyme,
    train,
    trained,
    videos,
    world,
)


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


def test_a_report_on_no_run() -> None:
    refused(rhyme("report"), 2, "give a RUN", "rhyme report runs/mine", "runs/base runs/mine")


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


@pytest.mark.parametrize("cached", [True, False])
def test_files_that_prove_damaged_are_told_once_and_counted(cached: bool, tmp_path: Path) -> None:
    folder, listed = tmp_path / "clips", tmp_path / "listed.arrow"
    bad = videos(folder, 20)[3]
    assert rhyme("scan", folder, "--out", listed, *ALONE).code == 0
    bad.write_bytes(bad.read_bytes()[:600])
    options = [] if cached else ["--data.cache-frames", "null", "--data.cache-size", "null"]
    run = tmp_path / "run"
    done = train("moco", run, "--json", "--split", "all", *options, data=listed)
    assert done.code == 3, done.err
    assert (done.document["damaged"], done.document["quarantined"]) == (1, 0)
    told = [row for row in read_jsonl(run / "events.jsonl") if row["event"] == "damaged"]
    assert [row["path"] for row in told] == [bad.name]
    assert "changed" in told[0]["reason"]
    again = rhyme("train", "--resume", run)
    assert again.code == 3, again.err
    assert "damaged files: 1" in again.out
    assert sum(row["event"] == "damaged" for row in read_jsonl(run / "events.jsonl")) == 1


def test_files_that_are_gone_are_all_told_before_training(tmp_path: Path) -> None:
    folder, listed, run = tmp_path / "clips", tmp_path / "listed.arrow", tmp_path / "run"
    made = videos(folder, 12)
    assert rhyme("scan", folder, "--out", listed, *ALONE).code == 0
    gone = sorted(path.name for path in made[2:9:3])
    for name in gone:
        (folder / name).unlink()
    done = train("moco", run, "--split", "all", data=listed)
    assert done.code == 3, done.err
    assert f"3 files are gone since the scan: {', '.join(gone)}; left out" in done.err
    events = [row for row in read_jsonl(run / "events.jsonl") if row["event"] == "quarantined"]
    assert [row["path"] for row in events] == gone
    assert all("gone" in row["reason"] and row["remedy"] for row in events)
    assert not any(row["event"] == "damaged" for row in read_jsonl(run / "events.jsonl"))
    used = Catalog.open(run / "catalog.arrow")
    assert {used.item(k).path for k in range(len(used))} == {p.name for p in made} - set(gone)

    judged = rhyme("evaluate", run, "--data", listed, "--protocol", "cycle")
    assert f"3 files are gone since the scan: {', '.join(gone)}" in judged.err, judged.err

    made[0].unlink()
    refused(
        train("moco", tmp_path / "more", "--split", "all", data=listed),
        1,
        "4 files are gone since the scan",
        folder,
    )
    assert not (tmp_path / "more").exists()


def test_files_that_cannot_be_embedded_are_named_and_counted(tmp_path: Path) -> None:
    folder, listed, store = tmp_path / "clips", tmp_path / "listed.arrow", tmp_path / "store"
    made = videos(folder, 8)
    assert rhyme("scan", folder, "--out", listed, *ALONE).code == 0
    made[0].unlink()
    for bad in made[1:7]:
        bad.write_bytes(bad.read_bytes()[:600])
    words = ("embed", trained("moco"), "--data", listed, "--store", store)
    done = rhyme(*words)
    assert done.code == 3, done.err
    assert f"1 file is gone since the scan: {made[0].name}; embedded without" in done.err
    assert "moments of 1 item, " in done.out
    assert "7 files could not be read, wholly or in part:" in done.out
    assert f"{made[0].name}: CatalogError: the file is gone since the scan" in done.out
    assert f"{made[1].name}: CatalogError: the file has changed since the scan" in done.out
    assert "and 2 more" in done.out
    assert "as damaged" not in done.out
    again = rhyme(*words, "--json")
    said = again.document
    assert (again.code, said["items"], said["embedded"], said["kept"]) == (3, 1, 0, 1)
    assert said["quarantined"] == 0
    assert set(said["failed"]) == {str(path.resolve()) for path in made[:7]}
    moments = toolkit.load(trained("moco"), device="cpu").embed(listed)
    assert set(moments.failed) == {path.name for path in made[:7]}
    assert set(moments.paths) == {made[7].name}


def test_data_that_are_gone_are_told_before_anything_is_embedded(tmp_path: Path) -> None:
    folder, listed, store = tmp_path / "clips", tmp_path / "listed.arrow", tmp_path / "store"
    made = videos(folder, 2)
    assert rhyme("scan", folder, "--out", listed, *ALONE).code == 0
    encoder = toolkit.load(trained("moco"), device="cpu")
    for path in made:
        path.unlink()
    words = ("embed", trained("moco"), "--data", listed, "--store", store)
    refused(rhyme(*words), 1, "2 files are gone since the scan", "2 of 2 items are lost", folder)
    with pytest.raises(DataError, match="2 files are gone"):
        encoder.embed(listed)
    folder.rmdir()
    refused(rhyme(*words), 1, "the data folder is gone", folder)
    with pytest.raises(CatalogError, match="the data folder is gone"):
        encoder.embed(Catalog.open(listed))
    assert not store.exists()


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
    told = rhyme("embed", tmp_path / "run", "--data", folder, "--store", tmp_path / "other")
    assert "3 left out as damaged" in told.out + told.err

    asked = ("evaluate", tmp_path / "run", "--protocol", "retrieval", "--untrained-seeds", "none")
    for data in ((), ("--data", folder)):
        judged = rhyme(*asked, *data, "--json")
        assert judged.code == 3, judged.err
        assert judged.document["quarantined"] == 3
        assert "3 files are left out as damaged" in judged.document["notes"][-1]
    page = ("report", tmp_path / "run", "--points", 0, "--data", folder)
    told = rhyme(*page, "--json")
    assert (told.code, told.document["quarantined"]) == (3, 3)
    assert "3 files are left out as damaged" in (tmp_path / "run" / "report.html").read_text()
    assert "3 left out as damaged" in rhyme(*page).out
    assert contents(folder) == before


def test_shards_that_are_all_for_training_cannot_be_judged(tmp_path: Path) -> None:
    """Published shards often come without a part to test on; their names say it."""
    folder, run = tmp_path / "shards", tmp_path / "run"
    folder.mkdir()
    for shard in range(2):
        held = {
            f"{k:04}.{end}": png(10 * k, size=32) if end == "png" else b"%d" % (k % 2)
            for k in range(12 * shard, 12 * shard + 12)
            for end in ("png", "cls")
        }
        make(folder / f"train-{shard:06}.tar", held)
    assert train("moco", run, data=folder).code == 0
    for asked in ([], ["--data", folder], ["--protocol", "cycle"]):
        judged = rhyme("evaluate", run, *asked)
        refused(judged, 1, "nothing is held out", folder, "--data DIR", "60/20/20")
    assert not (run / "results.jsonl").exists()
    for shard in range(2):
        (folder / f"train-{shard:06}.tar").rename(folder / f"{shard:06}.tar")
    again = tmp_path / "again"
    assert train("moco", again, data=folder).code == 0
    judged = rhyme("evaluate", again, "--protocol", "knn", "--frames", 1)
    assert judged.code == 0, judged.err


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
        ("nerv", "planned"),
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
     ("--segment", "2"), ("--path-column", "file")],
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
