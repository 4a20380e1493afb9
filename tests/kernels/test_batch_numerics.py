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
    symmetric_log_sum_exp,
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
