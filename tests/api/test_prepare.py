"""``rhyme prepare`` from the command line, and commands that read its shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rhyme import api
from rhyme.catalog import Catalog, scan
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


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    done = rhyme("prepare", catalog(), "--out", folder, "--size", 24, *ALONE, "--json")
    assert done.code == 0, done.err
    told = done.document
    assert (told["items"], told["frames"]) == (44, 44 * 16)
    assert 20 < told["psnr_worst"] < told["psnr_mean"] < 60
    assert told["bytes"] == sum(p.stat().st_size for p in folder.glob("shard-*.frames"))
    assert told["ratio"] == pytest.approx(told["bytes"] / told["source_bytes"])
    assert "44 files" in done.err
    return folder


def test_people_see_a_table_and_an_estimate(tmp_path: Path) -> None:
    videos(tmp_path / "films", 3)
    (tmp_path / "films" / "bad.mp4").write_bytes(b"not a film")
    done = rhyme("prepare", tmp_path / "films", "--out", tmp_path / "shards", *ALONE)
    assert done.code == 3, done.err
    for word in ("items", "PSNR", "worst frame", "times as many", "bad.mp4", "rhyme train"):
        assert word in done.out
    assert "are free" in done.err


def test_two_steps_on_shards_are_those_on_films(shards: Path, tmp_path: Path) -> None:
    short = ("--train.steps", 2, "--data.cache-frames", "null", "--data.cache-size", "null")
    raw = train("cycle_contrast", tmp_path / "raw", *short)
    small = train("cycle_contrast", tmp_path / "small", *short, data=shards)
    assert raw.code == small.code == 0, small.err
    assert "prepared shards" in small.err
    assert "prepared shards" not in raw.err
    first, second = (
        next(r for r in read_jsonl(tmp_path / run / "events.jsonl") if r["event"] == "data")
        for run in ("raw", "small")
    )
    assert first["fingerprint"] == second["fingerprint"]
    assert first["prepared"] is None
    assert "PSNR" in second["prepared"]
    a, b = (Catalog.open(tmp_path / run / "catalog.arrow") for run in ("raw", "small"))
    assert a.splits == b.splits
    assert a.labels()[0].tolist() == b.labels()[0].tolist()
    losses = [read_jsonl(tmp_path / run / "metrics.jsonl")[0]["loss"] for run in ("raw", "small")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_shards_are_judged_embedded_and_searched(shards: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained("moco"), tmp_path / "run")
    judged = rhyme("evaluate", run, "--data", shards, "--protocol", "knn", "--json")
    assert judged.code == 0, judged.err
    assert any("prepared shards" in note for note in judged.document["notes"])
    store = tmp_path / "store"
    assert rhyme("embed", trained("moco"), "--data", shards, "--store", store, "--json").code == 0
    film = shards / Catalog.open(shards).item(0).path
    found = rhyme("search", store, "--query", f"{film}@0.5", "-k", 2, "--json")
    assert found.code == 0, found.err
    assert found.document["hits"][0]["path"] == str(film)
    assert found.document["hits"][0]["score"] > 0.99


def test_verify(shards: Path, tmp_path: Path) -> None:
    assert rhyme("prepare", shards, "--verify", "--json").document["shards"] == 1
    moved = tmp_path / "moved"
    shutil.copytree(shards, moved)
    (moved / "shard-00000.frames").unlink()
    refused(rhyme("prepare", moved, "--verify"), 1, moved, "missing")
    refused(train("moco", tmp_path / "run", data=moved), 1, "is gone", "shard-00000.frames")
    refused(rhyme("prepare", world(), "--verify"), 1, "no prepared shards")


def test_wrong_usage_writes_nothing(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(rhyme("prepare", world()), 2, "--out")
    refused(rhyme("prepare", world(), "--out", out, "--fps", "many"), 2, "--fps")
    refused(rhyme("prepare", world(), "--out", out, "--size", 2), 2, "size")
    refused(rhyme("prepare", shards, "--out", out, "--verify"), 2, "--verify")
    idle = ("--size", 999, "--quality", 1, "--fps", "x", "--kinds", "bogus")
    done = rhyme("prepare", shards, "--verify", *idle)
    refused(done, 2, "--size, --quality, --fps, --kinds", "takes no other option")
    refused(rhyme("prepare", shards, "--out", out), 2, "already")
    assert not out.exists()
    before = contents(shards)
    refused(rhyme("prepare", catalog(), "--out", shards, *ALONE), 1, "other options", shards)
    assert contents(shards) == before


def test_unfinished_shards_are_no_collection(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "prepared.json").write_text('{"state": "begun", "settings": {}}')
    refused(train("moco", tmp_path / "run", data=folder), 1, "not complete", "rhyme prepare")


def test_too_little_room_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    out = tmp_path / "shards"
    refused(rhyme("prepare", world(), "--out", out, *ALONE), 1, "100 bytes left", "free some")
    assert not out.exists()


def test_real_clips(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "action" / "surveillance_fight"
    if not source.is_dir():
        pytest.skip("the folder of real data has no action/surveillance_fight")
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in sorted(source.rglob("*.mp4"))[::60]:
        shutil.copy(path, clips)
    items = scan(clips, depth="packets")
    done = api.prepare(items, out=tmp_path / "shards", size=96, progress=False)
    made = Catalog.open(tmp_path / "shards")
    assert made.fingerprint == items.fingerprint
    assert done.psnr_worst > 33
    for row in range(len(items)):
        whole, small = items.reader(row), made.reader(row)
        asked = whole.times[::7] + 0.01
        pixels, times = small.read(asked)
        assert times.tolist() == whole.read(asked)[1].tolist()
        assert min(pixels.shape[-2:]) == 96
