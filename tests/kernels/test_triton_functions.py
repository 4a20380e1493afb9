"""The public functions with the kernels in Triton behind them, against plain PyTorch."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rhyme import kernels
from rhyme.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*(encountered in|FP_FUSION)")


def unit(rows: int, d: int, seed: int, device: torch.device) -> Tensor:
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(x, dim=1).to(device)


def flat(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [t for part in found for t in flat(part)]


def both(function: Any, inputs: list[Tensor], kernel: str) -> list[Tensor]:
    """All results, and the gradients of a fixed sum of those that have one."""
    given = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in inputs]
    found = flat(function(*given, kernel=kernel))
    total = torch.zeros((), device=inputs[0].device)
    for k, value in enumerate(x for x in found if x.requires_grad):
        weights = torch.linspace(-1, 1, value.numel(), device=value.device) + 0.1 * k
        total = total + (value.flatten() * weights).sum()
    total.backward()
    return [x.detach() for x in found] + [t.grad for t in given if t.grad is not None]


def agree(function: Any, inputs: list[Tensor]) -> None:
    mine, plain = (both(function, inputs, kernel) for kernel in ("triton", "eager"))
    assert len(mine) == len(plain)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("learned", [False, True])
def test_a_queue(triton_kernels, learned) -> None:
    device = triton_kernels.device
    q, k = unit(6, 16, 0, device), unit(80, 16, 1, device)
    owners, skip = torch.arange(6, device=device), torch.full((6, 1), 3, device=device)
    groups = torch.arange(80, device=device) % 9

    def log_sum_exp(q, k, t=0.1, **options):
        return kernels.queue_log_sum_exp(
            q, k, temperature=t, query_groups=owners, key_groups=groups, skip=skip, **options
        )

    def neighbour(q, k, t=0.1, **options):
        return kernels.soft_neighbour(
            q, k, temperature=t, query_groups=owners, support_groups=groups, **options
        )[:3]

    more = [torch.tensor(0.1, device=device)] if learned else []
    agree(log_sum_exp, [q, k, *more])
    agree(neighbour, [q, k, *more])


@pytest.mark.parametrize("learned", [False, True])
def test_a_batch(triton_kernels, learned) -> None:
    device = triton_kernels.device
    x, y = unit(20, 16, 0, device), unit(30, 16, 1, device)
    more = [torch.tensor(0.1, device=device)] if learned else []
    skip = torch.arange(20, device=device)[:, None]
    for function in (kernels.in_batch_log_sum_exp, kernels.symmetric_log_sum_exp):
        agree(
            lambda x, y, t=0.1, f=function, **options: f(x, y, temperature=t, skip=skip, **options),
            [x, y, *more],
        )
    agree(
        lambda x, t=0.1, **options: kernels.self_log_sum_exp(
            x, temperature=t, skip=skip, **options
        ),
        [x, *more],
    )


def softmax_gradients(q: Tensor, k: Tensor, scale: float, columns: bool) -> list[Tensor]:
    """Those of the sum of all log-sum-exps, in float64."""
    logits = q.double() @ k.double().T * scale
    weights = torch.softmax(logits, 1)
    if columns:
        weights = weights + torch.softmax(logits, 0)
    return [weights @ k.double() * scale, weights.T @ q.double() * scale]


@pytest.mark.parametrize("power", [0, 6, 13])
@pytest.mark.parametrize(
    "name",
    ["queue_log_sum_exp", "soft_neighbour", "in_batch_log_sum_exp", "symmetric_log_sum_exp"],
)
def test_gradients_are_right_however_huge_the_logits(triton_kernels, name, power) -> None:
    """Logits up to 1e6 that float32 holds exactly, in base 2."""
    signs = torch.randn(40, 127, generator=torch.Generator().manual_seed(0)).sign()
    step = torch.tensor([0.0, 1, 2]).repeat_interleave(40)[:, None] / 2**power
    q = torch.cat([signs, torch.ones(40, 1)], 1).to(triton_kernels.device).requires_grad_()
    k = torch.cat([signs.repeat(3, 1), step], 1).to(triton_kernels.device).requires_grad_()
    temperature = math.log2(math.e) / 2**power
    found = getattr(kernels, name)(q, k, temperature=temperature, kernel="triton")
    sides = found if name.startswith("symmetric") else [found]
    mine = torch.autograd.grad(sum(side.log_sum_exp.sum() for side in sides), (q, k))
    right = softmax_gradients(q.detach(), k.detach(), 1 / temperature, len(sides) == 2)
    for a, b in zip(mine, right, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < 1e-5


def test_second_derivatives_take_the_plain_way(triton_kernels) -> None:
    x, y = (unit(5, 16, seed, triton_kernels.device) for seed in (0, 1))
    curves = []
    for kernel in ("triton", "eager"):
        x, y = (t.detach().requires_grad_() for t in (x, y))
        rows, columns = kernels.symmetric_log_sum_exp(x, y, temperature=0.3, kernel=kernel)
        total = (rows.log_sum_exp * columns.log_sum_exp).sum()
        (slope,) = torch.autograd.grad(total, x, create_graph=True)
        curves.append(torch.autograd.grad(slope.square().sum(), [x, y]))
    for a, b in zip(*curves, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_asked_for_and_refused(triton_kernels) -> None:
    x = torch.zeros(2, 4, dtype=torch.float64, device=triton_kernels.device)
    for function in (
        partial(kernels.in_batch_log_sum_exp, temperature=1.0),
        partial(kernels.queue_log_sum_exp, temperature=1.0),
    ):
        with pytest.raises(ConfigError, match="float64"):
            function(x, x, kernel="triton")
