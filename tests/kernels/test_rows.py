from __future__ import annotations

import pytest
import torch

from rhyme.kernels import rows
from rhyme.kernels.rows import row_products


@pytest.mark.parametrize("elements", [2**24, 8])
def test_products_and_gradients_in_pieces_are_those_of_the_whole(elements, monkeypatch):
    monkeypatch.setattr(rows, "_ELEMENTS", elements)
    first, second = (torch.randn(7, 4, dtype=torch.float64, requires_grad=True) for _ in "ab")
    assert torch.equal(row_products(first, second), (first * second).sum(1))
    assert torch.autograd.gradcheck(row_products, (first, second))
    assert torch.autograd.gradgradcheck(row_products, (first, second))


def test_halves_are_multiplied_exactly_and_get_gradients_of_their_own_type():
    first, second = (torch.randn(5, 16).bfloat16().requires_grad_() for _ in "ab")
    found = row_products(first, second)
    assert found.dtype is torch.float32
    wide = (first.double() * second.double()).sum(1)
    torch.testing.assert_close(found.double(), wide, rtol=1e-6, atol=1e-6)
    found.sum().backward()
    assert first.grad is not None
    assert first.grad.dtype is torch.bfloat16
    assert torch.equal(first.grad, second.detach())
    assert row_products(first[:0], second[:0]).shape == (0,)
