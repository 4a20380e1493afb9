"""The loop: length, order of calls, parameter groups, what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from rhyme.errors import ConfigError, DataError, TrainingError
from rhyme.systems.base import ParameterGroup, Phase, StepOutput, System
from rhyme.training import OptimizerConfig, ScheduleConfig
from support.logs import rows


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


def test_parts_of_several_phases_are_told_apart(bench):
    phases = (Phase(name="one", groups=("a",)), Phase(name="two", groups=("b",)))
    bench.trainer(Two(phases)).fit()
    assert set(rows(bench.run)[0]["parts"]) == {"one/loss", "two/loss"}
