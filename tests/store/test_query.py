"""What a query is: the film that a scan would make of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rhyme import api
from rhyme.catalog import scan
from rhyme.errors import FileMissing, NoVideoStream
from rhyme.store import contact_sheet, open_store, write_store
from rhyme.store.query import open_query


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
