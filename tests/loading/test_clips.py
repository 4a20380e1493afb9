"""Clips on their way: from files, shards and memory, in workers, on the device, after a resume.

The films' frames tell their number and their item, so what was really decoded is read from pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from rhyme.catalog import open_data, scan
from rhyme.loading import (
    CatalogSource,
    FrameCache,
    Placement,
    PrepareOptions,
    gathering,
    prepare_shards,
)
from rhyme.loading.maker import BatchMaker, Request
from rhyme.loading.placement import finish
from rhyme.views import (
    Clip,
    ContrastTransform,
    EvalTransform,
    ShiftCropTransform,
    ViewPlan,
    ViewSpec,
)

CPU = torch.device("cpu")
FPS = 8
PLAIN = EvalTransform(size=24, resize=24, mean=(0.0,) * 3, std=(1.0,) * 3)


def dual(stride: int = 2, frames: int = 6) -> ViewPlan:
    """DUAL's three views and LSFD's parts, with a plain view of every clip to read."""
    rule = Clip(frames=frames, stride=stride, place="edges", reverse=0.5)
    clips = {
        "a": rule,
        "b": rule,
        "long": Clip(frames=3, stride=2 * stride, reverse=0.5),
        "one": Clip(part=(0, 2), of="long"),
        "two": Clip(part=(1, 2), of="long"),
        "pace": Clip(frames=3, strides=(1, 2, 4)),
    }
    weak, strong = (ContrastTransform.dual(size=16, weak=weak) for weak in (True, False))
    shift = ShiftCropTransform(size=16, resize=20)
    views = {
        "source": ViewSpec(clip="a", transform=weak, consistent="clip"),
        "positive": ViewSpec(clip="b", transform=strong, consistent="clip"),
        "shuffled": ViewSpec(clip="a", transform=shift, consistent="clip"),
    }
    plain = {f"plain_{name}": ViewSpec(clip=name, transform=PLAIN) for name in clips}
    return ViewPlan(clips=clips, views=views | plain)


def take(source: CatalogSource, count: int) -> list:
    stream = source.batches()
    batches = list(itertools.islice(stream, count))
    stream.close()
    return batches


def make(catalog, plan=None, **options) -> CatalogSource:
    return CatalogSource(catalog, plan or dual(), **({"batch_size": 4, "seed": 5} | options))


@pytest.fixture(scope="module")
def shards(catalog, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    prepare_shards(catalog, folder, PrepareOptions(size=24, quality=95))
    return open_data(folder)


@pytest.fixture(scope="module")
def cache(catalog):
    return FrameCache.build(catalog, 16, 24)


@pytest.fixture(scope="module")
def straight(catalog):
    return take(make(catalog), 5)


@pytest.mark.parametrize("way", ["files", "shards", "cache"])
@pytest.mark.parametrize("augment", ["cpu", "device"])
def test_the_frames_that_are_shown_are_those_that_were_drawn_in_that_order(
    catalog, shards, cache, straight, read_labels, way, augment
):
    data = shards if way == "shards" else catalog
    source = make(
        data,
        cache=cache if way == "cache" else None,
        placement=Placement(augment, CPU),
    )
    both = set()
    for batch, first in zip(take(source, 5), straight, strict=True):
        back = batch.targets["reversed"]
        both |= set(back.tolist())
        for name in dual().clips:
            view = batch.views[f"plain_{name}"]
            frames, items = read_labels(view.data)
            assert np.array_equal(frames, np.rint(view.times.numpy() * FPS).astype(int))
            assert np.array_equal(items, np.tile(batch.index[:, None], frames.shape[1]))
            steps = np.diff(frames, axis=1)
            if name == "pace":
                assert np.array_equal(steps, np.tile(batch.targets["pace/stride"], (2, 1)).T)
            else:
                steps = np.where(back[:, None], -steps, steps)
                assert steps.min() >= 0
                assert steps.max() == (4 if name == "long" else 2)
        parts = [batch.views[f"plain_{name}"].times for name in ("one", "two")]
        assert torch.equal(torch.cat(parts, dim=1)[:, ::2], batch.views["plain_long"].times)
        # One set of draws, whatever the frames come from.
        assert torch.equal(batch.index, first.index)
        for name, value in batch.targets.items():
            assert torch.equal(value, first.targets[name])
        for name, view in batch.views.items():
            assert torch.equal(view.times, first.views[name].times)
            assert view.data.shape == first.views[name].data.shape
            if way == "shards":
                assert torch.equal(view.map, first.views[name].map)
    assert both == {True, False}


@pytest.mark.parametrize("way", ["files", "shards", "cache"])
@pytest.mark.parametrize("augment", ["cpu", "device"])
def test_a_clip_is_seen_through_one_draw(catalog, shards, cache, way, augment):
    """Frames of the films are flat halves, so equal draws give equal maps and colours in order."""
    data = shards if way == "shards" else catalog
    source = make(data, cache=cache if way == "cache" else None, placement=Placement(augment, CPU))
    for batch in take(source, 2):
        for name in ("source", "positive", "shuffled"):
            maps = batch.views[name].map
            assert torch.equal(maps, maps[:, :1].expand_as(maps))
            assert len(torch.unique(maps[:, 0].flatten(1), dim=0)) > 1
        times, data = batch.views["source"].times, batch.views["source"].data
        for i, k in itertools.product(range(4), range(5)):
            if times[i, k] == times[i, k + 1]:  # held at an end of the item
                assert torch.equal(data[i, k], data[i, k + 1])


@pytest.mark.parametrize("way", ["files", "cache"])
@pytest.mark.parametrize("augment", ["cpu", "device"])
def test_any_stop_goes_on_bit_for_bit(catalog, cache, same, way, augment):
    options = {"cache": cache if way == "cache" else None}

    def fresh():
        return make(catalog, placement=Placement(augment, CPU), **options)

    whole = take(fresh(), 4)
    for stop in range(4):
        source, resumed = fresh(), fresh()
        take(source, stop)
        resumed.load_state_dict(source.state_dict())
        same(whole[stop], take(resumed, 1)[0])


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    ("way", "augment"),
    [
        ("files", "cpu"),
        pytest.param("files", "device", marks=pytest.mark.slow),
        pytest.param("shards", "cpu", marks=pytest.mark.slow),
        pytest.param("cache", "device", marks=pytest.mark.slow),
    ],
)
def test_workers_make_the_same_clips(catalog, shards, cache, same, way, augment, workers):
    data = shards if way == "shards" else catalog
    options = {"cache": cache if way == "cache" else None}
    here = make(data, placement=Placement(augment, CPU), **options)
    there = make(data, placement=Placement(augment, CPU), workers=workers, **options)
    for one, two in zip(take(here, 4), take(there, 4), strict=True):
        same(one, two)
    there.close()


def test_the_two_back_ends_differ_by_a_level(catalog, straight):
    levels = 255 * 0.225
    for one, two in zip(
        straight, take(make(catalog, placement=Placement("device", CPU)), 5), strict=True
    ):
        for name in ("source", "positive", "shuffled"):
            apart = (one.views[name].data - two.views[name].data).abs() * levels
            assert torch.equal(one.views[name].map, two.views[name].map)
            assert apart.mean() < 0.05
            assert apart.flatten().quantile(0.99) <= 2.0


def only_dual() -> ViewPlan:
    """Views that all scale a clip's frames alike."""
    plan = dual()
    views = {name: plan.views[name] for name in ("source", "positive")}
    views["shuffled"] = replace(views["positive"], clip="a")
    return ViewPlan(clips={"a": plan.clips["a"], "b": plan.clips["b"]}, views=views)


@pytest.mark.parametrize("way", ["files", "shards", "cache"])
def test_frames_go_to_the_device_as_small_as_their_views_want_them(
    catalog, shards, cache, same, way
):
    data = shards if way == "shards" else catalog
    maker = BatchMaker(
        catalog=data, plan=only_dual(), seed=1, cache=cache if way == "cache" else None
    )
    rows = np.arange(6)
    made = [maker(Request(epoch=0, rows=rows, repeats=0 * rows, raw=raw)) for raw in (False, True)]
    assert made[1].batch.views == {}
    for pixels in made[1].raw.pixels.values():
        assert {tuple(clip.shape[1:]) for clip in pixels.frames} == {(3, 18, 24)}
    # Cuts alone are left to do, so both back ends give the same bits.
    same(made[0].batch, finish(made[1].batch, made[1].raw, maker.plan, CPU))


@pytest.mark.parametrize("limit", [1, 100_000])
def test_views_made_a_few_items_at_a_time_are_the_same_bits(own_folder, same, monkeypatch, limit):
    catalog = scan(own_folder)
    (own_folder / "v03.mp4").unlink()  # another takes its place, in a group of its own
    rows = np.arange(9)[::-1].copy()

    def make():
        maker = BatchMaker(catalog=catalog, plan=dual(), seed=1)
        return maker(Request(epoch=0, rows=rows, repeats=0 * rows))

    whole = make()
    monkeypatch.setattr(gathering, "HELD", limit)
    sizes, apply = [], ViewPlan.apply

    def counted(self, pixels, draws, device=None):
        sizes.append(len(draws.clips["a"]))
        return apply(self, pixels, draws, device)

    monkeypatch.setattr(ViewPlan, "apply", counted)
    parts = make()
    same(whole.batch, parts.batch)
    assert [one.path for one in parts.replaced] == ["v03.mp4"]
    assert sum(sizes) == 9
    assert max(sizes) == (1 if limit == 1 else 2)


@pytest.mark.parametrize(
    ("short", "shown", "valid"),
    [
        ("repeat", [0, 2, 4, 4, 4, 4], [True] * 6),
        ("loop", [0, 2, 4, 1, 3, 0], [True] * 6),
        ("pad", [0, 2, 4, None, None, None], [True] * 3 + [False] * 3),
    ],
)
def test_short_films_follow_the_policy(own_folder, film, read_labels, short, shown, valid):
    film(own_folder / "v00.mp4", 0, 5)
    plan = ViewPlan(
        clips={"a": Clip(frames=6, stride=2, short=short)},
        views={"x": ViewSpec(clip="a", transform=PLAIN)},
    )
    batch = take(make(scan(own_folder), plan, batch_size=9, shuffle=False), 1)[0]
    view = batch.views["x"]
    frames, _ = read_labels(view.data[0])
    assert [k for k, real in zip(frames, view.valid[0], strict=True) if real] == [
        k for k in shown if k is not None
    ]
    assert view.valid[0].tolist() == valid
    assert (view.data[0][~view.valid[0]] == 0).all()
