from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rhyme.errors import DataError, UnknownName
from rhyme.kernels import neighbour_weights, queue_log_sum_exp, soft_neighbour
from rhyme.kernels.common import Exclusion

F64 = torch.float64


def unit(n: int, d: int, seed: int = 0) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return nn.functional.normalize(rows, dim=1)


def test_one_pass_yields_log_sum_exp_hardest_and_count() -> None:
    q, k, t = unit(4, 6), unit(9, 6, 1), 0.1
    groups, owners = torch.tensor([0, 1, 2, -1]), torch.tensor([0, 0, 1, -1, 5, 5, 2, 2, 2])
    mask = torch.zeros(4, 9, dtype=torch.bool)
    mask[3, :4] = True
    found = queue_log_sum_exp(
        q, k, temperature=t, query_groups=groups, key_groups=owners, mask=mask
    )
    keep = ~((groups[:, None] == owners[None]) & (groups[:, None] >= 0)) & ~mask
    cosines = (q @ k.T).masked_fill(~keep, -math.inf)
    assert found.allowed.tolist() == keep.sum(1).tolist() == [7, 8, 6, 5]
    assert torch.allclose(found.hardest, cosines.amax(1))
    assert torch.allclose(found.log_sum_exp, (cosines / t).logsumexp(1))


def test_the_gradient_of_the_log_sum_exp_is_the_soft_neighbour_over_the_temperature() -> None:
    q, k, t = unit(4, 6).requires_grad_(), unit(9, 6, 1), 0.1
    queue_log_sum_exp(q, k, temperature=t).log_sum_exp.sum().backward()
    found = soft_neighbour(q.detach(), k, temperature=t)
    assert q.grad is not None
    assert torch.allclose(q.grad, found.mean / t, atol=1e-12)
    expected = (q.detach() * found.mean).sum(1) / t
    assert torch.allclose(found.entropy, found.log_sum_exp - expected, atol=1e-12)


def test_mean_and_log_sum_exp_have_joint_and_second_gradients() -> None:
    q, k = unit(3, 4).requires_grad_(), unit(5, 4, 1).requires_grad_()

    def both(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        found = soft_neighbour(q, k, temperature=0.4, self_key=k[:3])
        return found.mean, found.log_sum_exp

    assert torch.autograd.gradcheck(both, (q, k))
    assert torch.autograd.gradgradcheck(both, (q, k))


def test_rows_and_queues_without_a_key() -> None:
    q, k = unit(2, 4).requires_grad_(), unit(3, 4, 1)
    mask = torch.tensor([[True] * 3, [False] * 3])
    for keys, rows, pairs in ((k, [0], mask), (k[:0], [0, 1], mask[:, :0])):
        found = queue_log_sum_exp(q, keys, temperature=0.1, mask=pairs)
        near = soft_neighbour(q, keys, temperature=0.1, mask=pairs)
        for i in range(2):
            assert bool(torch.isneginf(found.log_sum_exp[i])) == (i in rows)
            assert bool(torch.isneginf(found.hardest[i])) == (i in rows)
            assert bool(near.mean[i].any()) != (i in rows)
        assert not neighbour_weights(q, keys, temperature=0.1, mask=pairs)[rows].any()
        total = near.mean.sum() + found.log_sum_exp.masked_fill(found.allowed == 0, 0).sum()
        (grad,) = torch.autograd.grad(total, q)
        assert torch.isfinite(grad).all()
        assert not grad[rows].any()


def test_values_may_have_another_dimension() -> None:
    q, k, v = unit(2, 4), unit(5, 4, 1), unit(5, 7, 2)
    found = soft_neighbour(q, k, temperature=0.2, values=v)
    assert torch.allclose(found.mean, torch.softmax(q @ k.T / 0.2, 1) @ v)


def test_names_and_shapes_are_checked() -> None:
    q, k = unit(2, 4), unit(5, 4, 1)
    with pytest.raises(UnknownName, match="did you mean 'eager'"):
        soft_neighbour(q, k, temperature=1.0, kernel="eger")  # type: ignore[arg-type]
    with pytest.raises(DataError):
        queue_log_sum_exp(q[0], k, temperature=1.0)
    with pytest.raises(DataError, match="values"):
        soft_neighbour(q, k, temperature=1.0, values=k[:3])


def test_an_exclusion_of_nobody_is_empty() -> None:
    assert Exclusion().empty
    assert Exclusion(skip=torch.zeros(3, 0, dtype=torch.int64)).empty
    assert not Exclusion(skip=torch.full((3, 1), -1)).empty
    found = queue_log_sum_exp(
        unit(3, 4), unit(5, 4, 1), temperature=0.1, skip=torch.zeros(3, 0, dtype=torch.int64)
    )
    assert found.allowed.tolist() == [5, 5, 5]
