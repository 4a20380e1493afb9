"""Views as a PyTorch dataset: the bits of the house's own source, in anybody's loop."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from rhyme.catalog import scan
from rhyme.errors import ConfigError, DataError, MediaError
from rhyme.loading import Batch, CatalogSource, ViewDataset, collate
from rhyme.views import Clip, EvalTransform, ViewPlan, ViewSpec, apply_points

PLAIN = EvalTransform(size=24, resize=24)


@pytest.fixture
def dataset(catalog, plan) -> ViewDataset:
    return ViewDataset(catalog, plan, seed=3)


def batches_of(dataset, order, **options) -> list[Batch]:
    return list(DataLoader(dataset, batch_sampler=order, collate_fn=collate, **options))


def test_batches_are_those_of_the_source(catalog, plan, dataset, same):
    source = CatalogSource(catalog, plan, batch_size=4, seed=3)
    wanted = list(itertools.islice(source.batches(), 6))
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        mine = [b for b in wanted if b.epoch == epoch]
        got = batches_of(dataset, [b.index.tolist() for b in mine])
        for first, second in zip(mine, got, strict=True):
            same(first, second)


def test_one_by_one_is_the_same_as_a_batch_at_once(dataset, same):
    rows = [7, 0, 11, 3]
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 12
    assert all(len(dataset[row]) == 1 for row in rows)
    same(collate([dataset[row] for row in rows]), dataset.__getitems__(rows))
    same(dataset[-1], dataset[11])
    with pytest.raises(IndexError, match="12"):
        dataset[12]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_live_on_see_the_epoch(dataset, same, start):
    dataset[0]  # a decoder is open in this process when workers are forked
    loader = DataLoader(
        dataset,
        batch_size=4,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=start,
        collate_fn=collate,
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        for batch in loader:
            assert batch.epoch == epoch
            same(batch, dataset.__getitems__(batch.index.tolist()))
    del loader


def test_seed_and_epoch_alone_decide_the_draws(catalog, plan, dataset, same):
    first = dataset[5]
    dataset.set_epoch(1)
    other = dataset[5]
    assert not torch.equal(first.views["query"].map, other.views["query"].map)
    dataset.set_epoch(0)
    same(first, dataset[5])
    unlike = ViewDataset(catalog, plan, seed=4)[5]
    assert not torch.equal(first.views["query"].map, unlike.views["query"].map)
    with pytest.raises(ConfigError, match="from 0"):
        dataset.set_epoch(-1)


def test_a_copy_travels_with_its_epoch(dataset, same):
    dataset.set_epoch(2)
    wanted = dataset[1]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.epoch == 2
    same(wanted, copy[1])
    copy.set_epoch(0)
    assert dataset.epoch == 2


def test_maps_lead_to_the_frame_that_was_decoded(dataset, read_labels):
    """The middle of a crop lies within the film's 40 x 32 pixels, in the frame of its time."""
    batch = collate([dataset[row] for row in range(12)])
    query = batch.views["query"]
    assert query.map is not None
    middle = apply_points(query.map[:, 0], torch.full((12, 1, 2), 7.5))[:, 0]
    assert ((middle >= 0) & (middle <= torch.tensor([39.0, 31.0]))).all()
    frames, items = read_labels(batch.views["plain"].data[:, 0])
    assert items.tolist() == batch.index.tolist()
    assert frames.tolist() == (batch.views["plain"].times[:, 0] * 8).round().int().tolist()


def test_short_items_are_left_out_by_name(catalog, film, tmp_path, plan):
    for item, frames in enumerate((16, 4)):
        film(tmp_path / "some" / f"v{item}.mp4", item, frames)
    clips = {"a": Clip(frames=8, short="drop")}
    long = ViewPlan(clips=clips, views={"x": ViewSpec(clip="a", transform=PLAIN)})
    dataset = ViewDataset(scan(tmp_path / "some"), long)
    assert len(dataset) == 1
    assert dataset.left_out == {1: "too short for the clips (4 frames)"}
    clips = {"a": Clip(frames=17, short="drop")}
    with pytest.raises(DataError, match="no item"):
        ViewDataset(catalog, replace(long, clips=clips))


def test_a_damaged_item_is_replaced_and_named_or_refused(own_folder, plan):
    catalog = scan(own_folder)
    (own_folder / "v02.mp4").unlink()
    dataset = ViewDataset(catalog, plan)
    with pytest.warns(UserWarning, match=r"v02\.mp4 is damaged and replaced: .*gone"):
        batch = dataset.__getitems__([1, 2])
    assert batch.index[0] == 1
    assert batch.index[1] != 2
    with pytest.raises(MediaError, match="gone"):
        ViewDataset(catalog, plan, replace_damaged=False)[2]


def test_what_cannot_be_joined_is_refused(dataset):
    one, two = dataset[0], dataset[1]
    with pytest.raises(DataError, match="no sample"):
        collate([])
    noted = [replace(b, targets={"shape": (4, 4)}) for b in (one, two)]
    assert collate(noted).targets == {"shape": (4, 4)}
    with pytest.raises(DataError, match="'shape' differs"):
        collate([noted[0], replace(two, targets={"shape": (5, 5)})])
    with pytest.raises(DataError, match="not in every"):
        collate([noted[0], replace(two, targets={})])
