"""A folder of videos and pictures: what is not taken is told, and all of it can be taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.test_archives import make, png
from rhyme import api
from rhyme.api.data import read_source
from rhyme.api.data_notes import data_notes, not_taken
from rhyme.catalog import Catalog
from rhyme.errors import ConfigError
from rhyme.store import open_store
from support.tiny_runs import ALONE, refused, rhyme, trained, videos

TOLD = "5 pictures are not taken (--kinds image,video takes both)"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films and five pictures, with a table whose column of files is called ``clip_name``."""
    folder = tmp_path_factory.mktemp("mixed") / "mixed"
    names = [path.name for path in videos(folder, 3)]
    rng = np.random.default_rng(0)
    for k in range(5):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"still{k}.png")
        names.append(f"still{k}.png")
    rows = [f"{name},tape {k % 2}" for k, name in enumerate(names)]
    (folder.parent / "table.csv").write_text("\n".join(["clip_name,tape", *rows]) + "\n")
    return folder


def table(mixed: Path) -> list[object]:
    """Options that read the table beside the folder."""
    return ["--labels", mixed.parent / "table.csv", "--path-column", "clip_name",
            "--group-column", "tape"]  # fmt: skip


def test_embed_tells_of_pictures_that_it_does_not_take(mixed: Path, tmp_path: Path) -> None:
    done = rhyme("embed", trained("moco"), "--data", mixed, "--store", tmp_path / "s", "--json")
    assert (done.code, done.document["items"]) == (0, 3)
    assert done.err.count(TOLD) == 1


def test_embed_takes_both_and_reads_groups(mixed: Path, tmp_path: Path) -> None:
    done = rhyme("embed", trained("moco"), "--data", mixed, "--store", tmp_path / "s", "--json",
                 "--kinds", "image,video", *table(mixed))  # fmt: skip
    assert (done.code, done.document["items"]) == (0, 8), done.err
    assert "not taken" not in done.err
    store = open_store(tmp_path / "s")
    film = next(mixed.glob("*.mp4"))
    every = {Path(hit.path).name: hit.group for hit in store.search((film, 0.5), k=100)}
    assert len(every) == 8
    assert set(every.values()) == {"tape 0", "tape 1"}
    found = rhyme("search", tmp_path / "s", "--query", film, "--exclude-same-group", "--json")
    assert found.code == 0, found.err
    assert len({hit["group"] for hit in found.document["hits"]} - {every[film.name]}) == 1


def test_an_encoder_in_python_takes_both(mixed: Path) -> None:
    options = api.ReadOptions(kinds="image,video")
    moments = api.load(trained("moco"), device="cpu").embed(mixed, options=options)
    assert sum(path.endswith(".png") for path in moments.paths) == 5


def test_prepare_tells_of_pictures_and_takes_them(mixed: Path, tmp_path: Path) -> None:
    words = ["prepare", mixed, *ALONE, "--json"]
    done = rhyme(*words, "--out", tmp_path / "some")
    assert (done.code, done.document["items"]) == (0, 3), done.err
    assert done.err.count(TOLD) == 1
    done = rhyme(*words, "--out", tmp_path / "all", "--kinds", "image,video", *table(mixed))
    assert (done.code, done.document["items"]) == (0, 8), done.err
    assert "not taken" not in done.err
    assert set(Catalog.open(tmp_path / "all").distinct_groups) == {"tape 0", "tape 1"}
    # Shards were told of when they were made.
    shards = read_source(tmp_path / "some")
    assert not_taken(tmp_path / "some", shards) is None


def test_prepare_takes_the_spacing_of_frame_folders(tmp_path: Path) -> None:
    film = tmp_path / "films" / "one"
    film.mkdir(parents=True)
    for k in range(4):
        Image.fromarray(np.full((32, 32, 3), 50 * k, np.uint8)).save(film / f"{k:03}.png")
    done = rhyme("prepare", tmp_path / "films", "--out", tmp_path / "s", *ALONE, "--spacing", 2)
    assert done.code == 0, done.err
    assert Catalog.open(tmp_path / "s").numbers("stop").tolist() == [8.0]


def test_a_catalog_says_how_to_scan_again(mixed: Path, tmp_path: Path) -> None:
    listed = tmp_path / "mixed.arrow"
    assert rhyme("scan", mixed, "--out", listed, *ALONE).code == 0
    done = rhyme("embed", trained("moco"), "--data", listed, "--store", tmp_path / "s")
    assert done.code == 0, done.err
    assert "5 pictures are not taken (rhyme scan DIR --kinds image,video takes both)" in done.err
    for option, value in (
        ("--kinds", "image"),
        ("--include", "*"),
        ("--path-column", "a"),
        ("--spacing", "2"),
    ):
        refused(
            rhyme("embed", trained("moco"), "--data", listed, "--store", tmp_path / "t",
                  option, value), 2, option, "rhyme scan DIR",
        )  # fmt: skip


def test_one_picture_and_what_was_asked_for(mixed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    videos(folder, 1)
    Image.new("RGB", (32, 32)).save(folder / "cover.png")
    found = read_source(folder)
    assert not_taken(folder, found) == "1 picture is not taken (--kinds image,video takes both)"
    assert not_taken(folder, read_source(folder, api.ReadOptions(kinds="video"))) is None
    (folder / "frames").mkdir()
    for k in range(2):
        Image.new("RGB", (32, 32)).save(folder / "frames" / f"{k}.png")
    told = not_taken(folder, read_source(folder))
    assert told == "1 picture is not taken (--kinds frames,image,video takes all)"


def test_pictures_that_are_added_after_a_scan_are_told_too(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    videos(folder, 3)
    assert not_taken(folder, read_source(folder)) is None
    Image.new("RGB", (32, 32)).save(folder / "later.png")
    assert not_taken(folder, read_source(folder)) == (
        "1 picture is not taken (--kinds image,video takes both)"
    )


def test_several_pictures_of_a_sample_are_told_unless_one_is_chosen(tmp_path: Path) -> None:
    content = {
        f"s{k:03}.{ending}": b"0" if ending == "cls" else png(k)
        for k in range(3)
        for ending in ("input.png", "seg.png", "cls")
    }
    make(tmp_path / "s.tar", content)
    (told,) = data_notes(tmp_path, read_source(tmp_path))
    assert told.endswith("input.png 3, seg.png 3; --include '*.input.png' takes one of them")
    found = api.scan(tmp_path, out=tmp_path / "c.arrow")
    assert found.notes == [told]
    (told,) = data_notes(tmp_path / "c.arrow", read_source(tmp_path / "c.arrow"))
    assert "rhyme scan DIR --include" in told
    for include, items in (("*.input.png", 3), ("*.input.png, *.seg.png", 6)):
        chosen = read_source(tmp_path, api.ReadOptions(include=include))
        assert len(chosen) == items
        assert data_notes(tmp_path, chosen) == []
    with pytest.raises(ConfigError, match="no pattern"):
        read_source(tmp_path, api.ReadOptions(include=" ,"))
    make(tmp_path / "s.tar", {f"{k}.{e}.png": png() for k in "ab" for e in ("\x1b[31m", "it's")})
    (told,) = data_notes(tmp_path, read_source(tmp_path))
    assert "\x1b" not in told
