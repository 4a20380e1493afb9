"""The source of batches: frames, order, workers, resumes, ranks, caches."""

from __future__ import annotations

import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rhyme.catalog import scan
from rhyme.errors import CheckpointError, DataError
from rhyme.loading import FrameCache, Source
from rhyme.loading.decode import Readers
from rhyme.views import Clip, ContrastTransform, ViewPlan, ViewSpec
from support.sources import make, take

TAKE = 8  # two epochs of three batches, and two more


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


def handles() -> int:
    """Files that this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="handles are read from /proc")
def test_a_collection_larger_than_the_files_that_may_be_open(own_folder, plan):
    """Every handle beyond those of the last few items is given back."""
    for item in range(9, 60):
        shutil.copyfile(own_folder / f"v{item % 9:02}.mp4", own_folder / f"v{item:02}.mp4")
    source = make(scan(own_folder), plan, batch_size=60)
    used = handles()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 24, hard))
    try:
        (batch,) = take(source, 1)
        assert handles() < used + 24
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        source.close()
    assert sorted(batch.index.tolist()) == list(range(60))
    assert not source.replaced


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
