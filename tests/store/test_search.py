"""Searching: exact, with and without the query's own source; damage is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rhyme.catalog import Catalog, scan
from rhyme.encoders import load_package
from rhyme.errors import ConfigError, FileMissing, StoreError, UnknownName
from rhyme.store import Store, open_store, parse_query, write_store
from rhyme.store.layout import read_info


@pytest.fixture
def store(written):
    return open_store(written)


def slow(store, vector, k, hidden=()):
    scores = np.array(store.vectors, dtype=np.float64) @ vector
    order = [i for i in np.argsort(-scores, kind="stable") if i not in hidden]
    return order[:k], scores


def test_vectors_are_compared_where_they_lie(written):
    """On any device of the encoder: ``meta`` stands for one to which they would be copied."""
    here, there = open_store(written), open_store(written, device="meta")
    vector = np.array(here.vectors[9])
    assert there.search(vector, k=6) == here.search(vector, k=6)


def test_a_moment_finds_itself_first_and_the_rest_in_order(store):
    row = 9
    path, time = store.table.column("path")[row].as_py(), store.table.column("time")[row].as_py()
    hits = store.search((path, time), k=6)
    assert hits[0].row == row
    assert hits[0].score == pytest.approx(1.0, abs=1e-4)
    order, scores = slow(store, store.vectors[row].astype(np.float64), 6)
    assert [hit.row for hit in hits] == order
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
    for hit in hits:
        assert hit.score == pytest.approx(scores[hit.row], abs=1e-4)
        assert hit.path == store.table.column("path")[hit.row].as_py()
        assert hit.time == store.table.column("time")[hit.row].as_py()
        assert Path(hit.path).stem == hit.labels["id"]
        assert hit.start <= hit.time <= hit.stop


def test_the_text_form_and_the_vector_form_agree(store):
    path, time = store.table.column("path")[3].as_py(), store.table.column("time")[3].as_py()
    by_text = store.search(f"{path}@{time}", k=3)
    by_vector = store.search(store.vectors[3] * 7, k=3)
    assert [h.row for h in by_text] == [h.row for h in by_vector]
    assert [h.score for h in by_text] == pytest.approx([h.score for h in by_vector], abs=1e-4)


def test_the_own_group_is_left_out(store):
    path = store.table.column("path")[0].as_py()
    group = store.table.column("group")[0].as_py()
    files = {
        p
        for p, g in zip(
            store.table.column("path").to_pylist(),
            store.table.column("group").to_pylist(),
            strict=True,
        )
        if g == group
    }
    assert len(files) == 2  # two videos show the same creature
    everything = store.search((path, 0.4), k=40)
    others = store.search((path, 0.4), k=40, exclude_same_group=True)
    assert files <= {h.path for h in everything}
    assert len(others) == 40 - 8
    assert not files & {h.path for h in others}
    assert [h.row for h in others] == [h.row for h in everything if h.path not in files]
    assert [h.rank for h in others] == list(range(1, 33))
    named = store.search((path, 0.4), k=40, exclude_group=group)
    assert [h.row for h in named] == [h.row for h in others]


def test_a_file_that_is_not_in_the_store_excludes_nothing(store, tmp_path):
    path = store.table.column("path")[0].as_py()
    shutil.copyfile(path, tmp_path / "copy.mp4")
    hits = store.search((tmp_path / "copy.mp4", 0.25), k=40, exclude_same_group=True)
    assert len(hits) == 40
    assert hits[0].path == path


def test_a_query_is_known_by_its_resolved_path(store, tmp_path):
    path = store.table.column("path")[0].as_py()
    (tmp_path / "link.mp4").symlink_to(path)
    assert len(store.search((tmp_path / "link.mp4", 0.25), k=40, exclude_same_group=True)) == 32


def test_k_beyond_the_store_gives_all(store):
    assert len(store.search(store.vectors[0], k=1000)) == 40
    everybody = sorted(set(store.table.column("group").to_pylist()))
    assert store.search(store.vectors[0], exclude_group=everybody) == []


def test_a_still_picture_asks(store, tmp_path):
    from PIL import Image

    frame = open_frame(store, 5)
    Image.fromarray(frame).save(tmp_path / "still.png")
    hits = store.search(str(tmp_path / "still.png"), k=1)
    assert hits[0].path == store.table.column("path")[5].as_py()


def open_frame(store, row):
    from rhyme.media import open_reader

    reader = open_reader("video", store.table.column("path")[row].as_py())
    try:
        frames, _ = reader.read([store.table.column("time")[row].as_py()])
    finally:
        reader.close()
    return frames[0].permute(1, 2, 0).contiguous().numpy()


def test_parse_query(tmp_path):
    assert parse_query("a/b.mp4@12.5") == (Path("a/b.mp4"), 12.5)
    assert parse_query("a@b.mp4@0") == (Path("a@b.mp4"), 0.0)
    assert parse_query("a.mp4") == (Path("a.mp4"), None)
    assert parse_query("me@home.mp4") == (Path("me@home.mp4"), None)
    (tmp_path / "cut@5").write_text("")
    assert parse_query(str(tmp_path / "cut@5")) == (tmp_path / "cut@5", None)
    (tmp_path / "cut").write_text("")
    assert parse_query(str(tmp_path / "cut@5")) == (tmp_path / "cut", 5.0)
    for bad in ("a.mp4@-1", "a.mp4@nan", "a.mp4@inf", ""):
        with pytest.raises(ConfigError):
            parse_query(bad)


def test_queries_that_cannot_be(store, tmp_path):
    path = store.table.column("path")[0].as_py()
    with pytest.raises(ConfigError, match=r"lasts 2\.00 s") as caught:
        store.search((path, 2.5))
    assert caught.value.file == path
    with pytest.raises(FileMissing, match="no such file"):
        store.search("nowhere.mp4@1")
    with pytest.raises(ConfigError, match="k must"):
        store.search(store.vectors[0], k=0)
    with pytest.raises(ConfigError, match="vector has no group"):
        store.search(store.vectors[0], exclude_same_group=True)
    with pytest.raises(UnknownName, match="no group 'x'"):
        store.search(store.vectors[0], exclude_group="x")
    for bad in (store.vectors[0][:5], np.full(128, np.nan)):
        with pytest.raises(StoreError, match="128 finite numbers"):
            store.search(bad)
    assert parse_query(path)[1] is None
    assert store.embed(path)[1] == pytest.approx(1.0)


def test_damage_is_told(copy):
    info = read_info(copy)
    file = copy / info.generation / "vectors.npy"
    good = file.read_bytes()

    file.write_bytes(good[:-1000])
    with pytest.raises(StoreError, match="damaged"):
        open_store(copy)
    flipped = bytearray(good)
    flipped[-3] ^= 255
    file.write_bytes(bytes(flipped))
    open_store(copy)
    with pytest.raises(StoreError, match="checksum"):
        open_store(copy, verify=True)
    np.save(file, np.zeros((39, 128), np.float32))
    with pytest.raises(StoreError, match=r"\(39, 128\), not float32 \(40, 128\)"):
        open_store(copy)
    file.unlink()
    with pytest.raises(StoreError, match="missing"):
        open_store(copy)
    file.write_bytes(good)
    shutil.rmtree(copy / info.generation / "moments.lance")
    with pytest.raises(StoreError, match="table of moments"):
        open_store(copy)


def test_a_table_of_another_number_is_told(copy):
    import lancedb

    info = read_info(copy)
    lancedb.connect(str(copy / info.generation)).open_table("moments").delete("row = 3")
    with pytest.raises(StoreError, match="holds 39 moments, not 40"):
        open_store(copy)


def test_a_damaged_description_and_other_versions(copy, tmp_path):
    file = copy / "store.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps({**raw, "format_version": 99}))
    with pytest.raises(StoreError, match="another version"):
        open_store(copy)
    file.write_text("{")
    with pytest.raises(StoreError, match="description is damaged"):
        open_store(copy)
    file.write_text(json.dumps({**raw, "count": "many"}))
    with pytest.raises(StoreError, match="description is damaged"):
        open_store(copy)
    file.unlink()
    with pytest.raises(StoreError, match="no store"):
        open_store(copy)
    with pytest.raises(FileMissing, match="no such store"):
        open_store(tmp_path / "nowhere")


def test_another_encoder_in_the_folder_is_told(copy, made):
    vector = np.array(open_store(copy).vectors[0])
    shutil.rmtree(copy / "encoder")
    shutil.copytree(made / "other", copy / "encoder")
    store = open_store(copy)
    assert len(store.search(vector, k=2)) == 2  # vectors need no encoder
    with pytest.raises(StoreError, match="vectors are of") as caught:
        store.search((store.table.column("path")[0].as_py(), 0.0))
    assert load_package(made / "other").hash[:12] in caught.value.cause
    shutil.rmtree(copy / "encoder")
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(copy).search((store.table.column("path")[0].as_py(), 0.0))


def test_frame_folders_are_asked_by_folder_and_by_picture(made, tmp_path):
    from PIL import Image

    from rhyme.store import contact_sheet

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        base = rng.integers(0, 255, (6, 6, 3))
        for i in range(20):
            picture = np.clip(base + 8 * i, 0, 255).astype(np.uint8)
            Image.fromarray(picture).resize((24, 24)).save(folder / f"{i:03d}.png")
    catalog = scan(tmp_path / "data", out=tmp_path / "c.catalog", spacing=0.5)
    write_store(tmp_path / "s", made / "encoder", catalog, every=2.5)
    store = open_store(tmp_path / "s")
    assert len(store) == 8
    path, time = store.table.column("path")[1].as_py(), store.table.column("time")[1].as_py()
    assert Path(path).is_dir()
    hits = store.search((path, time), k=8)
    assert hits[0].row == 1
    assert hits[0].score == pytest.approx(1.0, abs=1e-4)
    assert hits[0].spacing == 0.5
    (single, *_) = hits[0].files
    for query in ((path, time), (single, None)):
        others = store.search(query, k=8, exclude_same_group=True)
        assert {Path(h.path).name for h in others} == {"b"}
    sheet = contact_sheet(hits, tmp_path / "sheet.png")
    with Image.open(sheet) as picture:
        assert np.asarray(picture)[10:178, 10:234].std() > 5


def in_two_rooms(folder, *names):
    """Pictures in a folder, two rooms by turns, as a table beside them says."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{name}.png,cam{place % 2}" for place, name in enumerate(names)]
    for name in names:
        if not (folder / f"{name}.png").exists():  # its time would change
            Image.new("RGB", (24, 24), (ord(name) % 256, 90, 40)).save(folder / f"{name}.png")
    (folder / "labels.csv").write_text("\n".join(["path,group", *rows]) + "\n")
    return folder


def others(store, path):
    hits = store.search((path, None), k=9, exclude_same_group=True)
    return sorted(Path(hit.path).stem for hit in hits)


def under(store, names):
    """The store as one of before, whose collections have the names that were typed."""
    import pyarrow as pa

    place = store.table.column_names.index("collection")
    table = store.table.set_column(place, "collection", pa.array(names, type=pa.string()))
    return Store(store.directory, store.info, store.vectors, table)


def test_a_folder_is_one_collection_however_it_was_named(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = in_two_rooms(tmp_path / "data", "a", "b")
    found = scan(folder)
    write_store(tmp_path / "s", made / "encoder", Catalog(found.table, root=Path("data")))
    in_two_rooms(folder, "a", "b", "c")
    write_store(tmp_path / "s", made / "encoder", Catalog(scan(folder).table, root=folder))
    store = open_store(tmp_path / "s")
    assert others(store, folder / "a.png") == ["b"]
    assert store.info.catalogs.keys() == {str(folder.resolve())}
    assert others(under(store, ["data", "data", str(folder)]), folder / "a.png") == ["b"]
    monkeypatch.chdir("/")
    assert others(under(store, ["data", "data", str(folder)]), folder / "a.png") == ["b"]


def test_folders_of_one_name_are_two_collections(made, tmp_path, monkeypatch):
    for name, pictures in (("one", "ab"), ("two", "xy")):
        in_two_rooms(tmp_path / name / "videos", *pictures)
        monkeypatch.chdir(tmp_path / name)
        found = scan("videos")
        write_store(tmp_path / "s", made / "encoder", Catalog(found.table, root=Path("videos")))
    store = open_store(tmp_path / "s")
    assert others(store, tmp_path / "one/videos/a.png") == ["b", "x", "y"]
    assert others(under(store, ["videos"] * 4), tmp_path / "two/videos/x.png") == ["a", "b", "y"]
