"""How a run ends before its time, and how it goes on."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading

import pytest
import torch
from torch import nn

from rhyme.config import dump_yaml, load
from rhyme.errors import CheckpointError, TrainingError
from rhyme.systems.base import StepOutput
from rhyme.training import Preempted, TrainConfig, checkpoint, latest
from support.logs import events, rows

# ---- not finite


def test_nan_stops_with_the_facts_and_leaves_the_checkpoint(bench):
    system = bench.Line(poison={4: float("nan")})
    with pytest.raises(TrainingError, match="step 4") as caught:
        bench.trainer(system).fit()
    assert caught.value.value["ids"] == [4, 5, 6, 7]
    assert "square" in caught.value.value["parts"]
    assert "lr" in caught.value.remedy
    (event,) = events(bench.run, "not_finite")
    assert (event["step"], event["ids"], event["loss"]) == (4, [4, 5, 6, 7], "nan")
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [3]
    assert int(checkpoint.read(latest(bench.run)).tensors["system/applied"]) == 3
    assert not (bench.run.path / "exports").exists()
    assert system.calls[-1] is False, "the memory is told that the step did not count"
    assert all(bool(p.isfinite().all()) for p in system.parameters())


def test_an_infinite_gradient_of_a_finite_loss_stops_too(bench):
    class Root(bench.Line):
        def training_step(self, batch, context):
            output = super().training_step(batch, context)
            return dataclasses.replace(output, loss=(output.loss * 0).sqrt())

    with pytest.raises(TrainingError, match="gradient"):
        bench.trainer(Root()).fit()


def test_skip_leaves_the_weights_and_goes_on(bench):
    system = bench.Line(poison={2: float("inf")})
    result = bench.trainer(system, nan="skip").fit()
    assert result.steps == 7
    assert int(system.applied) == 6
    assert math.isfinite(result.final_loss)
    assert len(events(bench.run, "not_finite")) == 1


def test_skip_gives_up_after_some_in_a_row(bench):
    system = bench.Line(poison={2: math.nan, 3: math.nan, 5: math.nan, 6: math.nan})
    assert bench.trainer(system, nan="skip", nan_limit=3, run=bench.new_run()).fit().steps == 7
    system = bench.Line(poison=dict.fromkeys((2, 3, 4), math.nan))
    with pytest.raises(TrainingError):
        bench.trainer(system, nan="skip", nan_limit=3).fit()


def test_skip_stops_if_the_state_was_poisoned(bench):
    class Norm(bench.Line):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def training_step(self, batch, context):
            scale = math.nan if context.step == 2 else 1.0
            loss = self.norm(batch.views["x"].data * scale).square().mean()
            return StepOutput(loss=loss)

    with pytest.raises(TrainingError):
        bench.trainer(Norm(), nan="skip").fit()


# ---- checkpoints and signals


def test_checkpoints_come_in_time_and_at_the_end(bench):
    bench.trainer(checkpoint_every=2, keep=10).fit()
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [2, 4, 6, 7]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_finishes_the_step_saves_and_asks_for_a_requeue(bench, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)

    class Interrupted(bench.Numbers):
        def observe(self, output):
            if self.position == 4:
                signal.raise_signal(number)

    with pytest.raises(Preempted) as caught:
        bench.trainer(source=Interrupted(), checkpoint_every=None).fit()
    assert caught.value.exit_code == 75
    assert name in str(caught.value)
    assert "--resume" in caught.value.remedy
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [4]
    assert signal.getsignal(number) == before
    system = bench.Line()
    bench.trainer(system, checkpoint_every=None).fit(resume=True)
    straight = bench.Line()
    bench.trainer(straight, run=bench.new_run()).fit()
    for p, q in zip(system.parameters(), straight.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_second_interrupt_ends_at_once(bench):
    class Impatient(bench.Line):
        def training_step(self, batch, context):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        bench.trainer(Impatient()).fit()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_trains_outside_the_main_thread(bench):
    result = []
    thread = threading.Thread(target=lambda: result.append(bench.trainer().fit().steps))
    thread.start()
    thread.join()
    assert result == [7]


def test_a_disk_that_refuses_stops_with_a_typed_error(bench, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    trainer = bench.trainer()
    monkeypatch.setattr(checkpoint, "write_bytes", full)
    with pytest.raises(CheckpointError, match="No space"):
        trainer.fit()


def test_resume_of_a_finished_run_changes_nothing(bench):
    first = bench.trainer()
    done = first.fit()
    system = bench.Line()
    again = bench.trainer(system).fit(resume=True)
    assert (again.steps, again.final_loss) == (7, done.final_loss)
    assert len(rows(bench.run)) == 4
    for p, q in zip(system.parameters(), first.system.parameters(), strict=True):
        assert torch.equal(p, q)


def test_options_that_went_through_a_file_are_the_same_options(bench, tmp_path):
    given = dataclasses.replace(bench.config, steps=None, epochs=2, clip_norm=1)
    (tmp_path / "train.yaml").write_text(dump_yaml(given))
    read = load(TrainConfig, tmp_path / "train.yaml")
    assert (type(given.epochs), type(read.epochs)) == (int, float)
    stop = {"stop": lambda step: step == 2}
    with pytest.raises(Preempted):
        bench.trainer(steps=None, epochs=2, clip_norm=1, keywords=stop).fit()
    changes = {"steps": None, "epochs": read.epochs, "clip_norm": read.clip_norm}
    assert bench.trainer(**changes).fit(resume=True).steps == 6


def test_resume_without_a_checkpoint_starts_at_the_beginning(bench):
    bench.trainer().fit(resume=True)
    assert events(bench.run, "started")[0]["step"] == 0


def test_an_epoch_begins_once_across_a_resume(bench):
    for step, expected in ((2, ["setup"]), (3, ["setup", ("epoch", 1)])):
        run = bench.new_run()
        with pytest.raises(Preempted):
            bench.trainer(run=run, keywords={"stop": lambda done, at=step: done == at}).fit()
        system = bench.Line()
        bench.trainer(system, run=run).fit(resume=True)
        assert system.calls[: len(expected)] == expected
        assert system.calls[len(expected)] is True


def test_a_change_of_environment_is_told(bench):
    with pytest.raises(Preempted):
        bench.trainer(keywords={"stop": lambda step: step == 2}).fit()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        bench.trainer().fit(resume=True)
    finally:
        torch.set_num_threads(threads)
    assert events(bench.run, "resumed")[0]["changed"] == {"threads": [threads, threads + 1]}
