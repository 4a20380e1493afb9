"""Half precision: what is kept stays in float32, objectives are accurate, the scale is state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from resume.harness import state_hashes
from rhyme.errors import TrainingError
from rhyme.objectives import cycle, info_nce, info_nce_in_batch, nt_xent
from rhyme.run import RunFolder, read_jsonl
from rhyme.systems.base import StepOutput
from rhyme.training import TrainConfig
from rhyme.training.precision import Precision
from rhyme.training.stepper import Stepper
from support.logs import events
from support.tiny_systems import at, build_tiny, make_batch

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def step(name: str, precision: str, tmp_path):
    system = build_tiny(name, dtype=torch.float32)
    config = TrainConfig(steps=1, batch_size=6, precision=precision)
    stepper = Stepper(system, config, RunFolder.create(tmp_path / f"{name}{precision}", config))
    seen = {}
    first = next(m for m in system.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda m, i, o: seen.update(conv=o.dtype))
    batch = make_batch(dtype=torch.float32)
    output, norm, applied = stepper.step(batch, stepper.phases()[0], at(0), {"all": 0.1})
    assert applied
    return system, output, norm, seen["conv"]


@pytest.mark.parametrize("name", ["cycle_contrast", "moco"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_is_kept_stays_in_float32(name, precision, tmp_path):
    system, output, norm, lowered = step(name, precision, tmp_path)
    assert lowered is HALF[precision], "the convolutions compute in half precision"
    assert output.loss.dtype is torch.float32
    for key, value in system.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64), key
        assert bool(torch.isfinite(value).all()), key
    gradients = [p.grad for p in system.parameters() if p.grad is not None]
    assert all(g.dtype is torch.float32 for g in gradients)
    _, single, single_norm, full = step(name, "fp32", tmp_path)
    assert full is torch.float32
    torch.testing.assert_close(output.loss, single.loss, rtol=0.05, atol=0.01)
    torch.testing.assert_close(norm, single_norm, rtol=0.1, atol=0.0)
    assert not torch.is_autocast_enabled("cpu")


def unit(n: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(rows, dim=1)


OBJECTIVES = {
    "info_nce": lambda q, p, t: info_nce(q, p, unit(40, 3), temperature=t),
    "in_batch": lambda q, p, t: info_nce_in_batch(
        q, torch.cat([p, unit(9, 4)]), torch.arange(len(q)), temperature=t
    ),
    "nt_xent": lambda q, p, t: nt_xent(q, p, temperature=t),
    "cycle": lambda q, p, t: cycle(q, p, unit(30, 5), unit(40, 6), temperature=t),
    "cycle_self": lambda q, p, t: cycle(
        q, p, unit(30, 5), unit(40, 6), temperature=t, include_self=p
    ),
}


@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_leave_autocast_and_are_accurate(name, half):
    """On the same embeddings, autocast changes nothing; on rounded ones, only by the rounding."""
    for temperature in (1e-4, 1e-2, 0.07, 1.0, 1e4):
        results = []
        for dtype, on in ((torch.float32, False), (torch.float32, True), (HALF[half], True)):
            q = unit(8, 1).to(HALF[half]).to(dtype).requires_grad_()
            p = unit(8, 2).to(HALF[half]).to(dtype)
            with torch.autocast("cpu", dtype=HALF[half], enabled=on):
                found = OBJECTIVES[name](q, p, temperature)
            assert found.values.dtype is torch.float32
            found.values.mean().backward()
            assert q.grad is not None
            assert bool(torch.isfinite(found.values).all())
            if dtype is torch.float32 or temperature >= 1e-2:  # 1e-4 twice leaves fp16's range
                assert bool(torch.isfinite(q.grad).all())
            results.append((found.values.detach(), q.grad.float()))
        plain, cast, lowered = results
        assert torch.equal(plain[0], cast[0])
        assert torch.equal(plain[1], cast[1])
        torch.testing.assert_close(lowered[0], plain[0], rtol=1e-5, atol=1e-5)
        if not 1e-2 <= temperature <= 1:  # beyond, gradients leave the range of an fp16 leaf
            continue
        scale = plain[1].abs().max().item()
        torch.testing.assert_close(lowered[1], plain[1], rtol=0.02, atol=0.01 * scale)


def test_weights_lowered_without_gradient_are_not_used_again_with_one():
    net, precision = nn.Linear(4, 4), Precision("bf16", torch.device("cpu"))
    with precision.autocast():
        with torch.no_grad():
            net(torch.randn(2, 4))
        net(torch.randn(2, 4)).float().sum().backward()
    assert net.weight.grad is not None


# ---- the scale of fp16


class Half:
    """Line with a gradient that overflows, or a loss that is not finite, at chosen steps."""

    def __new__(cls, bench, overflow=(), bad=()):
        class System(bench.Line):
            def training_step(self, batch, context):
                output = super().training_step(batch, context)
                loss = output.loss * 0.01  # small enough for the first scale
                if context.step in overflow:
                    loss = loss + _Overflow.apply(loss)
                if context.step in bad:
                    loss = loss * math.nan
                return StepOutput(loss=loss, embeddings=output.embeddings)

        return System()


class _Overflow(torch.autograd.Function):
    """0 with an infinite gradient, as where a scaled gradient leaves fp16."""

    @staticmethod
    def forward(ctx, x):
        return x * 0

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * math.inf


def test_an_overflow_lowers_the_scale_and_is_no_failure(bench):
    system = Half(bench, overflow=(1, 2))
    trainer = bench.trainer(system, precision="fp16")
    assert trainer.fit().steps == 7
    assert [e["scale"] for e in events(bench.run, "overflow")] == [32768.0, 16384.0]
    assert not events(bench.run, "not_finite")
    assert int(system.applied) == 5
    assert trainer.stepper.precision.state_dict()["scale"] == 16384.0


def test_a_bad_loss_is_a_failure_and_leaves_the_scale(bench):
    trainer = bench.trainer(Half(bench, bad=(2,)), precision="fp16", nan="skip")
    trainer.fit()
    assert len(events(bench.run, "not_finite")) == 1
    assert trainer.stepper.precision.state_dict()["scale"] == 65536.0


def test_overflows_without_end_are_a_failure(bench):
    system = Half(bench, overflow=range(100))
    with pytest.raises(TrainingError, match="step 16"):
        bench.trainer(system, precision="fp16", steps=30).fit()
    assert len(events(bench.run, "overflow")) == 16


def test_the_gradient_is_unscaled_before_it_is_clipped_and_measured(bench):
    rows = {}
    for precision in ("fp32", "fp16"):
        run = bench.new_run()
        bench.trainer(Half(bench), run=run, precision=precision, clip_norm=0.01, steps=2).fit()
        rows[precision] = read_jsonl(run.metrics)[0]
    assert rows["fp16"]["grad_norm"] == pytest.approx(rows["fp32"]["grad_norm"], rel=0.02)
    assert rows["fp16"]["loss"] == pytest.approx(rows["fp32"]["loss"], rel=0.02)


def test_the_scale_is_resumed(bench):
    straight = bench.trainer(Half(bench, overflow=(1, 4)), run=bench.new_run(), precision="fp16")
    straight.fit()
    run = bench.new_run()
    with pytest.raises(Exception, match="saved"):
        bench.trainer(
            Half(bench, overflow=(1, 4)),
            run=run,
            precision="fp16",
            keywords={"stop": lambda s: s == 3},
        ).fit()
    resumed = bench.trainer(Half(bench, overflow=(1, 4)), run=run, precision="fp16")
    resumed.fit(resume=True)
    assert state_hashes(resumed) == state_hashes(straight)
    assert resumed.stepper.precision.state_dict()["scale"] == 16384.0
