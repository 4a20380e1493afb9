"""Judging and comparing as users type it: what is refused, and what else can be done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import rhyme as toolkit
from rhyme.api import judge
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError
from rhyme.evaluation import read_results
from rhyme.run import RunFolder
from support.tiny_runs import catalog, contents, refused, rhyme, train, trained, videos


def test_settings_of_a_protocol_that_is_not_measured_are_refused() -> None:
    run = trained("moco")
    before = contents(run)
    for option in ("--finetune.epochz", "--finetune.epochs"):
        done = rhyme("evaluate", run, "--protocol", "knn", option, 3)
        refused(done, 2, "'finetune'", "not measured", option[2:], "--protocol: knn,finetune")
    assert contents(run) == before
    done = rhyme("evaluate", run, "--protocol", "knn", "--fintune.epochs", 3)
    refused(done, 2, "unknown protocol 'fintune'", "finetune")


def test_seeds_of_the_untrained_encoders_are_those_asked_for(tmp_path: Path) -> None:
    run, rows = tmp_path / "run", tmp_path / "rows.jsonl"
    shutil.copytree(trained("moco"), run)
    asked = ("evaluate", run, "--protocol", "retrieval", "--results", rows)
    for given, seeds in (("5, 7", {5, 7}), ("none", set[int]())):
        rows.unlink(missing_ok=True)
        done = rhyme(*asked, "--seed", 5, "--untrained-seeds", given)
        assert done.code == 0, done.err
        found = read_results(rows)
        assert {r.seed for r in found if r.encoder == "untrained"} == seeds
        assert {r.settings["split_seed"] for r in found} == {5}
        assert any(r.encoder == "trained" for r in found)
    for wrong in ("0,x", "0 1", "", "1,none"):
        done = rhyme(*asked, "--untrained-seeds", wrong)
        refused(done, 2, "untrained encoders' seeds", "--untrained-seeds none")
    with pytest.raises(ConfigError, match="a seed must be"):
        toolkit.evaluate(run, untrained_seeds=(-1,))
    told = " ".join(rhyme("evaluate", "--help").out.split())
    assert "Seed of all that is drawn: splits, queries," in told


def other_split(path: Path) -> Path:
    """The world's catalog with half of the groups that were trained on among its test items."""
    known = Catalog.open(catalog())
    splits = list(known.table.column("split").to_pylist())
    train_rows = [row for row, split in enumerate(splits) if split == "train"]
    for row in train_rows[::2]:
        splits[row] = "test"
    known.with_splits(splits).save(path)
    return path


def test_groups_that_were_trained_on_are_left_out_or_judged_where_that_is_asked(
    tmp_path: Path,
) -> None:
    run, data = tmp_path / "run", other_split(tmp_path / "other.arrow")
    shutil.copytree(trained("moco"), run)
    asked = ("evaluate", run, "--data", data, "--protocol", "retrieval", "--json")
    done = rhyme(*asked)
    refused(done, 1, "trained on 12 of the test groups", "--seen drop", "--seen allow")
    assert "--seed" not in done.err, "the split is given, no seed draws it"
    assert not (run / "results.jsonl").exists()
    dropped = rhyme(*asked, "--seen", "drop")
    assert dropped.code == 0, dropped.err
    assert any("left out (12 items)" in note for note in dropped.document["notes"])
    allowed = rhyme(*asked, "--seen", "allow")
    assert allowed.code == 0, allowed.err
    rows = read_results(run / "results.jsonl")
    items = {r.settings["seen"]: r.details["test_items"] for r in rows}
    assert items == {"drop": 12, "allow": 24}
    done = toolkit.evaluate(run, data, protocols="retrieval", seen="drop", record=False)
    assert {row.settings["seen"] for row in done.results} == {"drop"}


def test_videos_that_were_trained_on_are_refused_under_other_groups_and_elsewhere(
    tmp_path: Path,
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(Catalog.open(catalog()).root, moved)
    asked = ("evaluate", trained("moco"), "--data", moved, "--labels", "none")
    refused(rhyme(*asked, "--protocol", "retrieval"), 1, "of them by their files", "--seen drop")


def test_a_folder_of_test_items_is_judged_where_nothing_is_fitted(tmp_path: Path) -> None:
    (tmp_path / "only" / "test").mkdir(parents=True)
    for name in ("a", "b"):
        videos(tmp_path / "only" / "test" / name, 2)
    run = shutil.copytree(trained("moco"), tmp_path / "run")
    asked = ("evaluate", run, "--data", tmp_path / "only", "--json")
    done = rhyme(*asked, "--protocol", "correspondence")
    assert done.code == 0, done.err
    assert {row["items"] > 0 for row in done.document["results"]} == {True}
    refused(rhyme(*asked, "--protocol", "knn"), 1, "the split 'train' has no items")


def test_a_drawn_split_is_told_as_drawn(tmp_path: Path) -> None:
    videos(tmp_path / "films", 12)
    run = shutil.copytree(trained("moco"), tmp_path / "run")
    asked = ("evaluate", run, "--data", tmp_path / "films", "--json", "--seed", 3)
    done = rhyme(*asked, "--protocol", "retrieval")
    assert done.code == 0, done.err
    assert done.document["notes"][0].startswith("60/20/20 by group, seed 3: train ")


def test_too_few_sources_for_a_split_are_told_with_what_helps(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    videos(folder, 2)
    out = tmp_path / "run"
    done = train("moco", out, "--train.batch-size", 2, data=folder)
    refused(done, 1, "fewer groups than splits", "at least 3 sources", "--split all")
    assert "1 0 0" not in done.err
    done = train("moco", out, "--train.batch-size", 2, "--split", "all", data=folder)
    assert done.code == 0, done.err


def test_a_run_that_holds_nothing_out_names_the_command_that_judges_it(tmp_path: Path) -> None:
    films = videos(tmp_path / "films", 24)
    (tmp_path / "others").mkdir()
    for film in films[:12]:
        film.rename(tmp_path / "others" / film.name)
    run = tmp_path / "run"
    done = train("moco", run, "--split", "all", data=tmp_path / "films")
    assert done.code == 0, done.err
    assert f"judge it: rhyme evaluate {run} --data FOLDER" in done.out
    assert rhyme("report", run).code == 0
    page = " ".join((run / "report.html").read_text().split())
    assert "the run held no videos out" in page
    assert f"rhyme evaluate {run} --data FOLDER" in page
    done = rhyme("evaluate", run, "--data", tmp_path / "others", "--untrained-seeds", "0")
    assert done.code == 0, done.err


def test_a_run_that_holds_videos_out_is_judged_on_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train("moco", run)
    assert f"judge it: rhyme evaluate {run}\n" in done.out
    assert rhyme("report", run).code == 0
    page = (run / "report.html").read_text()
    assert f"rhyme evaluate {run}" in page
    assert "--data FOLDER" not in page


def test_labels_are_given_for_the_runs_own_items(tmp_path: Path) -> None:
    run, table = tmp_path / "run", tmp_path / "kinds.csv"
    shutil.copytree(trained("moco"), run)
    own = Catalog.open(run / "catalog.arrow")
    paths = own.table.column("path").to_pylist()
    rows = [f"{path},{('round', 'edgy')[k % 2]},{k}" for k, path in enumerate(paths)]
    table.write_text("\n".join(["clip_name,kind,take", *rows]) + "\n")
    asked = ("evaluate", run, "--protocol", "knn", "--untrained-seeds", "none", "--json")
    named = ("--path-column", "clip_name", "--label-column", "kind")
    done = rhyme(*asked, "--labels", table, *named)
    assert done.code == 0, done.err
    row = done.document["results"][0]
    assert (row["settings"]["label_column"], row["details"]["classes"]) == ("kind", 2)
    assert row["details"]["test_items"] == own.splits.count("test")
    assert row["details"]["step"] == 6
    assert contents(run)["catalog.arrow"] == contents(trained("moco"))["catalog.arrow"]
    table.write_text("path,kind\nelsewhere.mp4,round\n")
    refused(rhyme(*asked, "--labels", table), 1, "not in the folder", "elsewhere.mp4")
    for option in ("--group-column", "--split-column"):
        refused(rhyme(*asked, "--labels", table, option, "kind"), 2, option, "add --data DIR")
    refused(rhyme(*asked, "--path-column", "path"), 2, "--path-column", "--labels FILE.csv")
    refused(rhyme(*asked, "--labels", "ucf101:lists"), 2, "their own split", "add --data DIR")
    done = rhyme(*asked, "--labels", "none")
    refused(done, 1, "nothing was measured", "no labels")


def test_rows_are_added_to_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, rows = tmp_path / "labels.csv", tmp_path / "rows.jsonl"
    table.write_text("path,label\na.mp4,run\n")
    (tmp_path / "notes.jsonl").write_text('{"step": 1}\n')
    before = contents(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(judge, "encoder_of", None)  # before anything is read
        for place, says in (
            (table, "another one"),
            (tmp_path / "notes.jsonl", "another one"),
            (tmp_path, "is a folder"),
            (table / "rows.jsonl", "cannot be written"),
        ):
            done = rhyme("evaluate", trained("moco"), "--results", place)
            refused(done, 2, "--results", says, place)
    assert contents(tmp_path) == before
    run = shutil.copytree(trained("moco"), tmp_path / "run")
    asked = ("evaluate", run, "--protocol", "retrieval", "--untrained-seeds", "none")
    rows.touch()
    counts = []
    for _ in range(2):
        assert rhyme(*asked, "--results", rows).code == 0
        counts.append(len(read_results(rows)))
    assert counts[1] == 2 * counts[0] > 0


def test_the_seed_that_draws_the_split_of_a_run_is_named(tmp_path: Path) -> None:
    run, films = tmp_path / "run", tmp_path / "films"
    videos(films, 20)
    done = train("moco", run, "--seed", 5, data=films)
    assert done.code == 0, done.err
    moved = shutil.move(films, tmp_path / "moved")
    asked = ("evaluate", run, "--data", moved, "--protocol", "retrieval")
    refused(rhyme(*asked), 1, "of the test groups", "--seed 5")
    done = rhyme(*asked, "--seed", 5)
    assert done.code == 0, done.err


def test_a_run_without_an_encoder_has_two_ways_to_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    shutil.rmtree(run / "encoder")
    export = f"rhyme export {run} --format package"
    refused(rhyme("evaluate", run), 1, "no encoder yet", f"--resume {run}", export)
    assert rhyme("export", run, "--format", "package").code == 0
    assert rhyme("evaluate", run, "--protocol", "retrieval").code == 0
    shutil.rmtree(run / "encoder")
    shutil.rmtree(RunFolder.open(run).checkpoints)
    done = rhyme("evaluate", run)
    refused(done, 1, "no encoder yet", f"--resume {run}")
    assert "export" not in done.err


def test_two_sets_of_data_of_one_name_are_told_apart(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained("moco"), run)
    for place, count in (("a", 16), ("b", 20)):
        (tmp_path / place).mkdir()
        clips = tmp_path / place / "clips"
        videos(clips, count)
        done = rhyme(
            "evaluate", run, "--data", clips, "--protocol", "retrieval", "--seen", "allow"
        )  # fmt: skip
        assert done.code == 0, done.err
    marks = {row.data_fingerprint[:8] for row in read_results(run / "results.jsonl")}
    assert len(marks) == 2
    shown = rhyme("compare", run, "--json").document
    assert {line["data"] for line in shown["lines"]} == {f"clips ({mark})" for mark in marks}
    assert any("several sets of data are called clips" in note for note in shown["notes"])
