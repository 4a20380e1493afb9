"""Saving in the background: what is saved, what waits for what, and what a bad disk does."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
import time

import pytest
import torch

from resume.harness import state_hashes
from rhyme.errors import CheckpointError, ConfigError, PackageError, RunError
from rhyme.run import RunFolder, read_jsonl
from rhyme.systems.base import StepContext
from rhyme.training import Preempted, TrainConfig, checkpoint, loggers, packages, recorder
from rhyme.training.writer import Background, Copies
from support.logs import events

OPERATIONS = ("write_bytes", "write_tensors", "sync_file", "sync_folder", "rename")


class Killed(BaseException):
    """The process ends here: nothing that catches errors may run."""


@pytest.fixture
def gate(monkeypatch):
    """Writes that wait until they are let through."""
    opened, begun, true = threading.Event(), threading.Event(), checkpoint.write_tensors

    def waiting(path, tensors):
        begun.set()
        assert opened.wait(10)
        true(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", waiting)
    opened.begun = begun
    return opened


def failing(monkeypatch, *steps, times=10**9, operation="write_tensors", code=errno.ENOSPC):
    """The disk refuses the checkpoints of some steps, so often."""
    true, left = getattr(checkpoint, operation), dict.fromkeys(steps, times)

    def refuse(path, *rest):
        for step in left:
            if checkpoint.folder_name(step) in str(path) and left[step]:
                left[step] -= 1
                raise OSError(code, os.strerror(code))
        return true(path, *rest)

    monkeypatch.setattr(checkpoint, operation, refuse)


# ---- the state at the call


def test_what_is_saved_is_the_state_at_the_call(bench, gate):
    """Every tensor and every counter changes after the call and before anything is written."""
    system = bench.Line()
    trainer = bench.trainer(
        system, steps=7, checkpoint_every=None, keywords={"stop": lambda s: s == 2}
    )
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(Preempted):
        trainer.fit()
    gate.clear()
    gate.begun.clear()
    trainer.step = 3
    with trainer.saver:
        before = {n: t.clone() for n, t in trainer.state()[0].items()}
        values = trainer.state()[1]["values"]
        trainer.saver.save(3)
        assert gate.begun.wait(10)
        tensors = trainer.state()[0]
        assert len(tensors) > 8
        for tensor in tensors.values():
            tensor.add_(1)
        trainer.step, trainer.source.position = 99, 99
        gate.set()
    held = checkpoint.read(bench.run.checkpoints / "step-00000003")
    assert held.tensors.keys() == before.keys()
    assert all(torch.equal(held.tensors[n], before[n]) for n in before)
    for table in (values, held.state["values"]):
        del table["trainer"]["recorder"]["seconds"]
    assert held.state["values"] == values
    assert not any(torch.equal(tensors[n], before[n]) for n in before)


def test_copies_are_contiguous_and_their_buffers_serve_again():
    copies = Copies()
    first = copies.take({"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(1)})
    assert first["w"].is_contiguous()
    places = {name: t.data_ptr() for name, t in first.items()}
    weights = torch.rand(3, 2, requires_grad=True)
    again = copies.take({"w": weights, "n": torch.tensor(2)})
    assert {name: t.data_ptr() for name, t in again.items()} == places
    assert torch.equal(again["w"], weights)
    assert not again["w"].requires_grad
    grown = copies.take({"w": torch.zeros(4, 2)})
    assert list(grown) == ["w"]
    assert grown["w"].shape == (4, 2)


def test_saving_in_the_background_saves_the_same_bytes(bench):
    folders = []
    for on in (True, False):
        run = bench.new_run()
        bench.trainer(run=run, async_save=on, checkpoint_every=2, keep=9).fit()
        steps = checkpoint.steps_on_disk(run.checkpoints)
        assert steps == [2, 4, 6, 7]
        names = (checkpoint.folder_name(s) for s in steps)
        folders.append([(run.checkpoints / n / checkpoint.TENSORS).read_bytes() for n in names])
    assert folders[0] == folders[1]


# ---- what waits for what


def test_training_goes_on_while_a_checkpoint_is_written(bench, gate):
    seen = []

    class Watching(bench.Line):
        def training_step(self, batch, context: StepContext):
            seen.append((context.step, bool(checkpoint.steps_on_disk(bench.run.checkpoints))))
            if context.step == 5:
                gate.set()
            return super().training_step(batch, context)

    bench.trainer(Watching(), steps=7, checkpoint_every=3).fit()
    assert [s for s, written in seen if not written][:6] == [0, 1, 2, 3, 4, 5]
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [6, 7]


def test_one_save_is_in_flight_at_a_time(bench, monkeypatch):
    true, now, most = checkpoint.write_tensors, [0], [0]

    def slow(path, tensors):
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.02)
        true(path, tensors)
        now[0] -= 1

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    bench.trainer(steps=7, checkpoint_every=1, keep=9).fit()
    assert most == [1]
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [1, 2, 3, 4, 5, 6, 7]


def test_a_slow_disk_is_told_once(bench, monkeypatch, capsys):
    true = checkpoint.write_tensors
    monkeypatch.setattr("rhyme.training.saving.SLOW", 0.01)

    def slow(path, tensors):
        time.sleep(0.05)
        true(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    bench.trainer(checkpoint_every=1, keywords={"progress": True}).fit()
    assert capsys.readouterr().err.count("training waited") == 1


def test_being_stopped_waits_for_the_write(bench, gate):
    threading.Timer(0.3, gate.set).start()
    with pytest.raises(Preempted):
        bench.trainer(keywords={"stop": lambda step: step == 2}).fit()
    assert gate.is_set()
    assert checkpoint.newest(bench.run.checkpoints) == bench.run.checkpoints / "step-00000002"


def test_a_run_that_fails_waits_for_the_checkpoint_before(bench, gate):
    threading.Timer(0.3, gate.set).start()
    system = bench.Line(poison={4: float("nan")})
    with pytest.raises(Exception, match="finite"):
        bench.trainer(system, checkpoint_every=4).fit()
    assert checkpoint.newest(bench.run.checkpoints) == bench.run.checkpoints / "step-00000004"


def test_a_second_interrupt_does_not_wait(bench, gate):
    class Impatient(bench.Line):
        def training_step(self, batch, context):
            if context.step == 4:
                raise KeyboardInterrupt
            return super().training_step(batch, context)

    with pytest.raises(KeyboardInterrupt):
        bench.trainer(Impatient(), checkpoint_every=3).fit()
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == []
    gate.set()


def test_a_job_in_the_background_hands_over_what_it_raises():
    background = Background()

    def job():
        raise ValueError("x")

    assert background.wait() is None
    background.start(job)
    assert isinstance(background.wait(), ValueError)
    assert background.wait() is None


# ---- a kill


def test_a_run_killed_at_any_operation_of_a_save_resumes_to_the_same_bits(bench, monkeypatch):
    """The world stops before each operation of the thread that writes; then the run goes on."""
    options = {"steps": 3, "checkpoint_every": 1, "keep": 2, "log_every": 1}
    straight = bench.trainer(**options)
    straight.fit()
    wanted = state_hashes(straight)
    point, finished = 0, False
    while not finished:
        point += 1
        count, run = 0, bench.new_run()
        for name in OPERATIONS:
            true = getattr(checkpoint, name)

            def faulty(*args, true=true, point=point):
                nonlocal count
                count += 1
                if count >= point:
                    raise Killed
                true(*args)

            monkeypatch.setattr(checkpoint, name, faulty)
        with contextlib.suppress(Killed):
            bench.trainer(run=run, **options).fit()
            finished = True
        monkeypatch.undo()
        # Other weights than the run began with, unless it was killed before its first checkpoint.
        system, saved = bench.Line(), checkpoint.steps_on_disk(run.checkpoints)
        for parameter in system.parameters() if saved else ():
            parameter.data.zero_()
        resumed = bench.trainer(system, run=run, **options)
        resumed.fit(resume=True)
        assert state_hashes(resumed) == wanted, f"killed before operation {point}"
        assert [row["step"] for row in read_jsonl(run.metrics)] == [1, 2, 3]
        assert checkpoint.steps_on_disk(run.checkpoints)[-2:] == [2, 3]
    assert point > 27


# ---- a full disk


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_failed_save_stops_the_run_at_the_next(bench, monkeypatch, operation, code):
    failing(monkeypatch, 4, operation=operation, code=code)
    steps = []
    with pytest.raises(CheckpointError, match=os.strerror(code)) as caught:
        bench.trainer(
            checkpoint_every=2, keep=9, keywords={"stop": lambda step: bool(steps.append(step))}
        ).fit()
    assert "step-00000004" in str(caught.value.file)
    assert steps[-1] == 6, "it came out at the save after it"
    assert checkpoint.newest(bench.run.checkpoints) == bench.run.checkpoints / "step-00000002"


@pytest.mark.parametrize("on", [True, False])
def test_a_failed_save_can_be_tolerated(bench, monkeypatch, capsys, on):
    failing(monkeypatch, 2, 4)
    trainer = bench.trainer(
        checkpoint_every=2, save_errors="warn", async_save=on, keywords={"progress": True}
    )
    assert trainer.fit().steps == 7
    assert len(events(bench.run, "save_failed")) == 2
    assert "No space left" in events(bench.run, "save_failed")[0]["reason"]
    assert "training goes on" in capsys.readouterr().err
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [6, 7]


@pytest.mark.parametrize("policy", ["stop", "warn"])
def test_the_last_save_has_to_succeed(bench, monkeypatch, policy):
    failing(monkeypatch, 7)
    with pytest.raises(CheckpointError, match="No space left"):
        bench.trainer(save_errors=policy).fit()
    assert checkpoint.newest(bench.run.checkpoints) == bench.run.checkpoints / "step-00000006"
    assert bench.trainer().steps == 7
    monkeypatch.undo()
    assert bench.trainer().fit(resume=True).steps == 7


def test_the_last_save_makes_good_for_a_failed_one(bench, monkeypatch):
    """Stopped right after a save that fails once: the same step is written again."""
    failing(monkeypatch, 3, times=1)
    with pytest.raises(Preempted):
        bench.trainer(keywords={"stop": lambda step: step == 4}).fit()
    assert events(bench.run, "save_failed")
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [4]


def test_the_library_s_own_failure_is_typed(tmp_path):
    """A limit of the system on the size of files, met where the tensors are written."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            checkpoint.save(tmp_path, 1, {"w": torch.zeros(10_000)}, {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("policy", ["stop", "warn"])
def test_rows_that_cannot_be_written(bench, monkeypatch, policy, capsys):
    true = recorder.append_jsonl

    def full(path, row):
        if row["step"] == 4:
            raise RunError("a row could not be written: No space left on device", file=path)
        true(path, row)

    monkeypatch.setattr(recorder, "append_jsonl", full)
    trainer = bench.trainer(save_errors=policy, keywords={"progress": True})
    if policy == "stop":
        with pytest.raises(RunError, match="No space left"):
            trainer.fit()
        assert checkpoint.newest(bench.run.checkpoints) == bench.run.checkpoints / "step-00000003"
    else:
        trainer.fit()
        assert "training goes on" in capsys.readouterr().err
        assert [row["step"] for row in read_jsonl(bench.run.metrics)] == [2, 6, 7]


class Once(dict):
    """Factors of the loss by step, each for the first time that the step is done."""

    def get(self, key, default=None):
        return self.pop(key, default)


KINDS = ("started", "estimate", "collapse", "logger_failed", "compile", "not_finite", "rolled_back",
         "preempted", "finished")  # fmt: skip


@pytest.mark.parametrize("policy", ["stop", "warn"])
@pytest.mark.parametrize("kind", KINDS)
def test_events_that_cannot_be_written(bench, monkeypatch, capsys, policy, kind):
    """Each kind of event meets a full disk, under both policies."""
    refused, true = [], RunFolder.event

    def full(run, event, **facts):
        if event == kind:
            refused.append(event)
            raise RunError("a row could not be written: No space left on device", file=run.events)
        true(run, event, **facts)

    class Deciding(bench.Line):
        def training_step(self, batch, context):
            if kind == "compile" and context.step == 3:
                trainer.stepper.compiler._decide("eager", reason="no compiler")
            return super().training_step(batch, context)

    monkeypatch.setattr(RunFolder, "event", full)
    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", lambda run, step: 1 / 0)
    trainer = bench.trainer(
        Deciding(poison=Once({4: float("nan"), 5: float("nan")})),
        keywords={"progress": True, "stop": lambda step: step == 6 and kind == "preempted"},
        nan="rollback",
        nan_limit=2,
        loggers=("tensorboard",),
        log_every=1,
        collapse=1e6,
        collapse_logs=1,
        save_errors=policy,
    )
    wanted = RunError if policy == "stop" else Preempted if kind == "preempted" else None
    with pytest.raises(wanted) if wanted else contextlib.nullcontext():
        trainer.fit()
    assert refused
    if policy == "warn":
        assert trainer.step >= 6
        assert "training goes on" in capsys.readouterr().err


def test_a_row_that_cannot_be_appended_names_the_file(bench):
    (bench.folder / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match="row could not be written") as caught:
        recorder.append_jsonl(bench.folder / "metrics.jsonl", {"step": 1})
    assert "metrics.jsonl" in str(caught.value)


# ---- exports on the way


def test_an_export_on_the_way_is_replaced_by_later_ones(bench, monkeypatch):
    seen, true = [], packages.save_part

    def noted(directory, export, card=None):
        seen.append(card["step"])
        true(directory, export, card)

    monkeypatch.setattr(packages, "save_part", noted)
    bench.trainer(export_every=2).fit()
    assert seen == [2, 4, 6, 7]


@pytest.mark.parametrize("policy", ["stop", "warn"])
def test_an_export_that_fails(bench, monkeypatch, policy):
    true = packages.save_part

    def full(directory, export, card=None):
        if card["step"] == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(directory))
        true(directory, export, card)

    monkeypatch.setattr(packages, "save_part", full)
    trainer = bench.trainer(export_every=2, save_errors=policy)
    if policy == "stop":
        with pytest.raises(PackageError, match="No space left"):
            trainer.fit()
    else:
        trainer.fit()
        (event,) = events(bench.run, "export_failed")
        assert "No space left" in event["reason"]


def test_the_last_export_has_to_succeed(bench, monkeypatch):
    def full(directory, export, card=None):
        raise OSError(errno.ENOSPC, "No space left on device", str(directory))

    monkeypatch.setattr(packages, "save_part", full)
    with pytest.raises(PackageError, match="No space left"):
        bench.trainer(save_errors="warn").fit()
    assert checkpoint.newest(bench.run.checkpoints) == bench.run.checkpoints / "step-00000007"


# ---- options


def test_checkpoints_that_stay_for_good_are_made_and_kept(bench):
    bench.trainer(checkpoint_every=2, keep=1, keep_every=3).fit()
    assert checkpoint.steps_on_disk(bench.run.checkpoints) == [3, 6, 7]


@pytest.mark.parametrize(
    "wrong", [{"keep_every": 0}, {"export_every": -1}, {"save_errors": "ignore"}]
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError):
        TrainConfig(steps=1, **wrong)


def test_how_a_run_saves_may_change_when_it_goes_on():
    plain = TrainConfig(steps=1)
    other = dataclasses.replace(
        plain, keep_every=2, async_save=False, save_errors="warn", export_every=3
    )
    changed = {
        f.name
        for f in dataclasses.fields(plain)
        if getattr(plain, f.name) != getattr(other, f.name)
    }
    assert changed <= set(plain.operational)
