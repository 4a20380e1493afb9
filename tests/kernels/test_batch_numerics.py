"""Gradients where logits are huge, and where what comes from upstream is not a number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rhyme.kernels import (
    Kernel,
    in_batch_log_sum_exp,
    queue_log_sum_exp,
    soft_neighbour,
    streaming,
    symmetric_log_sum_exp,
    tiles,
)

Sums = Callable[..., list[Tensor]]


def queue(q: Tensor, k: Tensor, **options: object) -> list[Tensor]:
    return [queue_log_sum_exp(q, k, **options).log_sum_exp]  # type: ignore[arg-type]


def rows(q: Tensor, k: Tensor, **options: object) -> list[Tensor]:
    return [in_batch_log_sum_exp(q, k, **options).log_sum_exp]  # type: ignore[arg-type]


def both(q: Tensor, k: Tensor, **options: object) -> list[Tensor]:
    return [s.log_sum_exp for s in symmetric_log_sum_exp(q, k, **options)]  # type: ignore[arg-type]


def neighbour(q: Tensor, k: Tensor, **options: object) -> list[Tensor]:
    found = soft_neighbour(q, k, **options)  # type: ignore[arg-type]
    return [found.log_sum_exp, found.mean]


def long_rows(n: int, length: float, seed: int) -> Tensor:
    x = torch.randn(n, 128, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(x, dim=1) * length


@pytest.mark.parametrize("sums", [queue, rows, both, neighbour])
@pytest.mark.parametrize("near", [False, True], ids=["random", "pairs"])
@pytest.mark.parametrize("length", [100.0, 1000.0])
@pytest.mark.parametrize("temperature", [0.07, 0.01])
def test_weights_of_huge_logits_do_not_exceed_one(
    sums: Sums, near: bool, length: float, temperature: float
) -> None:
    """A weight above 1 would multiply a gradient by powers of two that are rounding alone."""
    largest: dict[Kernel, list[float]] = {}
    for kernel in ("eager", "auto"):
        q, k = long_rows(32, length, 0), long_rows(512, length, 1)
        if near:
            k[:32] = q
        inputs = q.requires_grad_(), k.requires_grad_()
        found = sums(*inputs, temperature=temperature, kernel=kernel)[0].sum()
        largest[kernel] = [float(g.abs().max()) for g in torch.autograd.grad(found, inputs)]
    for ours, plain in zip(largest["auto"], largest["eager"], strict=True):
        assert ours <= 1.05 * plain


def by_loops(q: Tensor, k: Tensor, temperature: float, upstream: list[Tensor]) -> list[Tensor]:
    """The gradients of both sets, a row and then a column at a time, in float64."""
    q, k = q.detach().double(), k.detach().double()
    on_q, on_k = torch.zeros_like(q), torch.zeros_like(k)
    for i in range(len(q)):
        weights = torch.softmax(k @ q[i] / temperature, 0)
        for j in range(len(k)):
            on_q[i] += upstream[0][i] * weights[j] * k[j] / temperature
            on_k[j] += upstream[0][i] * weights[j] * q[i] / temperature
    if len(upstream) == 2:
        for j in range(len(k)):
            weights = torch.softmax(q @ k[j] / temperature, 0)
            for i in range(len(q)):
                on_k[j] += upstream[1][j] * weights[i] * q[i] / temperature
                on_q[i] += upstream[1][j] * weights[i] * k[j] / temperature
    return [on_q, on_k]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, and blocks of queries and keys, with ragged ends."""
    monkeypatch.setattr(tiles, "SIDE", 16)
    monkeypatch.setattr(streaming, "_ROWS", 16)
    monkeypatch.setattr(streaming, "_HOST_BYTES", 1)


def gap_to_float64(sums: Sums, q: Tensor, k: Tensor, temperature: float, kernel: Kernel) -> float:
    """The largest error of both gradients of the log-sum-exps, as a share of the largest."""
    q, k = q.requires_grad_(), k.requires_grad_()
    found = sums(q, k, temperature=temperature, kernel=kernel)
    found = found[:1] if sums is neighbour else found
    upstream = [torch.linspace(0.5, 1, len(x)) for x in found]
    mine = torch.autograd.grad(found, (q, k), upstream)
    right = by_loops(q, k, temperature, upstream)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, right, strict=True))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sums", [queue, rows, both, neighbour])
@pytest.mark.parametrize("kernel", ["eager", "auto"])
@pytest.mark.parametrize("logit", [1e2, 1e4, 1e6, 1e8])
def test_gradients_of_one_best_key_are_right_however_huge_the_logits(
    sums: Sums, kernel: Kernel, logit: float
) -> None:
    """Its weight is 1, whatever the logits are rounded by; e^(logit − log-sum-exp) is off by 4 %
    at 1e6 where the log-sum-exp is one number."""
    q = long_rows(40, math.sqrt(logit * 0.05), 0)
    assert gap_to_float64(sums, q, q.clone(), 0.05, kernel) < 1e-6


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sums", [queue, rows, both, neighbour])
@pytest.mark.parametrize("power", [0, 6, 13])
def test_gradients_of_several_keys_are_right_however_huge_the_logits(
    sums: Sums, power: int
) -> None:
    """Logits up to 1e6 that float32 holds exactly, in base 2; the weights are 4, 2, 1 of 7."""
    signs = torch.randn(40, 127, generator=torch.Generator().manual_seed(0)).sign()
    step = torch.tensor([0.0, 1, 2]).repeat_interleave(40)[:, None] / 2**power
    q = torch.cat([signs, torch.ones(40, 1)], 1)
    k = torch.cat([signs.repeat(3, 1), step], 1)
    # what is over in 1/τ · log₂e is 2^power exactly
    assert gap_to_float64(sums, q, k, math.log2(math.e) / 2**power, "auto") < 1e-6


@pytest.mark.parametrize("kernel", ["eager", "auto"])
@pytest.mark.parametrize("logit", [1e4, 1e6, 1e8])
def test_values_under_huge_logits_get_all_of_their_gradient(kernel: Kernel, logit: float) -> None:
    q = long_rows(40, math.sqrt(logit), 0)
    values = torch.eye(40).requires_grad_()
    found = soft_neighbour(q, q, temperature=1.0, values=values, kernel=kernel).mean
    (grad,) = torch.autograd.grad(found.diagonal().sum(), values)
    assert torch.equal(grad, torch.eye(40))


@pytest.mark.parametrize("sums", [queue, rows, both, neighbour])
@pytest.mark.parametrize("power", [0, 10, 19])
def test_the_plain_form_shares_a_huge_tie_equally(sums: Sums, power: int) -> None:
    signs = torch.randn(40, 128, generator=torch.Generator().manual_seed(0)).sign()
    assert gap_to_float64(sums, signs, signs.repeat(3, 1), 2.0**-power, "eager") < 1e-6


@pytest.mark.parametrize("sums", [queue, rows, both, neighbour])
@pytest.mark.parametrize("temperature", [0.1, 1e-4])
def test_a_row_without_an_allowed_key_hands_on_no_gradient_even_of_nan(
    sums: Sums, temperature: float
) -> None:
    q, k = (long_rows(n, 1.0, n).requires_grad_() for n in (4, 5))
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0] = True
    found = sums(q, k, temperature=temperature, mask=mask)
    upstream = [torch.ones_like(x) for x in found]
    for x in upstream:
        if len(x) == 4:
            x[0] = math.nan
    on_q, on_k = torch.autograd.grad(found, (q, k), upstream)
    assert on_q.isfinite().all()
    assert on_k.isfinite().all()
    assert (on_q[0] == 0).all()
    assert on_k.any()
