"""Where views are made: the choice by measuring, and batches that are finished on the device."""

from __future__ import annotations

import itertools
import threading
from functools import partial

import pytest
import torch

from rhyme.errors import ConfigError, DataError
from rhyme.loading import CatalogSource, FrameCache, Placement
from rhyme.loading import source as sources
from rhyme.loading.placement import Finisher
from rhyme.recipes import DataConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)  # nothing is computed there


class Run:
    """A consumer with a clock of its own, behind a queue of batches that were asked for ahead."""

    def __init__(self, cost, ahead=0, device=GPU, augment="auto", pauses=(), out=None):
        self.now, self.told, self.cost, self.pauses = 0.0, [], cost, set(pauses)
        self.placement = Placement(augment, device, tell=self.told.append, clock=lambda: self.now)
        self.placement.ahead = ahead
        self.queue = [self.placement.where for _ in range(ahead if out is None else out)]
        self.handed: list[str] = []

    def steps(self, count):
        for _ in range(count):
            self.queue.append(self.placement.where)
            where = self.queue.pop(0)
            self.now += self.cost[where] + (30.0 if len(self.handed) in self.pauses else 0.0)
            self.placement.handed_out(self.cost[where] / 2)
            self.handed.append(where)
        return self


@pytest.mark.parametrize("ahead", [0, 8])
@pytest.mark.parametrize(
    ("cpu", "device", "best"),
    [(1.0, 0.4, "device"), (0.4, 1.0, "cpu"), (1.0, 0.99, "cpu"), (1.0, 0.95, "device")],
)
def test_the_faster_place_is_found_and_kept(cpu, device, best, ahead):
    run = Run({"cpu": cpu, "device": device}, ahead).steps(400)
    assert run.handed[0] == "cpu"
    assert run.placement.decided == best
    assert set(run.handed[200:]) == {best}
    assert run.told == [
        {
            "chosen": best,
            "cpu_seconds": pytest.approx(cpu),
            "cpu_wait": pytest.approx(cpu / 2),
            "device_seconds": pytest.approx(device),
            "device_wait": pytest.approx(device / 2),
        }
    ]
    # Throughput after the choice: at least 0.97 of the better one's.
    assert min(cpu, device) / {"cpu": cpu, "device": device}[best] >= 0.97


def test_a_pause_for_a_checkpoint_does_not_decide():
    run = Run({"cpu": 1.0, "device": 0.5}, ahead=4, pauses={40}).steps(400)
    assert run.handed[40] == "device"
    assert run.placement.decided == "device"
    assert run.told[0]["device_seconds"] == pytest.approx(0.5)


def test_what_was_read_ahead_is_not_measured():
    """Batches from before a change come with the other place's times, and are left out."""
    run = Run({"cpu": 1.0, "device": 0.5}, ahead=20).steps(500)
    assert run.told[0]["cpu_seconds"] == pytest.approx(1.0)
    assert run.told[0]["device_seconds"] == pytest.approx(0.5)


def test_ranks_choose_at_the_same_batch_however_far_each_reads_ahead():
    """Each reads as far ahead as its memory allows; the choice is made by all together."""
    chosen = set()
    for out in range(10):
        run = Run({"cpu": 1.0, "device": 0.5}, ahead=9, out=out)
        while run.placement.decided is None:
            run.steps(1)
        chosen.add(len(run.handed))
        assert run.told[0]["cpu_seconds"] == pytest.approx(1.0)
        assert run.told[0]["device_seconds"] == pytest.approx(0.5)
    assert len(chosen) == 1


def test_no_more_batches_are_read_ahead_than_the_choice_reckons_with(catalog, plan, monkeypatch):
    monkeypatch.setattr(sources, "Finisher", partial(Finisher, beside=True))
    monkeypatch.setattr(sources.Pool, "_room", lambda _: 6)  # of 3 workers, in this process
    place = Placement("cpu", CPU)
    source = CatalogSource(catalog, plan, batch_size=2, seed=3, placement=place)
    out = []
    monkeypatch.setattr(place, "handed_out", lambda _: out.append(asked[0] - len(out) - 1))
    asked, positions = [0], source._order.positions

    def counted():
        for position in positions():
            asked[0] += 1
            yield position

    monkeypatch.setattr(source._order, "positions", counted)
    take(source, 12)
    CatalogSource(catalog, plan, batch_size=2, seed=3, placement=place, workers=3)  # sets `ahead`
    assert 6 <= max(out) <= place.ahead


def test_a_new_pass_does_not_count_the_time_between():
    run = Run({"cpu": 1.0, "device": 0.5}).steps(10)
    run.now += 1000.0
    run.placement.reopen()
    run.steps(300)
    assert run.told[0]["cpu_seconds"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("augment", "device", "where"),
    [
        ("auto", CPU, "cpu"),
        ("cpu", GPU, "cpu"),
        ("device", GPU, "device"),
        ("device", CPU, "device"),
    ],
)
def test_fixed_places_measure_nothing(augment, device, where):
    run = Run({"cpu": 1.0, "device": 0.1}, device=device, augment=augment).steps(200)
    assert set(run.handed) == {where}
    assert run.told == []


def test_another_word_is_refused():
    for refuse in (lambda: Placement("gpu", CPU), lambda: DataConfig(augment="gpu")):
        with pytest.raises(ConfigError, match="choose cpu, device or auto"):
            refuse()


def take(source, count):
    stream = source.batches()
    batches = list(itertools.islice(stream, count))
    stream.close()
    return batches


def close_to(first, second):
    """The same items, times and maps; pixels a level apart at most, but for a few."""
    for part in ("ids", "index", "group"):
        assert torch.equal(getattr(first, part), getattr(second, part))
    assert first.targets.keys() == second.targets.keys()
    assert first.views.keys() == second.views.keys()
    for name, view in first.views.items():
        other = second.views[name]
        assert torch.equal(view.times, other.times)
        assert torch.equal(view.map, other.map)
        assert torch.equal(view.valid, other.valid)
        gap = (view.data - other.data).abs() * 0.23 * 255
        assert gap.mean() < 0.05
        assert gap.flatten().quantile(0.99) <= 1.0


@pytest.mark.parametrize(
    ("workers", "cached"), [(0, False), (0, True), pytest.param(2, False, marks=pytest.mark.slow)]
)
def test_batches_finished_on_the_device_are_those_of_the_workers(
    catalog, plan, same, workers, cached
):
    cache = FrameCache.build(catalog, frames_per_item=4, size=24) if cached else None
    options = {"batch_size": 4, "seed": 3, "cache": cache}
    here = CatalogSource(catalog, plan, **options)
    there = CatalogSource(
        catalog, plan, **options, placement=Placement("device", CPU), workers=workers
    )
    batches = take(there, 4)
    for first, second in zip(take(here, 4), batches, strict=True):
        close_to(first, second)
    again = CatalogSource(catalog, plan, **options, placement=Placement("device", CPU))
    for first, second in zip(batches, take(again, 4), strict=True):
        same(first, second)  # bit for bit, in this process or in workers
    there.close()


def test_a_resumed_source_goes_on_where_the_choice_led(catalog, plan, same):
    def make(device):
        place = Placement("auto", torch.device(device))
        return CatalogSource(catalog, plan, batch_size=4, seed=3, placement=place), place

    source, place = make("meta")
    place.decided = "device"
    assert take(source, 1)[0].views["query"].data.device.type == "meta"
    state = source.state_dict()
    assert state["augment"] == "device"
    resumed, place = make("meta")
    assert place.where == "cpu"
    resumed.load_state_dict(state)
    assert take(resumed, 1)[0].views["query"].data.device.type == "meta"
    # A run that moved to a CPU makes its views there again.
    moved, _ = make("cpu")
    moved.load_state_dict(state)
    plain = CatalogSource(catalog, plan, batch_size=4, seed=3)
    plain.load_state_dict(state)
    same(take(plain, 1)[0], take(moved, 1)[0])


def test_views_made_beside_the_step_are_the_same(catalog, plan, same, monkeypatch):
    options = {"batch_size": 4, "seed": 3, "placement": Placement("device", CPU)}
    plain = take(CatalogSource(catalog, plan, **options), 4)
    monkeypatch.setattr(sources, "Finisher", partial(Finisher, beside=True))
    source = CatalogSource(catalog, plan, **options)
    stream = source.batches()
    states = []
    for expected in plain:
        same(expected, next(stream))
        states.append(source.state_dict())
    assert any(thread.name.startswith("views") for thread in threading.enumerate())
    stream.close()
    assert not any(thread.name.startswith("views") for thread in threading.enumerate())
    # What was begun ahead is not counted: a resumed source makes the batch that was not given out.
    resumed = CatalogSource(catalog, plan, **options)
    resumed.load_state_dict(states[1])
    same(plain[2], take(resumed, 1)[0])


def test_an_error_beside_the_step_comes_at_its_turn(catalog, plan, monkeypatch):
    monkeypatch.setattr(sources, "Finisher", partial(Finisher, beside=True))
    source = CatalogSource(catalog, plan, batch_size=4, seed=3)
    made, make = [], source._maker.__call__

    def third_fails(request):
        made.append(request)
        if len(made) == 3:
            raise DataError("no third batch")
        return make(request)

    monkeypatch.setattr(type(source._maker), "__call__", lambda _, request: third_fails(request))
    stream = source.batches()
    next(stream)
    assert len(made) == 2  # the second is under way during the first step
    next(stream)
    assert len(made) == 3
    with pytest.raises(DataError, match="no third batch"):
        next(stream)
