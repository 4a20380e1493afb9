"""A step in parts is the step: loss, gradients, statistics, queue and momentum copy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.encoders import (
    GroupBatchNorm1d,
    GroupBatchNorm2d,
    GroupBatchNorm3d,
    HeadConfig,
    in_parts,
)
from rhyme.errors import ConfigError, TrainingError
from rhyme.loading import Batch
from rhyme.objectives import nt_xent
from rhyme.run import RunFolder
from rhyme.systems import StepOutput, System
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.training.accumulation import seed_dropout
from rhyme.training.stepper import Stepper
from rhyme.views import View
from support.tiny_systems import at, batch_for, build_tiny, tiny_backbone

ITEMS, STEPS = 16, 3
HEAD = HeadConfig(layers=2, out=8, hidden_norm=True)
CYCLE = {"cycle_weight": 1.0, "mask_same_group": True, "include_self": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "cstp": {"projector": HEAD, "predictor": HEAD},
    "cycle_contrast": CYCLE,
    "densecl": {"mask_same_group": True},
    "dual": {"frames": 4},
    "lsfd": {"frames": 4, "order_negatives": True},
    "moco": {"positive": "video", "mask_same_group": True},
    "vfs": {"frames": 4},
}


def without_norms(system: System) -> System:
    for module in list(system.modules()):
        for name, child in module.named_children():
            if isinstance(child, GroupBatchNorm1d | GroupBatchNorm2d | GroupBatchNorm3d):
                setattr(module, name, nn.Identity())
    return system


def make(name: str, groups: int, dtype: torch.dtype) -> System:
    backbone = tiny_backbone(name, max(groups, 1))
    heads = {} if "projector" in OPTIONS[name] else {"head": HEAD}
    system = build_tiny(name, dtype=dtype, backbone=backbone, **heads, **OPTIONS[name])
    return system if groups else without_norms(system)


def steps(name: str, groups: int, dtype: torch.dtype, parts: int) -> dict[str, Tensor]:
    """Three steps on this rank's rows: losses, diagnostics, gradients, and all state."""
    system = make(name, groups, dtype)
    config = TrainConfig(
        steps=STEPS,
        batch_size=ITEMS,
        accumulate=parts,
        clip_norm=1.0,
        optimizer=OptimizerConfig(name="sgd", lr=0.1, momentum=0.9),
        schedule=ScheduleConfig(name="constant"),
    )
    found: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(system, config, RunFolder.create(Path(folder) / "run", config))
        (phase,) = stepper.phases()
        for step in range(STEPS):
            whole = batch_for(system, ITEMS, seed=step, dtype=dtype)
            batch = whole[distributed.rank_slice(ITEMS)]
            output, norm, _ = stepper.step(batch, phase, at(step), {"all": 0.1})
            found[f"{step}/loss"], found[f"{step}/norm"] = output.loss.detach(), norm
            found |= {f"{step}/{n}": v for n, v in output.parts.items()}
            for key, parameter in system.named_parameters():
                if parameter.grad is not None:
                    found[f"{step}/gradient/{key}"] = parameter.grad.clone()
    return found | {f"state/{n}": v.clone() for n, v in system.state_dict().items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value, rtol=limit, atol=limit, msg=name)
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("groups", [0, 4, 8])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_in_parts_is_the_step(name: str, groups: int) -> None:
    whole = steps(name, groups, torch.float64, 1)
    assert any("/gradient/" in key for key in whole)
    assert any("running_mean" in key for key in whole) == bool(groups)
    assert_same(steps(name, groups, torch.float64, 4), whole, 1e-9)
    if groups == 4:
        single = steps(name, groups, torch.float32, 1)
        assert_same(steps(name, groups, torch.float32, 2), single, 1e-5)


@pytest.mark.parametrize("groups", [0, 8])
@pytest.mark.parametrize("name", OPTIONS)
def test_also_on_two_ranks(name: str, groups: int) -> None:
    whole = steps(name, groups, torch.float64, 1)
    for found in run_on_ranks(steps, 2, name, groups, torch.float64, 4):
        for key in [k for k in whole if "/norm" in k]:
            torch.testing.assert_close(found[key], whole[key], rtol=1e-9, atol=1e-9)
        assert_same(found, whole, 1e-9)


class InBatch(System):
    """An in-batch loss with a temperature of its own, two passes, dropout and a masked mean."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = GroupBatchNorm1d(5, norm_groups=4)
        self.net = nn.Sequential(nn.Linear(3, 5), norm, nn.Dropout(dropout), nn.Linear(5, 4))
        self.temperature = nn.Parameter(torch.tensor(0.5))
        self.draws: list[Tensor] = []
        self.double()

    def embed(self, batch, context):
        x = batch.views["x"].data
        first = nn.functional.normalize(self.net(x), dim=1)
        self.draws.append(first.detach().clone())
        return {"a": first, "b": nn.functional.normalize(self.net(x * 2 + 1), dim=1)}

    def loss(self, embeddings, batch, context):
        found = nt_xent(embeddings["a"], embeddings["b"], temperature=self.temperature)
        keep = (batch.targets["keep"] & found.valid[: len(batch)]).repeat(2)
        return StepOutput(loss=distributed.mean(found.values, keep))


def in_batch(parts: int, **options: Any) -> dict[str, Tensor]:
    system = InBatch(**options)
    config = TrainConfig(steps=1, batch_size=8, accumulate=parts)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ids = torch.arange(8)
    keep = {"keep": torch.tensor([True, True, False, True, True, True, True, False])}
    batch = Batch(ids=ids, index=ids, group=ids, views={"x": View(data=x)}, targets=keep)
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(system, config, RunFolder.create(Path(folder) / "run", config))
        stepper.step(batch, stepper.phases()[0], at(0), {"all": 0.0})
    gradients = {n: p.grad for n, p in system.named_parameters() if p.grad is not None}
    assert "temperature" in gradients
    draws = {f"draw{i}": value for i, value in enumerate(system.draws)}
    return gradients | dict(system.state_dict()) | (draws if options else {})


def test_in_batch_losses_and_parameters_of_the_loss_are_exact() -> None:
    """Where adding up micro-batches would be wrong: rows compare, and the mean is masked."""
    whole = in_batch(1)
    assert int(whole["net.1.num_batches_tracked"]) == 2, "a pass for each view"
    for parts in (2, 4):
        assert_same(in_batch(parts), whole, 1e-9)


def test_dropout_draws_the_same_in_both_passes() -> None:
    found = in_batch(2, dropout=0.5)
    assert torch.equal(found["draw0"], found["draw2"])
    assert torch.equal(found["draw1"], found["draw3"])


def test_dropout_draws_for_the_rows_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed for all ranks would blank the same units in row k of each of them."""

    def drawn(rank: int) -> Tensor:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        seed_dropout(at(3))
        return torch.rand(4)

    found = [drawn(rank) for rank in (0, 1, 2, 1)]
    assert torch.equal(found[1], found[3])
    assert len({tuple(values.tolist()) for values in found}) == 3


def test_frozen_statistics_keep_their_bits() -> None:
    norm = GroupBatchNorm1d(3, norm_groups=3)
    norm(torch.randn(9, 3))
    norm.eval()
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.randn(9, 3)
    for _ in range(50):
        in_parts(norm, 3, lambda i: norm(x.chunk(3)[i]))
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


def test_statistics_move_once_and_the_second_pass_leaves_them() -> None:
    norm = GroupBatchNorm1d(3, norm_groups=4)
    x = torch.randn(8, 3)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    in_parts(norm, 2, lambda i: norm(x.chunk(2)[i]), remember=False)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    in_parts(norm, 2, lambda i: norm(x.chunk(2)[i]))
    assert int(norm.num_batches_tracked) == 1
    with pytest.raises(ZeroDivisionError):
        in_parts(norm, 2, lambda i: i / 0)
    assert norm.parts == 1


# ---- refusals


def test_what_cannot_be_exact_is_refused(bench) -> None:
    with pytest.raises(ConfigError, match="Line cannot accumulate"):
        bench.trainer(accumulate=2)
    with pytest.raises(ConfigError, match="whole number from 1"):
        bench.trainer(accumulate=0)
    for groups in (1, 2):
        with pytest.raises(ConfigError, match="depend on each other") as caught:
            steps("moco", groups, torch.float32, 4)
        assert "multiple of 4" in str(caught.value.remedy)
    with pytest.raises(ConfigError, match="does not divide into 3 parts"):
        steps("moco", 0, torch.float32, 3)


def test_foreign_batch_norm_and_lost_rows_are_refused() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="0: batch norm"):
        in_parts(norm, 2, lambda i: norm(torch.randn(2, 3)))
    assert in_parts(norm.eval(), 2, lambda i: i) == [0, 1]

    class Halves(InBatch):
        def embed(self, batch, context):
            return {name: value[1:] for name, value in super().embed(batch, context).items()}

    system = Halves()
    config = TrainConfig(steps=1, batch_size=8, accumulate=2)
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(system, config, RunFolder.create(Path(folder) / "run", config))
        x = torch.randn(8, 3, dtype=torch.float64)
        ids = torch.arange(8)
        batch = Batch(ids=ids, index=ids, group=ids, views={"x": View(data=x)})
        with pytest.raises(TrainingError, match="one row an item: 'a' has 3 for 4"):
            stepper.step(batch, stepper.phases()[0], at(0), {"all": 0.0})
