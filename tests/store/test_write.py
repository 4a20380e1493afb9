"""Writing a store: rows, resumption, updates, refusals."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import rhyme.store.write as module
from rhyme.catalog import scan
from rhyme.encoders import InferencePlan, build_backbone, load_package, save_package
from rhyme.errors import ConfigError, PackageError, StoreError
from rhyme.loading import inference_batches
from rhyme.store import open_store, write_store
from rhyme.store.generation import Moments, old_moments
from rhyme.store.layout import locked, read_info
from rhyme.store.own import delete_work
from rhyme.tasks import encode, normalise


def content(folder):
    """Rows of a store as comparable data, in their order."""
    store = open_store(folder, verify=True)
    names = ["path", "time", "start", "stop", "group", "labels", "package"]
    rows = list(zip(*[store.table.column(n).to_pylist() for n in names], strict=True))
    return rows, np.array(store.vectors)


def test_one_row_a_moment_with_the_vectors_of_the_encoder(made, catalog, written):
    rows, vectors = content(written)
    package = load_package(made / "encoder")
    expected_rows, expected = [], []
    for pixels, index, times in inference_batches(catalog, package.plan, every=0.5):
        expected += list(normalise(encode(package.module, pixels).detach().numpy()))
        expected_rows += list(zip(index.tolist(), times.tolist(), strict=True))
    assert len(rows) == len(expected_rows) == 40
    for row, (index, time) in zip(rows, expected_rows, strict=True):
        item = catalog.item(index)
        assert row[0] == str((catalog.root / item.path).resolve())
        assert row[1] == time
        assert row[4] == item.group
        assert item.labels["appearance"] in row[5]
        assert row[6] == package.hash
    assert vectors == pytest.approx(np.array(expected), abs=1e-5)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    info = read_info(written)
    assert (info.count, info.items, info.dim, info.every) == (40, 10, 128, 0.5)
    assert load_package(written / "encoder").hash == package.hash
    assert not (written / "work").exists()


def test_the_table_is_a_lancedb_table_with_the_vectors(written):
    import lancedb

    info = read_info(written)
    table = lancedb.connect(str(written / info.generation)).open_table("moments")
    vectors = np.load(written / info.generation / "vectors.npy")
    assert table.count_rows() == 40
    (best,) = table.search(vectors[7]).limit(1).to_list()
    assert best["row"] == 7


class StopError(Exception):
    """What kills a job in these tests."""


def interrupted(monkeypatch, after):
    """Batches that end with an exception, as if the process was killed."""

    def batches(*args, **kwargs):
        for count, batch in enumerate(inference_batches(*args, **kwargs)):
            if count == after:
                raise StopError
            yield batch

    monkeypatch.setattr(module, "inference_batches", batches)


def test_an_interrupted_job_goes_on_without_duplicates(
    made, catalog, written, tmp_path, monkeypatch
):
    folder = tmp_path / "s.store"
    interrupted(monkeypatch, 4)
    options = {"every": 0.5, "batch_size": 6, "shard": 5}
    with pytest.raises(StopError):
        write_store(folder, made / "encoder", catalog, **options)
    with pytest.raises(StoreError, match="not finished"):
        open_store(folder)
    seen = []

    def counted(part, *args, **kwargs):
        seen.append(len(part))
        return inference_batches(part, *args, **kwargs)

    monkeypatch.setattr(module, "inference_batches", counted)
    done = write_store(folder, made / "encoder", catalog, **options)
    # 24 moments came through: five items whole, the sixth was open
    assert (done.resumed, done.embedded, seen) == (5, 5, [5])
    rows, vectors = content(folder)
    expected_rows, expected = content(written)
    assert rows == expected_rows
    assert vectors == pytest.approx(expected, abs=1e-5)


def test_every_place_of_interruption_ends_in_the_same_store(
    made, catalog, written, tmp_path, monkeypatch
):
    folder = tmp_path / "s.store"
    for after in (0, 1, 1, 2, 0):
        interrupted(monkeypatch, after)
        with pytest.raises(StopError):
            write_store(folder, made / "encoder", catalog, every=0.5, batch_size=5, shard=1)
    monkeypatch.setattr(module, "inference_batches", inference_batches)
    write_store(folder, made / "encoder", catalog, every=0.5)
    assert content(folder)[0] == content(written)[0]


def test_resume_can_be_declined_and_other_plans_do_not_mix(made, catalog, tmp_path, monkeypatch):
    folder = tmp_path / "s.store"
    interrupted(monkeypatch, 4)
    with pytest.raises(StopError):
        write_store(folder, made / "encoder", catalog, every=0.5, batch_size=6)
    monkeypatch.setattr(module, "inference_batches", inference_batches)
    work = shutil.copytree(folder / "work", tmp_path / "kept")
    done = write_store(folder, made / "encoder", catalog, every=0.5, resume=False)
    assert (done.resumed, done.embedded) == (0, 10)
    other = tmp_path / "o.store"
    other.mkdir()
    shutil.copytree(work, other / "work")
    done = write_store(other, made / "other", catalog, every=0.5)
    assert (done.resumed, done.embedded) == (0, 10)


def test_a_damaged_shard_is_embedded_again(made, catalog, written, tmp_path, monkeypatch):
    folder = tmp_path / "s.store"
    interrupted(monkeypatch, 4)
    with pytest.raises(StopError):
        write_store(folder, made / "encoder", catalog, every=0.5, batch_size=6, shard=5)
    shard = sorted((folder / "work").glob("*.npz"))[0]
    shard.write_bytes(shard.read_bytes()[:-200])
    monkeypatch.setattr(module, "inference_batches", inference_batches)
    done = write_store(folder, made / "encoder", catalog, every=0.5)
    assert 0 < done.resumed < 5
    assert content(folder)[0] == content(written)[0]


@pytest.mark.parametrize("victim", ["write_generation", "_copy_package", "write_info", "_sweep"])
def test_a_kill_while_committing_leaves_the_old_store_or_the_new(
    made, catalog, data, tmp_path, monkeypatch, victim
):
    folder = tmp_path / "s.store"
    some = catalog.select(indices=range(4))
    write_store(folder, made / "encoder", some, every=0.5)
    before = content(folder)
    calls = []

    def killed(*args, **kwargs):
        calls.append(1)
        if victim == "_sweep" and len(calls) == 1:
            return None
        if victim == "write_generation":
            args[0].mkdir()
        raise StopError

    original = getattr(module, victim)
    monkeypatch.setattr(module, victim, killed)
    with pytest.raises(StopError):
        write_store(folder, made / "encoder", catalog, every=0.5)
    rows, vectors = content(folder)
    if victim == "_sweep":
        assert len(rows) == 40
    else:
        assert rows == before[0]
        assert (vectors == before[1]).all()
    monkeypatch.setattr(module, victim, original)
    done = write_store(folder, made / "encoder", catalog, every=0.5)
    assert done.moments == 40
    assert [p.name for p in folder.iterdir() if p.name.startswith("g")] == [
        read_info(folder).generation
    ]


def test_what_is_there_and_unchanged_is_kept(made, catalog, copy, monkeypatch):
    def nothing(*args, **kwargs):
        raise AssertionError("decoded again")

    before = content(copy)
    monkeypatch.setattr(module, "inference_batches", nothing)
    done = write_store(copy, made / "encoder", catalog, every=0.5)
    assert (done.kept, done.embedded, done.moments) == (10, 0, 40)
    assert content(copy)[0] == before[0]


def test_changed_files_are_replaced_and_new_folders_added(made, data, tmp_path):
    folder = tmp_path / "s.store"
    catalog = scan(data, out=tmp_path / "a.catalog")
    write_store(folder, made / "encoder", catalog, every=0.5)
    files = sorted(data.glob("videos/*/*.mp4"))
    shutil.copyfile(files[5], files[0])
    os.utime(files[0], ns=(1, 1))
    again = scan(data, out=tmp_path / "b.catalog")
    done = write_store(folder, made / "encoder", again, every=0.5)
    assert (done.embedded, done.kept, done.replaced, done.moments) == (1, 9, 1, 40)
    rows, vectors = content(folder)
    paths = [row[0] for row in rows]
    assert sorted(set(paths)) == [str(f.resolve()) for f in files]
    mine = [i for i, path in enumerate(paths) if path == str(files[0].resolve())]
    theirs = [i for i, path in enumerate(paths) if path == str(files[5].resolve())]
    assert vectors[mine] == pytest.approx(vectors[theirs], abs=1e-6)

    more = tmp_path / "more"
    more.mkdir()
    shutil.copyfile(files[1], more / "new.mp4")
    done = write_store(folder, made / "encoder", scan(more, out=tmp_path / "c.catalog"), every=0.5)
    assert (done.moments, done.items, done.embedded) == (44, 11, 1)
    assert len(read_info(folder).catalogs) == 2


def test_what_a_file_has_lost_leaves_the_store(made, tmp_path):
    folder = tmp_path / "data" / "v"
    folder.mkdir(parents=True)
    for k in range(60):
        Image.new("RGB", (24, 24), (4 * k, 40, 90)).save(folder / f"{k:03}.png")

    def embed():
        found = scan(tmp_path / "data", spacing=0.5, segment=10)
        return write_store(tmp_path / "s", made / "encoder", found)

    assert (embed().items, len(open_store(tmp_path / "s"))) == (3, 30)
    shutil.copytree(tmp_path / "s", tmp_path / "before")
    for file in sorted(folder.iterdir())[12:]:
        file.unlink()
    done = embed()
    assert (done.items, done.replaced, done.moments) == (1, 3, 6)
    assert max(open_store(tmp_path / "s").table.column("time").to_pylist()) <= 6

    # What a version before has left there goes with the next call.
    new, old = (read_moments(tmp_path / name) for name in ("s", "before"))
    left = np.flatnonzero([key.start >= 10 for key in old.keys])
    both = pa.concat_tables([new.table, old.table.take(left)])
    keys = [*new.keys, *(old.keys[row] for row in left)]
    vectors = np.concatenate([new.vectors, old.vectors[left]])
    mixed = Moments(table=both, vectors=vectors, keys=keys)
    assert mixed.without([], new.keys).keys == new.keys


def read_moments(folder):
    return old_moments(folder, read_info(folder))


def test_unreadable_files_are_named_and_do_not_stop_the_job(made, data, tmp_path):
    catalog = scan(data, out=tmp_path / "a.catalog")
    gone = sorted(data.glob("videos/*/*.mp4"))[3]
    gone.rename(tmp_path / "away.mp4")
    done = write_store(tmp_path / "s.store", made / "encoder", catalog, every=0.5)
    assert done.failed == {str(gone.resolve()): "CatalogError: the file is gone since the scan"}
    assert (done.items, done.moments, done.embedded) == (9, 36, 9)

    (row,) = [i for i in range(10) if catalog.item(i).path.endswith(gone.name)]
    lost, target = catalog.select(indices=[row]), tmp_path / "t.store"
    with pytest.raises(StoreError, match=rf"no moment could be embedded: .*{gone.name}: Catalog"):
        write_store(target, made / "encoder", lost, every=0.5)
    assert not target.exists()
    target.mkdir()
    with pytest.raises(StoreError, match="no moment could be embedded"):
        write_store(target, made / "encoder", lost, every=0.5)

    (tmp_path / "away.mp4").rename(gone)
    for folder, items in ((target, 1), (tmp_path / "s.store", 10)):
        done = write_store(folder, made / "encoder", catalog.select(indices=range(row, row + 1)),
                           every=0.5)  # fmt: skip
        assert (done.embedded, done.failed, done.items) == (1, {}, items)


def test_what_could_not_be_read_is_not_taken_for_finished(made, data, tmp_path, monkeypatch):
    catalog = scan(data, out=tmp_path / "a.catalog")
    first = data / catalog.item(0).path
    first.rename(tmp_path / "away.mp4")
    interrupted(monkeypatch, 4)
    options = {"every": 0.5, "batch_size": 6, "shard": 5}
    with pytest.raises(StopError):
        write_store(tmp_path / "s", made / "encoder", catalog, **options)
    (tmp_path / "away.mp4").rename(first)
    monkeypatch.setattr(module, "inference_batches", inference_batches)
    done = write_store(tmp_path / "s", made / "encoder", catalog, **options)
    assert (done.failed, done.items, done.embedded + done.resumed) == ({}, 10, 10)
    assert done.resumed >= 4


def test_a_file_that_is_read_in_part_is_named_too(made, catalog, tmp_path, monkeypatch):
    def partly(*args, failed, **kwargs):
        failed[1] = "TruncatedMedia: it ends"
        return inference_batches(*args, failed=failed, **kwargs)

    monkeypatch.setattr(module, "inference_batches", partly)
    some = catalog.select(indices=range(3))
    done = write_store(tmp_path / "s", made / "encoder", some, every=0.5)
    path = str((catalog.root / catalog.item(1).path).resolve())
    assert done.failed == {path: "TruncatedMedia: it ends"}
    assert (done.items, done.embedded) == (3, 3)


def test_another_encoder_or_spacing_is_refused(made, catalog, copy):
    before = content(copy)
    with pytest.raises(StoreError, match="belongs to the encoder") as caught:
        write_store(copy, made / "other", catalog, every=0.5)
    hashes = {load_package(made / n).hash for n in ("encoder", "other")}
    assert set(caught.value.value.values()) == hashes
    assert "new folder" in caught.value.remedy
    with pytest.raises(StoreError, match=r"every 0\.5 s, not every 1 s"):
        write_store(copy, made / "encoder", catalog)
    assert content(copy)[0] == before[0]


def before_the_lock(monkeypatch, work):
    """The next writer finds, once it holds the lock, what another one has done meanwhile."""

    @contextmanager
    def after_another(folder):
        monkeypatch.setattr(module, "locked", locked)
        work()
        with locked(folder):
            yield

    monkeypatch.setattr(module, "locked", after_another)


@pytest.mark.parametrize("there", [False, True])
def test_what_another_process_commits_before_the_lock_is_kept(
    made, catalog, tmp_path, monkeypatch, there
):
    target, halves = tmp_path / "s.store", (range(5), range(5, 10))
    first, second = (catalog.select(indices=list(rows)) for rows in halves)
    if there:
        write_store(target, made / "encoder", first.select(indices=[0]))

    before_the_lock(monkeypatch, lambda: write_store(target, made / "encoder", first))
    summary = write_store(target, made / "encoder", second)
    assert (summary.items, summary.embedded) == (10, 5)
    assert len({row[0] for row in content(target)[0]}) == 10


def test_another_encoder_that_came_before_the_lock_is_refused(made, catalog, tmp_path, monkeypatch):
    target = tmp_path / "s.store"

    before_the_lock(monkeypatch, lambda: write_store(target, made / "other", catalog))
    with pytest.raises(StoreError, match="belongs to the encoder"):
        write_store(target, made / "encoder", catalog)
    assert len(content(target)[0]) == read_info(target).count > 0


def test_other_refusals(made, catalog, copy, tmp_path):
    with pytest.raises(ConfigError, match="every"):
        write_store(tmp_path / "x", made / "encoder", catalog, every=0)
    with pytest.raises(PackageError):
        write_store(tmp_path / "x", made / "nothing", catalog)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="other things"):
        write_store(tmp_path / "full", made / "encoder", catalog)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    with pytest.raises(StoreError, match="must be a folder"):
        write_store(tmp_path / "full" / "thesis.txt", made / "encoder", catalog)
    with locked(copy), pytest.raises(StoreError, match="another process"):
        write_store(copy, made / "encoder", catalog, every=0.5)


USERS = {
    "a generation by its name": ("g01/a.mp4",),
    "a generation with vectors": ("g000001/vectors.npy", "g000001/mine.txt"),
    "rows alone": ("g000001/vectors.npy",),
    "work": ("work/thesis.txt",),
    "shards without a plan": ("work/000000.npz",),
    "a plan of another kind": ("work/plan.json", "work/000000.npz"),
    "an encoder": ("encoder/weights.safetensors", "encoder/config.json"),
    "a lock": ("lock",),
    "all of them": ("g1/x", "work/x", "encoder/x", "g000002/x"),
}


def bytes_in(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def put(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'{{"mine": "{name}"}}')


@pytest.mark.parametrize("names", USERS.values(), ids=list(USERS))
def test_a_users_folders_are_never_taken_for_a_store(made, catalog, tmp_path, names):
    folder = tmp_path / "photos"
    put(folder, names)
    before = bytes_in(folder)
    with pytest.raises(StoreError, match="other things") as caught:
        write_store(folder, made / "encoder", catalog)
    assert bytes_in(folder) == before
    assert all(any(name.startswith(told) for told in caught.value.value) for name in names)
    assert "give a new folder" in caught.value.remedy


def test_the_users_own_encoder_is_never_replaced(made, catalog, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(made / "other", folder / "encoder")
    before = bytes_in(folder)
    with pytest.raises(StoreError, match="other things"):
        write_store(folder, made / "encoder", catalog)
    assert bytes_in(folder) == before


@pytest.mark.parametrize("name", ["work/notes.txt", "g000009/a.mp4", "encoder/notes.txt"])
def test_what_a_user_puts_into_a_store_stays(made, catalog, copy, name):
    put(copy, [name, "g12/a.mp4", "notes.txt"])
    weights = copy / "encoder" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    before = bytes_in(copy)
    with pytest.raises(StoreError, match="other things") as caught:
        write_store(copy, made / "encoder", catalog, every=0.5)
    assert caught.value.value[0] in (name, name.partition("/")[0])
    assert bytes_in(copy) == before
    (copy / name).rename(copy / "moved")
    for folder in ("work", "g000009"):
        if (copy / folder).is_dir():
            (copy / folder).rmdir()
    assert write_store(copy, made / "encoder", catalog, every=0.5).moments == 40
    assert load_package(copy / "encoder").hash == read_info(copy).package
    assert {"g12/a.mp4", "notes.txt", "moved"} <= bytes_in(copy).keys()


def test_an_encoder_that_stays_may_hold_more(made, catalog, copy):
    put(copy, ["encoder/notes.txt"])
    assert write_store(copy, made / "encoder", catalog, every=0.5).moments == 40
    assert (copy / "encoder" / "notes.txt").is_file()


def test_the_plan_of_a_job_is_deleted_last(made, catalog, tmp_path, monkeypatch):
    folder = tmp_path / "s.store"
    interrupted(monkeypatch, 4)
    with pytest.raises(StopError):
        write_store(folder, made / "encoder", catalog, every=0.5, batch_size=6, shard=5)
    (folder / "work" / "encoder-0123abcd").mkdir()
    (folder / "work" / ".000007.npz.abc").write_bytes(b"cut short")
    put(folder, ["work/.git/config"])
    gone = []
    unlink = type(folder).unlink
    monkeypatch.setattr(
        type(folder), "unlink", lambda path, **o: (gone.append(path.name), unlink(path, **o))
    )
    delete_work(folder / "work")
    assert gone[-1] == "plan.json"
    assert len(gone) > 2
    assert list(bytes_in(folder / "work")) == [".git/config"]


@pytest.mark.parametrize("place", ["g000001", "encoder"])
def test_a_first_generation_that_was_cut_short_is_written_again(
    made, catalog, written, tmp_path, monkeypatch, place
):
    folder = tmp_path / "s.store"
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_info", lambda *_: (_ for _ in ()).throw(StopError()))
        with pytest.raises(StopError):
            write_store(folder, made / "encoder", catalog, every=0.5)
    assert (folder / place).is_dir()
    weights, vectors = (
        folder / "encoder" / "weights.safetensors",
        folder / "g000001" / "vectors.npy",
    )
    (weights if place == "encoder" else vectors).write_bytes(b"cut short")
    assert write_store(folder, made / "encoder", catalog, every=0.5).resumed == 10
    assert content(folder)[0] == content(written)[0]


@pytest.mark.parametrize("names", [(), ("lock",), ("lock", "work"), ("work",)])
def test_a_job_that_was_killed_before_its_plan_goes_on(made, catalog, tmp_path, names):
    folder = tmp_path / "s.store"
    folder.mkdir()
    for name in names:
        (folder / name).touch() if name == "lock" else (folder / name).mkdir()
    assert write_store(folder, made / "encoder", catalog, every=0.5).moments == 40
    assert not (folder / "work").exists()


def test_videos_in_the_folders_of_a_store_survive_their_own_embedding(made, tmp_path):
    shutil.copytree(made / "data" / "videos", tmp_path / "films" / "work")
    before = bytes_in(tmp_path / "films")
    for data in (tmp_path / "films", tmp_path / "films" / "work"):
        with pytest.raises(StoreError, match="other things"):
            write_store(tmp_path / "films", made / "encoder", scan(data))
    assert bytes_in(tmp_path / "films") == before


def test_an_encoder_of_nan_is_refused(made, catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "encode", lambda m, x: x.flatten(1)[:, :4] * float("nan"))
    with pytest.raises(StoreError, match="not finite"):
        write_store(tmp_path / "s", made / "encoder", catalog)


def test_progress_counts_items_and_workers_change_nothing(made, catalog, written, tmp_path):
    seen = []
    write_store(
        tmp_path / "s",
        made / "encoder",
        catalog,
        every=0.5,
        batch_size=7,
        workers=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)
    assert content(tmp_path / "s")[0] == content(written)[0]


@pytest.mark.parametrize("rule", [{"spacing": 0.25}, {"spacing": 0.3}, {"stride": 2}])
def test_stored_clips_are_those_of_their_own_query(made, data, tmp_path, rule):
    plan = InferencePlan(size=24, resize=24, frames=3, **rule)
    save_package(tmp_path / "clips", build_backbone("small", seed=0), plan)
    some = scan(data, segment=0.7).select(indices=range(3))  # one file, cut between frames
    assert len({some.item(k).path for k in range(3)}) == 1
    write_store(tmp_path / "s", tmp_path / "clips", some, every=0.2)
    store = open_store(tmp_path / "s")
    for row, time in enumerate(store.table.column("time").to_pylist()):
        vector, when = store.embed(store.table.column("path")[row].as_py(), time)
        assert when == time
        assert vector == pytest.approx(store.vectors[row], abs=1e-5), (row, time)
