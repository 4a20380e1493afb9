"""Items that cannot be read: replaced by seed, counted, named."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

from rhyme.catalog import scan
from rhyme.errors import DataError, MediaError, TruncatedMedia
from rhyme.loading.decode import Readers
from support.sources import make, take


def damage(path) -> None:
    """Overwrite the pictures, keep size and time: the scan's facts still hold."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat") + 4
    stop = start - 8 + int.from_bytes(content[start - 8 : start - 4], "big")
    content[start:stop] = b"\xff" * (stop - start)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_damaged_items_are_replaced_by_seed_and_named(own_folder, plan, same, read_labels):
    catalog = scan(own_folder)
    (own_folder / "v02.mp4").unlink()
    first, second = make(catalog, plan, batch_size=3), make(catalog, plan, batch_size=3)
    batches = take(first, 6)
    for one, two in zip(batches, take(second, 6), strict=True):
        same(one, two)
    assert first.replaced == second.replaced
    assert {(r.path, r.epoch) for r in first.replaced} == {("v02.mp4", 0), ("v02.mp4", 1)}
    assert all("gone" in r.reason for r in first.replaced)
    seen = torch.cat([b.index for b in batches])
    assert 2 not in seen
    stand_ins = [int(np.flatnonzero(catalog.facts().id == r.by)[0]) for r in first.replaced]
    counts = torch.bincount(seen, minlength=9)
    for row in range(9):
        assert counts[row] == (0 if row == 2 else 2 + stand_ins.count(row))
    for batch in batches:
        assert read_labels(batch.views["plain"].data[:, 0])[1].tolist() == batch.index.tolist()
    resumed = make(catalog, plan, batch_size=3)
    resumed.load_state_dict(first.state_dict())
    same(take(first, 1)[0], take(resumed, 1)[0])


def test_pictures_that_cannot_be_decoded_are_replaced_too(own_folder, plan):
    catalog = scan(own_folder)
    damage(own_folder / "v04.mp4")
    source = make(catalog, plan, batch_size=3)
    batches = take(source, 3)
    assert {r.path for r in source.replaced} == {"v04.mp4"}
    assert source.replaced.maxlen is not None  # it does not grow for ever
    assert 4 not in torch.cat([b.index for b in batches])


def test_moments_well_behind_the_last_frame_are_damage(catalog):
    readers = Readers(catalog)
    end = catalog.item(0).stop
    frames, shown = readers.frames(0, np.array([end + 0.5]))
    assert len(frames) == 1
    assert shown[0] < end
    with pytest.raises(TruncatedMedia, match="the pictures end at") as raised:
        readers.frames(0, np.array([0.0, 10 * end + 10]))
    assert raised.value.file is not None
    assert raised.value.file.endswith(catalog.item(0).path)
    readers.close()


@pytest.fixture
def damaged_twice(own_folder):
    """A catalog of 40 films, of which two proved damaged after the scan."""
    for item in range(9, 40):
        shutil.copyfile(own_folder / f"v{item % 9:02}.mp4", own_folder / f"v{item:02}.mp4")
    catalog = scan(own_folder)
    damage(own_folder / "v04.mp4")
    (own_folder / "v31.mp4").unlink()
    return catalog


def test_five_in_a_hundred_damaged_give_the_same_batches_twice_and_after_any_stop(
    damaged_twice, plan
):
    def ids(source, count):
        return [batch.ids.tolist() for batch in take(source, count)]

    told: list[str] = []
    straight = make(damaged_twice, plan, tell=lambda one: told.append(one.path))
    wanted = ids(straight, 20)  # two epochs of ten batches
    assert wanted == ids(make(damaged_twice, plan), 20)
    assert sorted(told) == ["v04.mp4", "v31.mp4"]  # once each, though both came twice
    assert len(straight.replaced) >= 4
    for stop in (1, 10, 13):
        source = make(damaged_twice, plan)
        assert ids(source, stop) == wanted[:stop]
        told.clear()
        resumed = make(damaged_twice, plan, tell=lambda one: told.append(one.path))
        resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
        assert ids(resumed, 20 - stop) == wanted[stop:]
        assert resumed.state_dict() == straight.state_dict()
        assert len(told) == 2 - len(source.state_dict()["damaged"]["files"])


def test_what_was_damaged_before_a_stop_counts_towards_the_limit(own_folder, plan):
    catalog = scan(own_folder)
    for item in range(4):
        (own_folder / f"v{item:02}.mp4").unlink()
    source = make(catalog, plan, batch_size=1)
    stream = source.batches()
    while len(source.state_dict()["damaged"]["files"]) < 3:
        next(stream)
    stream.close()
    again = make(catalog, plan, batch_size=1)
    again.load_state_dict(source.state_dict())
    with pytest.raises(DataError, match="4 of 9 items"):
        take(again, 18)


def test_more_may_be_damaged_where_that_is_asked_for(own_folder, plan):
    catalog = scan(own_folder)
    for item in range(4):
        (own_folder / f"v{item:02}.mp4").unlink()
    assert len(take(make(catalog, plan, batch_size=3, bad_limit=0.5), 3)) == 3


FICKLE = """
import os
import numpy as np
from rhyme.catalog import Catalog

class Fickle(Catalog):
    # One film ends its worker, but only when two frames of it are read together.
    def reader(self, index, **options):
        reader = super().reader(index, **options)
        if self.item(index).path == "v03.mp4":
            deadly = np.load(self.root.parent / "deadly.npy")
            read = reader.read
            def guarded(times):
                if np.array_equal(np.sort(np.floor(np.asarray(times) * 8)), deadly):
                    os._exit(9)
                return read(times)
            reader.read = guarded
        return reader
"""


@pytest.mark.slow
def test_a_deadly_item_stays_out_after_its_batch_however_much_was_made_ahead(
    own_folder, plan, tmp_path, monkeypatch
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "fickle.py").write_text(FICKLE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    import fickle

    scan(own_folder, out=tmp_path / "films.arrow")
    catalog = fickle.Fickle.open(tmp_path / "films.arrow")
    read = []
    for batch in take(make(catalog.select(), plan, batch_size=3), 6):
        for place in np.flatnonzero(batch.index.numpy() == 3):
            times = [batch.views[view].times[place, 0].item() for view in ("plain", "other")]
            read.append(sorted(np.rint(np.array(times) * 8)))
    assert read[0] != read[1]  # harmless in the second epoch
    np.save(tmp_path / "deadly.npy", np.array(read[0]))

    found = []
    for prefetch in (1, 6):  # with six, the second epoch is made before the first one is known
        source = make(catalog, plan, batch_size=3, workers=1, prefetch=prefetch)
        found.append([batch.index.tolist() for batch in take(source, 6)])
        state = source.state_dict()
        source.close()
        assert [path for path, _ in state["damaged"]["files"]] == ["v03.mp4"]
        assert [id_ for id_, _ in state["damaged"]["deadly"]] == [catalog.item(3).id]
        assert not any(3 in rows for rows in found[-1])
    assert found[0] == found[1]
    resumed = make(catalog, plan, batch_size=3)
    resumed.load_state_dict(state)
    assert not any(3 in batch.index for batch in take(resumed, 3))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_too_many_damaged_items_stop_the_run_with_a_list(own_folder, plan, workers):
    catalog = scan(own_folder)
    for item in range(4):
        (own_folder / f"v{item:02}.mp4").unlink()
    source = make(catalog, plan, batch_size=3, workers=workers)
    with pytest.raises(DataError, match="4 of 9 items") as error:
        take(source, 6)
    assert "v03.mp4" in str(error.value)
    source.close()


KILLER = """
import os
from rhyme.catalog import Catalog

class Killer(Catalog):
    def reader(self, index, **options):
        if self.item(index).path == "v03.mp4":
            os._exit(9)
        return super().reader(index, **options)
"""


@pytest.mark.slow
def test_an_item_that_kills_its_worker_is_found_and_replaced(
    own_folder, plan, tmp_path, monkeypatch, same
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    import killer

    scan(own_folder, out=tmp_path / "films.arrow")
    catalog = killer.Killer.open(tmp_path / "films.arrow")
    source = make(catalog, plan, batch_size=3, workers=1, prefetch=1)
    batches = take(source, 3)
    source.close()
    assert [(r.path, r.epoch) for r in source.replaced] == [("v03.mp4", 0)]
    assert "died" in source.replaced[0].reason or "WorkerError" in source.replaced[0].reason
    (own_folder / "v03.mp4").unlink()
    for one, two in zip(batches, take(make(catalog.select(), plan, batch_size=3), 3), strict=True):
        same(one, two)


def test_a_file_that_was_gone_for_a_moment_is_opened_anew(own_folder):
    """To go back to a film's start is to open it again, which fails while the folder is gone."""
    catalog = scan(own_folder)
    readers = Readers(catalog)
    later = readers.frames(0, np.array([0.7]))[0]
    aside = own_folder.with_name("aside")
    own_folder.rename(aside)
    with pytest.raises(MediaError):
        readers.frames(0, np.array([0.0]))
    aside.rename(own_folder)
    assert torch.equal(readers.frames(0, np.array([0.7]))[0], later)
    assert len(readers.frames(0, np.array([0.0]))[0]) == 1
