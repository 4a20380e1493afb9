from __future__ import annotations

import errno
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from rhyme.catalog import Catalog, open_data, scan
from rhyme.errors import ConfigError, DataError
from rhyme.loading import (
    CatalogSource,
    FrameCache,
    PrepareOptions,
    inference_batches,
    prepare_file,
    prepare_shards,
    verify_shards,
)
from rhyme.media.shard_writer import ShardWriter

SMALL = PrepareOptions(size=24)


@pytest.fixture(scope="module")
def shards(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    prepare_shards(catalog, folder, SMALL, shard_bytes=16_000)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("shard-*.frames"))}


def test_items_are_those_of_the_source(catalog, shards):
    made = open_data(shards)
    assert len(files(shards)) > 2
    assert made.fingerprint == catalog.fingerprint
    for name in ("id", "path", "group", "start", "stop", "fps", "frames", "width", "height"):
        assert made.table[name].to_pylist() == catalog.table[name].to_pylist()
    for row in range(len(catalog)):
        whole, small = catalog.reader(row), made.reader(row)
        assert np.array_equal(whole.times, small.times)
        assert whole.info == small.info
        assert small.stored == (24, 30)


def test_psnr_is_measured_against_the_frame_scaled_only(catalog, shards):
    told = json.loads((shards / "prepared.json").read_text())
    made, errors = open_data(shards), []
    for row in range(len(catalog)):
        times = catalog.reader(row).times
        frames = catalog.reader(row).frames_at(times)
        small = functional.interpolate(frames, size=(24, 30), mode="bilinear", antialias=True)
        apart = made.reader(row).frames_at(times).double() - small.double()
        errors += apart.square().mean(dim=(1, 2, 3)).tolist()
    assert told["frames"] == len(errors)
    decibels = [10 * math.log10(255**2 / e) for e in (np.mean(errors), max(errors))]
    assert decibels == pytest.approx([told["psnr_mean"], told["psnr_worst"]], abs=1e-3)
    assert decibels[1] > 25


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_have_equal_ids_times_draws_and_maps(catalog, shards, plan, workers):
    def batches(items: Catalog):
        source = CatalogSource(items, plan, batch_size=4, seed=3, workers=workers)
        stream = source.batches()
        found = [next(stream) for _ in range(4)]
        stream.close()
        state = source.state_dict()
        source.close()
        return found, state

    (raw, state), (small, again) = batches(catalog), batches(open_data(shards))
    assert str(state) == str(again)
    for a, b in zip(raw, small, strict=True):
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.group, b.group)
        assert a.targets.keys() == b.targets.keys()
        assert all(torch.equal(a.targets[k], b.targets[k]) for k in a.targets)
        for name, view in a.views.items():
            other = b.views[name]
            assert torch.equal(view.times, other.times)
            assert torch.equal(view.map, other.map)
            assert torch.equal(view.valid, other.valid)
            apart = (view.data - other.data).abs().mean()
            assert 0 < apart < 0.5 * view.data.std() + 0.1, name


def test_judging_sees_the_same_moments(catalog, shards):
    class Plan:
        size, resize, mean, std = 20, 24, (0.0,) * 3, (1.0,) * 3
        frames, spacing, stride, aspect, interpolation = 1, 0.0, 0, None, "bilinear"

    pairs = zip(
        inference_batches(catalog, Plan()), inference_batches(open_data(shards), Plan()),
        strict=True,
    )  # fmt: skip
    for raw, small in pairs:
        assert torch.equal(raw.rows, small.rows)
        assert torch.equal(raw.times, small.times)
        assert (raw.pixels - small.pixels).abs().mean() < 0.02


def test_a_cache_of_shards_has_the_maps_of_one_of_films(catalog, shards):
    for size in (None, 20):
        raw = FrameCache.build(catalog, 4, size)
        small = FrameCache.build(open_data(shards), 4, size)
        assert np.array_equal(raw.maps, small.maps)
        assert np.array_equal(raw.times, small.times)
        assert np.abs(raw.frames.astype(int) - small.frames).mean() < 6


def test_a_run_of_the_same_call_has_nothing_to_do(catalog, shards):
    before = files(shards)
    again = prepare_shards(catalog, shards, SMALL, shard_bytes=16_000)
    assert again.found == again.files == 12
    assert files(shards) == before
    assert not (shards / "work").exists()


class Killed(BaseException):
    pass


def test_killed_anywhere_it_goes_on_to_the_same_bytes(catalog, shards, tmp_path, monkeypatch):
    """A kill before each write of a marker, part or shard, one after another, on one folder."""
    folder = tmp_path / "shards"
    real, calls = Path.replace, 0
    stop = 0

    def replace(self, target):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    kills = 0
    for limit in range(2, 200, 3):
        calls, stop = 0, limit
        try:
            done = prepare_shards(catalog, folder, SMALL, shard_bytes=16_000)
            break
        except Killed:
            kills += 1
            assert all(open_shard_is_whole(p) for p in folder.glob("shard-*.frames"))
            if not (folder / "catalog.arrow").exists():
                assert not list(folder.glob("*.arrow"))
    assert kills >= 3
    assert done.found > 0
    assert files(folder) == files(shards)
    assert open_data(folder).fingerprint == catalog.fingerprint
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith("shard")) == [
        "catalog.arrow",
        "prepared.json",
    ]


def open_shard_is_whole(path: Path) -> bool:
    from rhyme.media.shard import Shard

    shard = Shard(path)
    return all(len(shard.entry(k).times) == 16 for k in range(shard.entries))


def test_a_torn_part_is_made_again(catalog, shards, tmp_path):
    folder = tmp_path / "shards"
    job = prepare_file.PrepareFile(catalog=catalog, options=SMALL, folder=tmp_path)
    job(prepare_file.sources(catalog, SMALL)[0])
    part = prepare_file.part_of(tmp_path, 0)
    assert prepare_file.part_is_whole(part)
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)
    assert not prepare_file.part_is_whole(part)
    (folder / "work").mkdir(parents=True)
    shutil.copy(shards / "prepared.json", folder)
    shutil.copy(part, folder / "work")
    prepare_shards(catalog, folder, SMALL, shard_bytes=16_000)
    assert files(folder) == files(shards)


def test_a_lost_shard_is_made_again_under_its_name(catalog, shards, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(shards, folder)
    lost = folder / "shard-00001.frames"
    lost.unlink()
    made = open_data(folder)
    row = made.table["shard"].to_pylist().index(lost.name)
    with pytest.raises(DataError, match="missing"):
        made.reader(row).read([0.0])
    with pytest.raises(DataError, match=r"shard-00001.frames is missing"):
        verify_shards(folder)
    prepare_shards(catalog, folder, SMALL, shard_bytes=16_000)
    assert files(folder) == files(shards)
    assert verify_shards(folder)["shards"] == len(files(shards))


def test_verify_finds_every_changed_byte(shards, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(shards, folder)
    for name in ("shard-00000.frames", "shard-00002.frames"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=r"2 of .*shard-00000.frames has.*shard-00002.frames has"):
        verify_shards(folder)


def test_verify_of_a_folder_that_is_not_complete(shards, tmp_path):
    with pytest.raises(DataError, match="no prepared shards here"):
        verify_shards(tmp_path)
    shutil.copy(shards / "prepared.json", tmp_path)
    with pytest.raises(DataError, match="are not complete") as caught:
        verify_shards(tmp_path)
    assert "the same rhyme prepare command again" in str(caught.value.remedy)


def test_shards_do_not_need_the_films(own_folder, tmp_path):
    catalog = scan(own_folder)
    prepare_shards(catalog, tmp_path / "here", SMALL)
    shutil.rmtree(own_folder)
    (tmp_path / "here").rename(tmp_path / "there")
    made = open_data(tmp_path / "there")
    assert made.root == tmp_path / "there"
    assert made.reader(0).frames_at([0.3]).shape == (1, 3, 24, 30)


def test_damaged_films_are_left_out_or_marked(own_folder, tmp_path):
    gone, noise = own_folder / "v01.mp4", own_folder / "v02.mp4"
    catalog = scan(own_folder)
    gone.unlink()
    data = bytearray(noise.read_bytes())
    begin, end = data.index(b"mdat"), data.index(b"moov")
    start = begin + 3 * (end - begin) // 4  # behind the encoder's own words
    data[start : start + 60] = np.random.default_rng(0).bytes(60)
    stamp = noise.stat()
    noise.write_bytes(data)
    os.utime(noise, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    done = prepare_shards(catalog, tmp_path / "shards", SMALL)
    made = open_data(tmp_path / "shards")
    assert [row["path"] for row in made.quarantine.to_pylist()] == ["v01.mp4"]
    assert done.quarantine[0]["reason"].startswith("CatalogError")
    kept = catalog.select(indices=[k for k in range(9) if k != 1])
    assert made.fingerprint == kept.fingerprint
    assert done.damaged > 0
    assert made.partial == ["v02.mp4"]
    reader = made.reader(1)
    reader.read(reader.times)
    assert reader.corrupt == done.damaged == reader.info.corrupt_frames


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_file_only(own_folder, tmp_path, monkeypatch):
    catalog = scan(own_folder).select(indices=[0, 1, 2])
    monkeypatch.setattr("rhyme.loading.prepare.PrepareFile", _Deadly)
    done = prepare_shards(catalog, tmp_path / "shards", SMALL, workers=1)
    assert [row["path"] for row in done.quarantine] == ["v01.mp4"]
    assert "WorkerError" in done.quarantine[0]["reason"]
    assert done.files == 2


class _Deadly(prepare_file.PrepareFile):
    def __call__(self, source):
        if source.path == "v01.mp4":
            os._exit(9)
        super().__call__(source)


def test_a_full_disk_is_named_and_the_work_goes_on(catalog, shards, tmp_path, monkeypatch):
    folder, room = tmp_path / "shards", [60_000]
    real = ShardWriter._write

    def write(self, data):
        room[0] -= len(data)
        if room[0] < 0:
            raise self._failed(OSError(errno.ENOSPC, "No space left on device"))
        real(self, data)

    monkeypatch.setattr(ShardWriter, "_write", write)
    with pytest.raises(DataError, match="disk is full") as caught:
        prepare_shards(catalog, folder, SMALL, shard_bytes=16_000)
    assert "goes on" in str(caught.value)
    assert not (folder / "catalog.arrow").exists()
    monkeypatch.undo()
    assert prepare_shards(catalog, folder, SMALL, shard_bytes=16_000).items == 12
    assert files(folder) == files(shards)


def test_other_folders_data_and_options_are_refused(catalog, shards, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear reader")
    with pytest.raises(DataError, match="something else"):
        prepare_shards(catalog, tmp_path / "letters", SMALL)
    assert [p.name for p in (tmp_path / "letters").iterdir()] == ["a.txt"]
    with pytest.raises(DataError, match="other options"):
        prepare_shards(catalog, shards, PrepareOptions(size=20), shard_bytes=16_000)
    with pytest.raises(DataError, match="other data"):
        prepare_shards(catalog.select(indices=[0, 1]), shards, SMALL, shard_bytes=16_000)
    with pytest.raises(ConfigError, match="already"):
        prepare_shards(open_data(shards), tmp_path / "again", SMALL)
    for wrong in ({"size": 4}, {"quality": 0}, {"fps": 0.0}, {"format": "png"}):
        with pytest.raises(ConfigError):
            PrepareOptions(**wrong)


def test_a_catalog_that_names_files_elsewhere_is_refused(shards, tmp_path):
    from rhyme.catalog import prepared_catalog
    from rhyme.errors import CatalogError

    folder = tmp_path / "moved"
    shutil.copytree(shards, folder)
    made = open_data(folder)
    forged = prepared_catalog(
        made.select(indices=[0]), root=folder, shards=["../moved/shard-00000.frames"], entries=[0],
        hurt=np.zeros(1, bool), quarantine=[],
        facts={"shards": {"../moved/shard-00000.frames": {"bytes": 5}}},
    )  # fmt: skip
    with pytest.raises(CatalogError, match="which shard"):
        forged.reader(0)


def test_fewer_frames_a_second(catalog, tmp_path):
    done = prepare_shards(catalog, tmp_path / "shards", PrepareOptions(size=24, fps=2.0))
    made = open_data(tmp_path / "shards")
    assert done.frames == 12 * 4
    assert made.reader(0).times.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert made.fingerprint == catalog.fingerprint
    assert made.reader(0).read([0.9])[1].tolist() == [0.5]


def test_cut_pieces_and_frame_folders_and_pictures(own_folder, tmp_path):
    from PIL import Image

    long = own_folder / "v00.mp4"
    pictures = tmp_path / "mixed"
    (pictures / "seq").mkdir(parents=True)
    random = np.random.default_rng(0)
    for k in (1, 2, 4):
        Image.fromarray(random.integers(0, 255, (50, 40, 3), np.uint8)).save(
            pictures / "seq" / f"{k}.png"
        )
    shutil.copy(long, pictures / "film.mp4")
    catalog = scan(pictures, segment=0.4, spacing=0.04)
    done = prepare_shards(catalog, tmp_path / "shards", PrepareOptions(size=24, format="webp"))
    made = open_data(tmp_path / "shards")
    assert made.fingerprint == catalog.fingerprint
    assert done.files == 2
    for row in range(len(catalog)):
        item = catalog.item(row)
        whole, small = catalog.reader(row), made.reader(row)
        asked = np.linspace(item.start, item.stop, 9)
        assert np.array_equal(whole.read(asked)[1], small.read(asked)[1])
    picture = tmp_path / "one.png"
    Image.fromarray(random.integers(0, 255, (10, 12, 3), np.uint8)).save(picture)
    still = scan(picture)
    prepare_shards(still, tmp_path / "stills", SMALL)
    kept = open_data(tmp_path / "stills").reader(0)
    assert kept.stored == (10, 12)  # never enlarged
    assert kept.info.kind == "image"
    assert kept.frames_at([0.0]).shape == (1, 3, 10, 12)
