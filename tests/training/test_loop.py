from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time

import pytest
import torch
from torch import nn

from rhyme.config import dump_yaml, load
from rhyme.errors import CheckpointError, ConfigError, DataError, TrainingError
from rhyme.run import read_jsonl
from rhyme.systems.base import ParameterGroup, Phase, StepOutput, System
from rhyme.training import OptimizerConfig, Preempted, ScheduleConfig, TrainConfig, checkpoint


def events(run, kind):
    return [event for event in read_jsonl(run.events) if event["event"] == kind]


def rows(run):
    return [row for row in read_jsonl(run.metrics) if "loss" in row]


class Two(System):
    """Two parameter groups; what reaches the step is written down."""

    def __init__(self, phases=(), schedule=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 1)
        self._phases, self._schedule, self.log = phases or (Phase(),), schedule, []

    def parameter_groups(self):
        return (
            ParameterGroup(name="a", parameters=tuple(self.a.named_parameters("a"))),
            ParameterGroup(
                name="b",
                parameters=tuple(self.b.named_parameters("b")),
                lr_scale=0.1,
                schedule=self._schedule,
            ),
        )

    def phases(self):
        return self._phases

    def training_step(self, batch, context):
        wanted = {n for n, p in self.named_parameters() if p.requires_grad}
        weights = {n: p.detach().clone() for n, p in self.named_parameters()}
        self.log.append((context, batch.ids.tolist(), wanted, weights))
        return StepOutput(loss=self.b(self.a(batch.views["x"].data)).square().mean())


# ---- length of the run, and the order of calls


def test_hooks_are_called_once_and_in_order(bench):
    system = bench.Line()
    result = bench.trainer(system).fit()
    # Three batches an epoch.
    assert system.calls == [
        "setup",
        ("epoch", 0),
        *[True] * 3,
        ("epoch", 1),
        *[True] * 3,
        ("epoch", 2),
        True,
        "finish",
    ]
    assert result.steps == 7
    assert result.items_per_second > 0
    assert 0 <= result.wait_share <= 1
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"steps": None, "epochs": 2}, 6),
        ({"steps": None, "epochs": 0.5}, 2),
        ({"steps": 4, "epochs": 2}, 4),
        ({"steps": 9, "epochs": 2}, 6),
    ],
)
def test_steps_and_epochs(bench, length, steps):
    assert bench.trainer(**length).steps == steps


def test_epochs_count_the_batches_of_all_repeats(bench):
    phases = (Phase(name="one", groups=("a",), repeats=2), Phase(name="two", groups=("b",)))
    system, source = Two(phases), bench.Numbers()
    trainer = bench.trainer(system, source, steps=None, epochs=4)
    trainer.fit()
    assert trainer.steps == 4
    contexts = [entry[0] for entry in system.log]
    assert [(c.step, c.phase, c.repeat) for c in contexts[:4]] == [
        (0, "one", 0),
        (0, "one", 1),
        (0, "two", 0),
        (1, "one", 0),
    ]
    assert source.position == 12
    assert system.log[0][1] != system.log[1][1], "every repeat has a fresh batch"


def test_frozen_groups_keep_weights_and_momentum(bench):
    phases = (Phase(name="one", groups=("a",), repeats=2), Phase(name="two", groups=("b",)))
    system = Two(phases)
    trainer = bench.trainer(system, steps=3)
    trainer.fit()
    assert system.log[0][2] == {"a.weight", "a.bias"}
    assert system.log[2][2] == {"b.weight", "b.bias"}
    weights = [entry[3] for entry in system.log]
    assert not torch.equal(weights[0]["a.weight"], weights[1]["a.weight"])
    assert torch.equal(weights[0]["b.weight"], weights[2]["b.weight"])
    # Between the phases of the next step: b has moved, a has not.
    assert not torch.equal(weights[2]["b.weight"], weights[3]["b.weight"])
    assert torch.equal(weights[2]["a.weight"], weights[3]["a.weight"])
    assert all(p.requires_grad for p in system.parameters())


def test_the_source_observes_every_output(bench):
    source = bench.Numbers()
    bench.trainer(source=source).fit()
    assert isinstance(source.seen, StepOutput)


def test_dropout_is_a_function_of_the_step_not_of_the_global_generator(bench):
    finals = []
    for _ in range(2):
        torch.rand(17)  # the global generator stands somewhere else
        system = bench.Line()
        bench.trainer(system, run=bench.new_run()).fit()
        finals.append(torch.cat([p.detach().flatten() for p in system.parameters()]))
    assert torch.equal(*finals)


# ---- optimisation


def test_rates_of_groups_follow_their_schedules(bench):
    trainer = bench.trainer(
        Two(schedule="constant"), steps=4, schedule=ScheduleConfig(name="cosine"), log_every=1
    )
    trainer.fit()
    assert [row["lrs"]["a"] for row in rows(bench.run)] == pytest.approx(
        [0.025 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    )
    assert [row["lrs"]["b"] for row in rows(bench.run)] == pytest.approx([0.005] * 4)
    # The rate reaches the optimiser: two steps by hand.
    tables = trainer.stepper.optimizers["b"].param_groups
    assert [table["lr"] for table in tables] == pytest.approx([0.005])


def test_one_sgd_step_by_hand(bench):
    system, twin = Two(), Two()
    bench.trainer(
        system, steps=1, optimizer=OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.01)
    ).fit()
    twin.b(twin.a(bench.Numbers().rows[:4])).square().mean().backward()
    for rate, now, before in ((0.1, system.a, twin.a), (0.01, system.b, twin.b)):
        for p, q in zip(now.parameters(), before.parameters(), strict=True):
            assert q.grad is not None
            torch.testing.assert_close(p, q - rate * (q.grad + 0.01 * q))


def test_clipping_bounds_the_step_and_records_the_true_norm(bench):
    norms, moved = {}, {}
    for clip in (None, 1e-3):
        system = Two()
        before = nn.utils.parameters_to_vector(system.parameters()).clone()
        run = bench.new_run()
        optimizer = OptimizerConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
        trainer = bench.trainer(system, run=run, steps=1, clip_norm=clip, optimizer=optimizer)
        trainer.stepper.groups["b"] = dataclasses.replace(trainer.stepper.groups["b"], lr_scale=1.0)
        trainer.fit()
        after = nn.utils.parameters_to_vector(system.parameters()).detach()
        moved[clip] = float((after - before.detach()).norm())
        norms[clip] = rows(run)[0]["grad_norm"]
    assert norms[None] == norms[1e-3] == pytest.approx(moved[None], rel=1e-5)
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-2)


def test_optimiser_state_can_be_reset_by_a_hook(bench):
    class Reset(bench.Line):
        def begin_epoch(self, context):
            if context.epoch == 2:
                context.reset_optimiser(["all"])
                self.left = dict(trainer.stepper.optimizers["all"].state)

    system = Reset()
    trainer = bench.trainer(system)
    trainer.fit()
    assert system.left == {}
    with pytest.raises(ConfigError, match="group"):
        trainer.stepper.reset(["al"])


def test_sampler_weights_reach_the_source_and_drop_what_was_read_ahead(bench):
    class Weighted(bench.Line):
        def begin_epoch(self, context):
            if context.epoch == 1:
                context.set_sampler_weights(torch.arange(float(context.items)))

    source = bench.Numbers()
    bench.trainer(Weighted(), source).fit()
    assert source.weights == [float(i) for i in range(12)]
    assert source.opened == 2


def test_hooks_get_features_and_packages_from_who_built_the_trainer(bench):
    class Asking(bench.Line):
        def begin_epoch(self, context):
            self.got = (context.features(None, self), context.load("some"))

    system = Asking()
    bench.trainer(
        system,
        keywords={"features": lambda plan, module: "features", "load": lambda path: path},
    ).fit()
    assert system.got == ("features", "some")


# ---- refusals


def test_what_does_not_fit_is_refused_before_training(bench):
    with pytest.raises(ConfigError, match="batch size"):
        bench.trainer(source=bench.Numbers(batch_size=6))
    with pytest.raises(DataError, match="whole batch"):
        bench.trainer(source=bench.Numbers(items=3))
    with pytest.raises(ConfigError, match="parameter group") as caught:
        bench.trainer(Two((Phase(groups=("c",)),)))
    assert "known: a, b" in str(caught.value)
    with pytest.raises(ConfigError, match="repeat"):
        bench.trainer(Two((Phase(repeats=0),)))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="not available"):
            bench.trainer(device="cuda")


def test_a_loss_without_gradient_is_refused(bench):
    class Still(bench.Line):
        def training_step(self, batch, context):
            return StepOutput(loss=torch.tensor(1.0))

    with pytest.raises(TrainingError, match="no gradient"):
        bench.trainer(Still()).fit()


def test_running_out_of_device_memory_says_what_was_in_it(bench):
    class Large(bench.Line):
        def training_step(self, batch, context):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="out of memory at step 0") as caught:
        bench.trainer(Large()).fit()
    assert caught.value.value["items"] == 4
    assert "batch_size" in caught.value.remedy


def test_a_source_that_ends_is_an_error(bench):
    class Short(bench.Numbers):
        def batches(self):
            yield next(super().batches())

    with pytest.raises(DataError, match="ran dry"):
        bench.trainer(source=Short()).fit()


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
    assert int(checkpoint.read(checkpoint.latest(bench.run)).tensors["system/applied"]) == 3
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


# ---- what is told


def test_rows_have_their_fields(bench):
    bench.trainer().fit()
    found = rows(bench.run)
    assert [row["step"] for row in found] == [2, 4, 6, 7]
    assert [row["epoch"] for row in found] == [0, 1, 2, 2]
    for row in found:
        assert set(row) == {
            "step",
            "epoch",
            "loss",
            "parts",
            "diagnostics",
            "monitors",
            "lr",
            "lrs",
            "grad_norm",
            "items_per_s",
            "wait_share",
            "seconds",
            "eta",
        }
        assert row["parts"]["square"] == pytest.approx(row["loss"])
        assert set(row["monitors"]) == {"std/hidden", "rank/hidden"}
        assert row["items_per_s"] > 0
    assert found[-1]["eta"] == 0
    assert found[0]["seconds"] <= found[-1]["seconds"]


def test_a_row_is_the_mean_over_its_window(bench):
    seen = []

    class Noting(bench.Line):
        def training_step(self, batch, context):
            output = super().training_step(batch, context)
            seen.append(float(output.loss.detach()))
            return output

    bench.trainer(Noting(), steps=4).fit()
    assert [row["loss"] for row in rows(bench.run)] == pytest.approx(
        [(seen[0] + seen[1]) / 2, (seen[2] + seen[3]) / 2]
    )


def test_parts_of_several_phases_are_told_apart(bench):
    phases = (Phase(name="one", groups=("a",)), Phase(name="two", groups=("b",)))
    bench.trainer(Two(phases)).fit()
    assert set(rows(bench.run)[0]["parts"]) == {"one/loss", "two/loss"}


def test_waiting_for_data_is_measured(bench):
    class Slow(bench.Numbers):
        def batches(self):
            for batch in super().batches():
                time.sleep(0.03)
                yield batch

    result = bench.trainer(source=Slow(), checkpoint_every=None).fit()
    assert result.wait_share > 0.5
    assert rows(bench.run)[1]["wait_share"] > 0.5


def test_probes_are_written_and_their_failure_is_an_event(bench):
    def failing(system):
        raise DataError("too few groups")

    def probe(system):
        system.eval()
        return {"rate": float(system.applied)}

    system = bench.Line()
    bench.trainer(
        system, probe_every=3, keywords={"probes": {"cycle": probe, "knn": failing}}
    ).fit()
    found = [row for row in read_jsonl(bench.run.metrics) if "probes" in row]
    assert [(r["step"], r["probes"]) for r in found] == [
        (3, {"cycle": {"rate": 3.0}}),
        (6, {"cycle": {"rate": 6.0}}),
        (7, {"cycle": {"rate": 7.0}}),
    ]
    assert [e["reason"] for e in events(bench.run, "probe_failed")] == [
        "DataError: too few groups"
    ] * 3
    assert system.training, "a probe that evaluates does not leave the system so"


def test_the_time_is_estimated_after_the_first_steps(bench, capsys):
    bench.trainer(keywords={"progress": True}).fit()
    told = capsys.readouterr()
    assert told.out == ""
    assert "for 3 more steps" in told.err
    assert "step 7/7" in told.err
    assert events(bench.run, "estimate")[0]["step"] == 4


def test_collapse_raises_the_alarm(bench):
    class Collapsed(bench.Line):
        def training_step(self, batch, context):
            output = super().training_step(batch, context)
            return dataclasses.replace(output, embeddings={"z": torch.ones(4, 8)})

    bench.trainer(Collapsed(), log_every=1, collapse_logs=3).fit()
    (event,) = events(bench.run, "collapse")
    assert (event["embedding"], event["step"]) == ("z", 3)


def test_deterministic_mode_ends_with_the_run(bench):
    inside = []

    class Looking(bench.Line):
        def training_step(self, batch, context):
            inside.append(torch.are_deterministic_algorithms_enabled())
            return super().training_step(batch, context)

    bench.trainer(Looking(), deterministic=True).fit()
    assert all(inside)
    assert not torch.are_deterministic_algorithms_enabled()


def test_train_config_defaults_are_valid():
    assert TrainConfig(steps=1).optimizer.name == "sgd"
