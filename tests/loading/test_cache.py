from __future__ import annotations

import errno
import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from rhyme.catalog import Catalog, scan
from rhyme.errors import DataError, StorageError
from rhyme.loading import CatalogSource, FrameCache
from rhyme.loading.decode import Readers
from rhyme.views import Clip, EvalTransform, ViewPlan, ViewSpec
from rhyme.workers import map_ordered


def numbers(frames: np.ndarray) -> np.ndarray:
    """Frame numbers that cached frames ``[..., 3, h, w]`` tell."""
    height, width = frames.shape[-2:]
    left = frames[..., 1, height // 4 : -height // 4, 1 : width // 2 - 2].mean(axis=(-1, -2))
    return np.rint((left - 16) / 12).astype(int)


def test_it_holds_equally_spaced_frames_with_first_and_last(catalog):
    seen = []
    cache = FrameCache.build(catalog, 4, progress=lambda done, total: seen.append((done, total)))
    assert cache.frames.shape == (12, 4, 3, 32, 40)
    assert cache.frames.dtype == np.uint8
    assert np.array_equal(numbers(cache.frames), np.tile([0, 5, 10, 15], (12, 1)))
    assert np.allclose(cache.times, np.array([0, 5, 10, 15]) / 8)
    assert not cache.cut
    assert seen[-1] == (12, 12)
    facts = cache.facts(catalog.facts([1, 2]))
    assert facts.frames.tolist() == [4, 4]
    assert facts.fps.tolist() == [2.0, 2.0]
    assert facts.width.tolist() == [40, 40]


@pytest.mark.slow
def test_workers_build_the_same_cache(catalog):
    one, two = FrameCache.build(catalog, 3, 20), FrameCache.build(catalog, 3, 20, workers=2)
    assert np.array_equal(one.frames, two.frames)
    assert np.array_equal(one.times, two.times)


def test_scaled_frames_keep_their_aspect_and_their_maps(catalog):
    cache = FrameCache.build(catalog, 2, 16)
    assert cache.frames.shape[-2:] == (16, 20)
    assert cache.maps[0] == pytest.approx(np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]))
    plan = ViewPlan(
        clips={"a": Clip()},
        views={"x": ViewSpec(clip="a", transform=EvalTransform(size=8, resize=8))},
    )
    batch = next(CatalogSource(catalog, plan, batch_size=2, seed=0, cache=cache).batches())
    # 8 of 8 rows stand for all 32, and the central 8 of 10 columns for 32 of 40
    assert batch.views["x"].map[0, 0].tolist() == [[4.0, 0.0, 5.5], [0.0, 4.0, 1.5]]


def test_different_sizes_need_a_size_and_are_cut_to_squares(own_folder, film):
    film(own_folder / "v09.mp4", 9, 8, width=64, height=32)
    catalog = scan(own_folder)
    with pytest.raises(DataError, match="different sizes"):
        FrameCache.build(catalog, 2)
    cache = FrameCache.build(catalog, 2, 16)
    assert cache.cut
    assert cache.frames.shape[-2:] == (16, 16)
    assert cache.maps[9].tolist() == [[2.0, 0.0, 16.5], [0.0, 2.0, 0.5]]


def test_different_sizes_can_be_scaled_whole_to_one_aspect(own_folder, film):
    """As views do that change every frame's aspect: nothing is cut off, nothing is stretched."""
    film(own_folder / "films" / "wide.mp4", 12, 16, width=80, height=32)
    cache = FrameCache.build(scan(own_folder), 2, 24, aspect=1.5)
    assert (cache.frames.shape[-2:], cache.cut) == ((24, 36), False)
    scales = {(float(m[0, 0]), float(m[1, 1])) for m in cache.maps}
    assert scales == {(40 / 36, 32 / 24), (80 / 36, 32 / 24)}


def test_short_items_say_how_many_frames_they_have(own_folder, film):
    film(own_folder / "v01.mp4", 1, 2)
    cache = FrameCache.build(scan(own_folder), 4)
    assert cache.counts.tolist() == [4, 2] + [4] * 7
    assert numbers(cache.frames[1]).tolist() == [0, 1, 1, 1]
    assert cache.facts(scan(own_folder).facts([1])).frames.tolist() == [2]


def test_over_budget_is_refused_before_decoding(catalog):
    with pytest.raises(DataError, match="budget"):
        FrameCache.build(catalog, 4, budget_bytes=12 * 4 * 3 * 32 * 40 - 1)
    FrameCache.build(catalog, 1, budget_bytes=12 * 3 * 32 * 40)


def test_a_shared_cache_takes_its_room_on_the_disk_before_it_is_filled(
    catalog, tmp_path, monkeypatch
):
    """A write to a hole that a full disk cannot fill would end the process by SIGBUS."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            FrameCache.build(catalog, 4, path=tmp_path / "c")
    assert str(tmp_path) in str(caught.value.file)
    assert "make room" in str(caught.value.remedy)
    assert list(tmp_path.iterdir()) == []

    taken = []
    monkeypatch.setattr(
        "rhyme.loading.cache.Readers.frames",
        lambda *_: taken.append((tmp_path / ".c.partial" / "frames.npy").stat()) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        FrameCache.build(catalog, 4, path=tmp_path / "c")
    assert taken[0].st_blocks * 512 >= 12 * 4 * 3 * 32 * 40


def test_a_saved_cache_is_mapped_and_belongs_to_its_catalog(catalog, tmp_path):
    made = FrameCache.build(catalog, 2, path=tmp_path / "c")
    assert isinstance(made.frames, np.memmap)
    before = (tmp_path / "c" / "frames.npy").stat().st_mtime_ns
    again = FrameCache.build(catalog, 2, path=tmp_path / "c")
    assert (tmp_path / "c" / "frames.npy").stat().st_mtime_ns == before
    assert np.array_equal(made.frames, again.frames)
    travelled = pickle.loads(pickle.dumps(made))
    assert isinstance(travelled.frames, np.memmap)
    assert len(pickle.dumps(made)) < 2000
    with pytest.raises(DataError, match="other options"):
        FrameCache.build(catalog, 3, path=tmp_path / "c")
    with pytest.raises(DataError, match="other data"):
        FrameCache.build(catalog.select(np.arange(5)), 2, path=tmp_path / "c")
    (tmp_path / "c" / "times.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="cannot be read"):
        FrameCache.open(tmp_path / "c")


def in_grey(folder, level, changed_at):
    """Pictures of one level, which take the same number of bytes whatever it is."""
    folder.mkdir(exist_ok=True)
    for name in "abcd":
        file = folder / f"{name}.bmp"
        Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(file)
        os.utime(file, (changed_at, changed_at))


def test_a_saved_cache_is_not_that_of_files_that_were_replaced(tmp_path):
    in_grey(tmp_path / "data", 10, changed_at=1000)
    before = scan(tmp_path / "data")
    FrameCache.build(before, 1, path=tmp_path / "c")
    in_grey(tmp_path / "data", 240, changed_at=2000)
    after = scan(tmp_path / "data")
    assert after.fingerprint == before.fingerprint
    with pytest.raises(DataError, match="before files of the collection were changed") as caught:
        FrameCache.build(after, 1, path=tmp_path / "c")
    assert "delete the folder" in str(caught.value.remedy)
    assert FrameCache.build(after, 1, path=tmp_path / "other").frames.min() == 240


def test_a_run_opens_its_cache_when_files_were_only_staged_again(tmp_path):
    """A run keeps its catalog, which tells the times of the scan, whatever the disk says now."""
    in_grey(tmp_path / "data", 10, changed_at=1000)
    catalog = scan(tmp_path / "data", out=tmp_path / "catalog.arrow")
    made = FrameCache.build(catalog, 1, path=tmp_path / "c")
    in_grey(tmp_path / "data", 10, changed_at=2000)
    again = Catalog.open(tmp_path / "catalog.arrow")
    assert again.staged_again()
    opened = FrameCache.build(again, 1, path=tmp_path / "c")
    assert np.array_equal(opened.frames, made.frames)
    # A cache of an earlier version, which does not tell the times of its files.
    index = tmp_path / "c" / "index.json"
    told = json.loads(index.read_text())
    assert told.pop("identity") == catalog.identity
    index.write_text(json.dumps(told))
    assert np.array_equal(FrameCache.build(again, 1, path=tmp_path / "c").frames, made.frames)


def test_items_that_cannot_be_decoded_are_left_out(own_folder):
    catalog = scan(own_folder)
    (own_folder / "v02.mp4").unlink()
    cache = FrameCache.build(catalog, 2)
    assert list(cache.failed) == [2]
    assert cache.counts[2] == 0
    plan = ViewPlan(
        clips={"a": Clip()},
        views={"x": ViewSpec(clip="a", transform=EvalTransform(size=8, resize=8))},
    )
    source = CatalogSource(catalog, plan, batch_size=8, seed=0, cache=cache)
    assert source.left_out == {2: "cannot be decoded"}
    left = torch.arange(9)[torch.arange(9) != 2]
    ids = next(source.batches()).ids
    assert set(ids.tolist()) == set(catalog.facts(left).id.view(np.int64).tolist())
    for item in (0, 1, 3):
        (own_folder / f"v{item:02}.mp4").unlink()
    with pytest.raises(DataError, match="cannot be decoded"):
        FrameCache.build(catalog, 2)


def pictures(folder, count):
    folder.mkdir()
    for number in range(count):
        levels = np.full((9, 9, 3), number, dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"picture-{number:03}.png")


DEADLY = """
import os
from rhyme.catalog import Catalog

class Deadly(Catalog):
    def reader(self, index, **options):
        if self.item(index).path == "picture-041.png" and os.environ.get("DEADLY"):
            os._exit(9)
        return super().reader(index, **options)
"""


@pytest.mark.parametrize("size", [None, 16])
def test_few_frames_of_full_size_are_held(catalog, monkeypatch, size):
    """A film in 4K whose 64 frames are kept at 112 pixels does not stand in memory at 1.6 GB."""
    whole = FrameCache.build(catalog, 9, size)
    monkeypatch.setattr("rhyme.loading.decode.HELD", 2 * 3 * 32 * 40)
    asked, read = [], Readers.frames

    def noted(readers, row, times):
        asked.append(len(times))
        return read(readers, row, times)

    monkeypatch.setattr(Readers, "frames", noted)
    parts = FrameCache.build(catalog, 9, size)
    assert asked == [2, 2, 2, 2, 1] * len(catalog)
    for name in ("frames", "times", "maps", "counts"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


def test_a_parcel_holds_32_pictures_or_one_film(tmp_path, catalog, monkeypatch):
    seen = []

    def counted(job, parcels, **options):
        seen.append([len(parcel) for parcel in parcels])
        return map_ordered(job, parcels, **options)

    monkeypatch.setattr("rhyme.loading.cache.map_ordered", counted)
    pictures(tmp_path / "many", 70)
    FrameCache.build(scan(tmp_path / "many"), 1)
    FrameCache.build(catalog, 1)
    assert seen == [[32, 32, 6], [1] * len(catalog)]


def test_pictures_travel_together_and_fail_alone(tmp_path):
    pictures(tmp_path / "many", 70)
    catalog = scan(tmp_path / "many")
    (tmp_path / "many" / "picture-033.png").unlink()
    one, two = (FrameCache.build(catalog, 1, workers=workers) for workers in (0, 2))
    assert one.failed == two.failed
    assert list(one.failed) == [33]
    shown = [number for number in range(70) if number != 33]
    for cache in (one, two):
        assert cache.counts.tolist() == [int(number in shown) for number in range(70)]
        assert cache.frames[shown][:, 0, 0, 4, 4].tolist() == shown


@pytest.mark.slow
def test_one_that_kills_its_worker_takes_no_other_picture_along(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "deadly_reader.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    import deadly_reader

    pictures(tmp_path / "many", 70)
    scan(tmp_path / "many", out=tmp_path / "many.arrow")
    monkeypatch.setenv("DEADLY", "1")
    cache = FrameCache.build(deadly_reader.Deadly.open(tmp_path / "many.arrow"), 1, workers=1)
    assert list(cache.failed) == [41]
    assert cache.counts.sum() == 69
    assert cache.frames[[40, 42, 69]][:, 0, 0, 4, 4].tolist() == [40, 42, 69]


def test_items_of_another_collection_are_refused(catalog, own_folder):
    cache = FrameCache.build(catalog.select(np.arange(4)), 2)
    with pytest.raises(DataError, match="not in the frame cache"):
        cache.rows(catalog.facts().id)
