"""What becomes of steps that are not finite: skipped, rolled back, or the end."""

from __future__ import annotations

import dataclasses
import errno
import math
import os

import pytest
import torch

from rhyme.errors import CheckpointError, ConfigError, TrainingError
from rhyme.loading.batch import Batch
from rhyme.run import read_jsonl
from rhyme.training import Preempted, TrainConfig, checkpoint
from support.logs import events

ROLL = {"nan": "rollback", "nan_limit": 2, "steps": 12, "checkpoint_every": 3, "keep": 10}


class Poisoned:
    """Batches by their number; some are full of NaN."""

    def __init__(self, source, bad: set[int]) -> None:
        self.source, self.bad, self.given = source, bad, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def batches(self):
        for batch in self.source.batches():
            number = self.source.position - 1
            self.given.append(number)
            view = batch.views["x"]
            data = view.data * math.nan if number in self.bad else view.data
            yield Batch(
                ids=batch.ids,
                index=batch.index,
                group=batch.group,
                views={"x": dataclasses.replace(view, data=data)},
            )


def weights(system) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in system.parameters()])


def test_rolls_back_reads_on_and_ends_as_if_the_batches_had_not_been(bench):
    system, source = bench.Line(), Poisoned(bench.Numbers(), {7, 8})
    bench.trainer(system, source, **ROLL).fit()
    # Steps 0 to 6 took batches 0 to 6; 7 and 8 failed; steps 6 to 11 took 9 to 14.
    assert source.given == list(range(15))
    (event,) = events(bench.run, "rolled_back")
    assert (event["step"], event["to"], event["number"], event["of"]) == (7, 6, 1, 2)
    assert len(events(bench.run, "not_finite")) == 2
    assert [row["step"] for row in read_jsonl(bench.run.metrics)] == [2, 4, 6, 8, 10, 12]

    class Skipping(bench.Numbers):
        """The source of a run that never had batches 6, 7 and 8."""

        def batches(self):
            for batch in super().batches():
                if self.position - 1 == 5:
                    self.position = 9
                yield batch

    other = bench.Line()
    bench.trainer(other, Skipping(), bench.new_run(), **ROLL).fit()
    assert torch.equal(weights(system), weights(other))
    assert int(system.applied) == 12


@pytest.mark.parametrize(
    ("keep", "bad", "stops"),
    [
        *((10, {7, 8}, (stop,)) for stop in (4, 7, 8, 10)),
        (2, {7, 8}, (7, 1)),  # two stops between two saves: the regular one before them stays
        (1, {7, 8}, (7,)),
        (2, {8, 9}, (10, 2)),  # what was saved among the bad batches is not resumed from
    ],
)
def test_a_stop_anywhere_around_a_roll_back_changes_no_bit(bench, keep, bad, stops):
    straight, options = bench.Line(), {**ROLL, "keep": keep}
    source = Poisoned(bench.Numbers(items=400), bad)
    bench.trainer(straight, source, bench.new_run(), **options).fit()
    run = bench.new_run()
    for part, stop in enumerate(stops):
        taken = []

        def ask(step: int, taken=taken, stop=stop) -> bool:
            taken.append(step)
            return len(taken) == stop

        source = Poisoned(bench.Numbers(items=400), bad)
        with pytest.raises(Preempted):
            bench.trainer(source=source, run=run, keywords={"stop": ask}, **options).fit(part > 0)
    system = bench.Line()
    bench.trainer(system, Poisoned(bench.Numbers(items=400), bad), run, **options).fit(resume=True)
    assert torch.equal(weights(system), weights(straight))


def test_what_was_saved_among_the_bad_batches_goes_with_the_roll_back(bench):
    taken = []

    def ask(step: int) -> bool:
        taken.append(step)
        return len(taken) == 11

    with pytest.raises(Preempted):
        bench.trainer(
            source=Poisoned(bench.Numbers(), {8, 9}), keywords={"stop": ask}, **ROLL
        ).fit()
    assert taken == [1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 8]
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [3, 6, 8]
    bench.trainer(source=Poisoned(bench.Numbers(), {8, 9}), **ROLL).fit(resume=True)
    assert [e["step"] for e in events(bench.run, "resumed")] == [8]
    assert len(events(bench.run, "rolled_back")) == 1, "the run did not go that way again"


def test_a_disk_that_keeps_what_was_saved_among_the_bad_batches_stops_the_run(bench, monkeypatch):
    true = checkpoint.rename

    def refuse(old, new):
        if checkpoint.folder_name(9) == old.name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        true(old, new)

    monkeypatch.setattr(checkpoint, "rename", refuse)
    with pytest.raises(CheckpointError, match="Read-only"):
        bench.trainer(source=Poisoned(bench.Numbers(), {8, 9}), **ROLL).fit()
    monkeypatch.undo()
    bench.trainer(source=Poisoned(bench.Numbers(), {8, 9}), **ROLL).fit(resume=True)
    assert [e["to"] for e in events(bench.run, "rolled_back")] == [6]


@pytest.mark.parametrize(("keep", "every", "to"), [(1, 3, 6), (1, 1, 8), (2, 1, 8)])
def test_saves_among_the_bad_batches_leave_the_way_back(bench, keep, every, to):
    options = {**ROLL, "nan_limit": 3, "keep": keep, "checkpoint_every": every}
    bench.trainer(source=Poisoned(bench.Numbers(), {8, 9, 10}), **options).fit()
    assert [e["to"] for e in events(bench.run, "rolled_back")] == [to]
    assert len(checkpoint.steps_on_disk(bench.run.checkpoints)) == keep


def test_only_so_many_roll_backs(bench):
    source = Poisoned(bench.Numbers(), {4, 5, 7, 8, 10, 11})
    with pytest.raises(TrainingError, match="not finite"):
        bench.trainer(source=source, **ROLL).fit()
    assert [e["number"] for e in events(bench.run, "rolled_back")] == [1, 2]


def test_without_a_checkpoint_before_it_the_run_stops(bench):
    with pytest.raises(TrainingError, match="not finite"):
        bench.trainer(source=Poisoned(bench.Numbers(), {1, 2}), **ROLL).fit()
    assert not events(bench.run, "rolled_back")
    with pytest.raises(ConfigError, match="checkpoints to go back to"):
        TrainConfig(steps=1, nan="rollback", checkpoint_every=None)


def test_a_damaged_checkpoint_is_passed_over(bench):
    class Damaging(Poisoned):
        def batches(self):
            for batch in super().batches():
                if self.given[-1] == 8:
                    newest = bench.run.checkpoints / checkpoint.folder_name(6)
                    (newest / "state.json").write_text("{}")
                yield batch

    bench.trainer(source=Damaging(bench.Numbers(), {7, 8}), async_save=False, **ROLL).fit()
    assert events(bench.run, "rolled_back")[0]["to"] == 3


def test_rolls_back_at_once_if_the_state_was_poisoned(bench):
    class Norm(bench.Line):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)

        def training_step(self, batch, context):
            self.norm(batch.views["x"].data)
            return super().training_step(batch, context)

    system = Norm()
    bench.trainer(system, Poisoned(bench.Numbers(), {7}), **{**ROLL, "nan_limit": 5}).fit()
    assert events(bench.run, "rolled_back")[0]["to"] == 6
    assert bool(torch.isfinite(system.norm.running_mean).all())
