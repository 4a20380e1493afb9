from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rhyme.catalog import scan
from rhyme.errors import CheckpointError, DataError
from rhyme.loading import CatalogSource, FrameCache, Source
from rhyme.loading.decode import Readers
from rhyme.views import Clip, ContrastTransform, ViewPlan, ViewSpec

TAKE = 8  # two epochs of three batches, and two more


def take(source: Source, count: int) -> list:
    stream = source.batches()
    batches = list(itertools.islice(stream, count))
    stream.close()
    return batches


def make(catalog, plan, **options) -> CatalogSource:
    return CatalogSource(catalog, plan, **({"batch_size": 4, "seed": 3} | options))


@pytest.fixture
def straight(catalog, plan) -> list:
    source = make(catalog, plan)
    assert isinstance(source, Source)
    return take(source, TAKE)


def test_batches_show_the_frames_that_their_times_say(catalog, plan, straight, read_labels):
    for batch in straight:
        for view in ("plain", "other"):
            frames, items = read_labels(batch.views[view].data[:, 0])
            times = batch.views[view].times[:, 0].numpy()
            assert np.array_equal(frames, np.rint(times * 8).astype(int))
            assert np.array_equal(items, batch.index.numpy())
        assert not torch.equal(batch.views["plain"].times, batch.views["other"].times)
        assert (batch.views["plain"].times != batch.views["other"].times).all()
        assert not torch.equal(batch.views["query"].data, batch.views["key"].data)
        assert batch.ids.tolist() == catalog.facts(batch.index).id.view(np.int64).tolist()
        assert batch.group.tolist() == catalog.group_codes[batch.index].tolist()


def test_every_item_comes_once_in_an_epoch(straight):
    epochs = [torch.cat([b.index for b in straight if b.epoch == e]).tolist() for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_make_the_same_batches(catalog, plan, straight, same, workers):
    source = make(catalog, plan, workers=workers)
    for first, second in zip(straight, take(source, TAKE), strict=True):
        same(first, second)
    again = make(catalog, plan)
    again.load_state_dict(source.state_dict())  # what was read ahead is not counted
    assert source.state_dict()["epoch"] == 2
    following = take(again, 1)[0]
    same(following, take(source, 1)[0])  # the pool lives on over iterators
    source.close()


def test_resume_at_every_position_continues_bit_for_bit(catalog, plan, straight, same):
    for stop in range(TAKE):
        source = make(catalog, plan)
        take(source, stop)
        state = source.state_dict()
        resumed = make(catalog, plan)
        resumed.load_state_dict(state)
        same(straight[stop], take(resumed, 1)[0])


def test_two_resumes_in_one_epoch_and_one_at_its_end(catalog, plan, straight, same):
    got, state = [], None
    for count in (1, 1, 1, 2, 3):
        source = make(catalog, plan)
        if state is not None:
            source.load_state_dict(state)
        got += take(source, count)
        state = source.state_dict()
    for first, second in zip(straight, got, strict=True):
        same(first, second)


def test_ranks_share_a_global_batch(catalog, plan, straight, same, monkeypatch):
    from rhyme import distributed

    for rank in range(2):
        part = slice(2 * rank, 2 * rank + 2)
        monkeypatch.setattr(distributed, "rank_slice", lambda n, part=part: part)
        batch = take(make(catalog, plan), 1)[0]
        whole = straight[0]
        expected = replace(
            whole,
            ids=whole.ids[part],
            index=whole.index[part],
            group=whole.group[part],
            views={name: view[part] for name, view in whole.views.items()},
            targets={name: value[part] for name, value in whole.targets.items()},
        )
        same(expected, batch)


@pytest.mark.parametrize("change", [{"seed": 4}, {"batch_size": 3}, {"drop_last": False}])
def test_the_state_of_another_source_is_refused(catalog, plan, change):
    state = make(catalog, plan).state_dict()
    with pytest.raises(CheckpointError, match=next(iter(change)).replace("_", " ")):
        make(catalog, plan, **change).load_state_dict(state)


def test_the_state_of_other_data_or_another_plan_is_refused(catalog, plan):
    state = make(catalog, plan).state_dict()
    with pytest.raises(CheckpointError, match="fingerprint"):
        make(catalog.select(np.arange(11)), plan).load_state_dict(state)
    other = ViewPlan(clips=plan.clips, views={"query": plan.views["query"]})
    with pytest.raises(CheckpointError, match="view plan"):
        make(catalog, other).load_state_dict(state)


def test_too_few_items_for_a_batch_are_refused(catalog, plan):
    with pytest.raises(DataError, match="12 items do not fill a batch of 13"):
        make(catalog, plan, batch_size=13)


def test_items_that_are_too_short_are_left_out_and_named(own_folder, film, tmp_path):
    film(own_folder / "v05.mp4", 5, 4)
    catalog = scan(own_folder)
    transform = ContrastTransform.moco_v2(size=16)
    plan = ViewPlan(
        clips={"a": Clip(frames=5, short="drop")},
        views={"x": ViewSpec(clip="a", transform=transform)},
    )
    source = make(catalog, plan)
    assert source.left_out == {5: "too short for the clips (4 frames)"}
    assert source.items == 8
    indices = torch.cat([b.index for b in take(source, 2)]).tolist()
    assert sorted(indices) == list(range(8))
    assert take(source, 1)[0].views["x"].data.shape == (4, 5, 3, 16, 16)
    impossible = ViewPlan(
        clips={"a": Clip(frames=50, short="drop")},
        views={"x": ViewSpec(clip="a", transform=transform)},
    )
    with pytest.raises(DataError, match="too short"):
        make(catalog, impossible)


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
    assert 4 not in torch.cat([b.index for b in batches])


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


RSS = "VmRSS:"


def resident() -> int:
    """Bytes of this process in memory."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(RSS)[1].split()[0]) * 1024


@pytest.mark.parametrize("cycles", [320, pytest.param(5000, marks=pytest.mark.slow)])
def test_open_sample_close_does_not_grow(catalog, cycles):
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    readers = Readers(catalog, limit=2)
    sizes = []
    for cycle in range(cycles):
        readers.frames(cycle % len(catalog), np.array([0.3, 1.1]))
        assert len(readers) <= 2
        if cycle % 8 == 7:
            readers.close()
            sizes.append(resident())
    half = sizes[len(sizes) // 3 :]
    slope = np.polyfit(8 * np.arange(len(half)), half, 1)[0]
    assert slope < 2048  # bytes a cycle; a frame of these films has 3840


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


def test_weights_change_the_items_and_repeats_their_draws(catalog, plan):
    weights = torch.zeros(12)
    weights[5] = 1.0
    source = make(catalog, plan, weights=weights)
    batch = take(source, 1)[0]
    assert batch.index.tolist() == [5, 5, 5, 5]
    queries = batch.views["query"].data
    assert all(not torch.equal(queries[0], queries[k]) for k in (1, 2, 3))
    source.set_sampler_weights(torch.ones(12))
    assert source.state_dict()["weights"].keys() == {"0", "1"}


def test_waiting_is_counted_and_files_are_closed(catalog, plan):
    source = make(catalog, plan)
    take(source, 3)
    assert 0 < source.wait_seconds < 60
    assert 0 < len(source._maker.readers) <= 8
    source.close()
    assert len(source._maker.readers) == 0


def test_a_cache_gives_the_same_kind_of_batches(catalog, plan, read_labels, tmp_path):
    cache = FrameCache.build(catalog, 4, path=tmp_path / "cache")
    source = make(catalog, plan, cache=cache)
    batches = take(source, TAKE)
    for batch in batches:
        frames, items = read_labels(batch.views["plain"].data[:, 0])
        assert items.tolist() == batch.index.tolist()
        assert set(frames) <= {0, 5, 10, 15}
        assert frames.tolist() == np.rint(batch.views["plain"].times[:, 0].numpy() * 8).tolist()
        assert (batch.views["plain"].times != batch.views["other"].times).all()
    part = make(catalog.select(np.arange(3, 11)), plan, cache=cache)
    frames, items = read_labels(take(part, 1)[0].views["plain"].data[:, 0])
    assert set(items) <= set(range(3, 11))


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [False, True])
def test_workers_read_the_same_cache(catalog, plan, same, tmp_path, mapped):
    cache = FrameCache.build(catalog, 4, path=tmp_path / "cache" if mapped else None)
    here, there = make(catalog, plan, cache=cache), make(catalog, plan, cache=cache, workers=1)
    for one, two in zip(take(here, TAKE), take(there, TAKE), strict=True):
        same(one, two)
    there.close()
