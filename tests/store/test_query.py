"""What a query is: the film that a scan would make of it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rhyme import api
from rhyme.api import use
from rhyme.catalog import scan
from rhyme.errors import ConfigError, FileMissing, NoVideoStream
from rhyme.media.times import shown_at
from rhyme.store import contact_sheet, open_store, write_store
from rhyme.store.query import moment_of, open_query, readable_time


def film(folder, names):
    """Pictures in plain colours, brighter from name to name."""
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        Image.new("RGB", (24, 24), (10 * place, 40, 90)).save(folder / name)
    return folder


def colours(reader, times):
    frames, _ = reader.read(times)
    return (frames[:, 0, 0, 0] // 10).tolist()


def same_as_scanned(query, root):
    """A reader of the query and one of the only item that a scan finds, as equals."""
    found = scan(root)
    assert len(found) == 1
    mine, theirs = open_query(query), found.reader(0)
    assert mine.info.duration == theirs.info.duration
    assert mine.times.tolist() == theirs.times.tolist()
    assert colours(mine, mine.times) == colours(theirs, theirs.times)
    return mine


def test_a_folder_of_frames_is_read_as_by_a_scan(tmp_path):
    folder = film(tmp_path / "data" / "v", [f"{k}.png" for k in range(1, 13)])
    (folder / ".0.png").write_bytes(b"what a file browser leaves")
    (folder / "notes.txt").write_text("a text")
    reader = same_as_scanned(folder, tmp_path / "data")
    assert colours(reader, [0.0, 0.04, 0.08, 0.4]) == [0, 1, 2, 10]


@pytest.mark.parametrize("named", [False, True])
def test_a_film_of_r2v2_has_its_own_spacing(tmp_path, named):
    names = [f"abcdefghijk_{k:06}.jpg" for k in (0, 150, 300)]
    folder = film(tmp_path / "data" / "ab", names)
    reader = same_as_scanned(folder / "abcdefghijk" if named else folder, tmp_path / "data")
    assert reader.times.tolist() == [0.0, 5.0, 10.0]


def test_folders_that_are_no_film_are_refused(tmp_path):
    with pytest.raises(NoVideoStream, match="no film") as caught:
        open_query(film(tmp_path / "photos", ["a_photo.png", "b_photo.png"]))
    assert "picture" in caught.value.remedy
    with pytest.raises(NoVideoStream, match="no film"):
        open_query(film(tmp_path / "one", ["1.png"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoVideoStream, match="no film"):
        open_query(tmp_path / "empty")
    several = film(tmp_path / "ab", [f"ab{k:09}_000000.jpg" for k in range(2)])
    with pytest.raises(NoVideoStream, match="holds 2 films") as caught:
        open_query(several)
    assert str(several / "ab000000000") in caught.value.remedy
    with pytest.raises(FileMissing):
        open_query(several / "ab000000007")


def test_the_sheet_shows_the_frame_that_was_searched(made, tmp_path):
    folder = film(tmp_path / "data" / "v", [f"{k}.png" for k in range(1, 13)])
    write_store(tmp_path / "s", made / "encoder", scan(tmp_path / "data", spacing=0.5))
    store = open_store(tmp_path / "s")
    hits = store.search((folder, 2.0), k=1)
    sheet = contact_sheet(hits, tmp_path / "a.png", query=(folder, 2.0), store=store)
    found = api.search(tmp_path / "s", f"{folder}@2.0", k=1, device="cpu")
    for path in (sheet, found.sheet):
        with Image.open(path) as picture:
            assert np.asarray(picture)[94, 122].tolist() == [40, 40, 90]


@pytest.mark.parametrize("fps", [7, 23.976, 25, 29.97, 30, 59.94, 120, 240])
def test_a_time_that_is_printed_finds_the_same_frame(fps):
    times = np.arange(int(12 * 3600 * fps)) / fps
    for frame in [*range(300), *range(len(times) - 300, len(times))]:
        printed = float(readable_time(times[frame]))
        assert shown_at(times, [printed]).tolist() == [frame]
        assert abs(printed - times[frame]) < 1e-3
    assert readable_time(12345.6) == "12345.600"
    assert readable_time(0.5) == "0.500"


@pytest.mark.parametrize("duration", [8 / 3, 2.005, 0.29, 2.0])
def test_the_last_time_that_is_offered_is_taken(duration):
    reader = SimpleNamespace(info=SimpleNamespace(duration=duration, kind="video"))
    with pytest.raises(ConfigError) as caught:
        moment_of(reader, 99, "a.mp4")
    last = float(re.fullmatch(r"give a time from 0 to ([\d.]+)", caught.value.remedy)[1])
    assert moment_of(reader, last, "a.mp4") == last
    assert duration - last < 0.011


def test_the_printed_time_of_a_hit_is_its_moment(made, tmp_path):
    folder = film(tmp_path / "data" / "v", [f"{k}.png" for k in range(1, 13)])
    write_store(tmp_path / "s", made / "encoder", scan(folder.parent, spacing=1 / 3), every=0.5)
    store = open_store(tmp_path / "s")
    for hit in store.search((folder, 0.0), k=99):
        (first, *_) = store.search((folder, float(readable_time(hit.time))), k=1)
        assert first.row == hit.row


@pytest.fixture
def searched(made, tmp_path):
    """A store of one film, and a query."""
    folder = film(tmp_path / "data" / "v", [f"{k}.png" for k in range(1, 13)])
    write_store(tmp_path / "s", made / "encoder", scan(tmp_path / "data", spacing=0.5))
    return tmp_path / "s", f"{folder}@2.0"


def test_hits_are_told_where_no_sheet_can_be_written(searched, monkeypatch):
    store, query = searched
    assert api.search(store, query, sheet=False, device="cpu").sheet is None
    assert not (store / "sheet.png").exists()
    (store / "sheet.png").mkdir()
    found = api.search(store, query, device="cpu")
    assert (len(found.hits), found.sheet) == (6, None)
    assert "no contact sheet: this is a folder" in found.notes[0]
    (store / "sheet.png").rmdir()

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system", "sheet.png")

    monkeypatch.setattr(use, "contact_sheet", refuse)
    found = api.search(store, query, device="cpu")
    assert (len(found.hits), found.sheet) == (6, None)
    assert found.notes == ("no contact sheet: Read-only file system",)


def test_a_sheet_that_cannot_be_is_refused_before_the_search(searched, tmp_path, monkeypatch):
    store, query = searched
    monkeypatch.setattr(use, "open_store", None)
    (tmp_path / "letter").write_text("dear reader")
    for place, says in (("a.jpg", ".png file"), ("letter/a.png", "--sheet cannot be written")):
        with pytest.raises(ConfigError, match=says) as caught:
            api.search(store, query, sheet=tmp_path / place, device="cpu")
        assert "--sheet none" in caught.value.remedy
    assert not (tmp_path / "a.jpg").exists()
