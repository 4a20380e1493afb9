"""The contrast of cells against loops: matches, values and gradients, and who is left out."""

import math

import numpy as np
import pytest
import torch

from objectives import oracle
from rhyme.errors import DataError
from rhyme.kernels import Kernel
from rhyme.objectives import dense_info_nce, nearest_cells

F64 = torch.float64


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return torch.nn.functional.normalize(rows, dim=-1)


def test_matches_against_loops() -> None:
    queries, keys = torch.randn(3, 5, 4, dtype=F64), torch.randn(3, 7, 4, dtype=F64)
    match = nearest_cells(queries, keys)
    for b in range(3):
        for i in range(5):
            cosine = [float(queries[b, i] @ k / (queries[b, i].norm() * k.norm())) for k in keys[b]]
            assert int(match[b, i]) == int(np.argmax(cosine))


def test_matches_ignore_the_length_of_either_side_and_carry_no_gradient() -> None:
    queries, keys = torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    match = nearest_cells(queries.requires_grad_(), keys)
    longer = queries * torch.rand(2, 9, 1).add(0.1), keys * torch.rand(2, 9, 1).add(0.1) * 50
    assert torch.equal(nearest_cells(*longer), match)
    assert not match.requires_grad


def test_values_and_gradients_against_loops() -> None:
    b, n, m, d, k = 3, 4, 5, 6, 8
    queries = unit(b, n, d).requires_grad_()
    keys = unit(b, m, d, seed=1).requires_grad_()
    negatives = unit(k, d, seed=2).requires_grad_()
    match = torch.randint(m, (b, n), generator=torch.Generator().manual_seed(3))
    valid = torch.rand(b, n, generator=torch.Generator().manual_seed(4)) < 0.7
    groups, owners = torch.tensor([0, 1, -1]), torch.tensor([0, 0, 1, 2, -1, 1, 0, 3])
    out = dense_info_nce(
        queries, keys, match, negatives, temperature=0.2, valid=valid,
        anchor_groups=groups, negative_groups=owners,
    )  # fmt: skip
    upstream = torch.linspace(0.5, 2, b * n, dtype=F64)
    (out.values * upstream).sum().backward()
    for i in range(b):
        rows = slice(i * n, (i + 1) * n)
        excluded = oracle.same_group(np.repeat(groups[i].item(), n), owners.numpy())
        excluded |= np.broadcast_to(~valid[i].numpy()[:, None], excluded.shape)  # nothing to meet
        want = oracle.info_nce(
            queries[i].detach().numpy(), keys[i][match[i]].detach().numpy(),
            negatives.detach().numpy(), 0.2, excluded, upstream[rows].numpy(),
        )  # fmt: skip
        np.testing.assert_allclose(out.values[rows].detach(), want.values, atol=1e-12)
        assert out.valid[rows].tolist() == want.valid.tolist() == valid[i].tolist()
        np.testing.assert_allclose(queries.grad[i], want.grad_anchors, atol=1e-12)
        placed = np.zeros((m, d))
        for cell, grad in zip(match[i].tolist(), want.grad_positives, strict=True):
            placed[cell] += grad
        np.testing.assert_allclose(keys.grad[i], placed, atol=1e-12)
    assert out.diagnostics["masked_rows"] == (~valid).sum()


def test_equal_similarities_give_the_logarithm_of_the_queue() -> None:
    same = torch.full((2, 4, 3), 3**-0.5, dtype=F64)
    out = dense_info_nce(same, same, torch.zeros(2, 4, dtype=torch.int64), same[0], temperature=0.2)
    assert torch.allclose(out.values, torch.tensor(math.log(5), dtype=F64))


def test_cells_without_counterpart_change_nothing() -> None:
    queries, keys, negatives = unit(1, 4, 5), unit(1, 4, 5, seed=1), unit(6, 5, seed=2)
    match, valid = torch.arange(4)[None], torch.tensor([[True, False, True, False]])
    part = dense_info_nce(queries, keys, match, negatives, temperature=0.2, valid=valid)
    only = dense_info_nce(queries[:, ::2], keys, match[:, ::2], negatives, temperature=0.2)
    assert torch.equal(part.values[::2], only.values)
    assert part.values[1::2].tolist() == [0, 0]
    for name in ("positive_cosine", "hardest_negative_cosine", "accuracy"):
        assert torch.allclose(part.diagnostics[name], only.diagnostics[name])


@pytest.mark.parametrize("kernel", ["eager", "streaming"])
@pytest.mark.parametrize("seed", range(4))
def test_diagnostics_are_means_over_cells_that_count(kernel: Kernel, seed: int) -> None:
    b, n, k, d = 3, 5, 7, 4
    queries, noise = unit(b, n, d, seed=seed), unit(b, n, d, seed=seed + 10)
    keys = torch.nn.functional.normalize(queries + noise, dim=-1)
    negatives = unit(k, d, seed=seed + 20)
    match = torch.arange(n).expand(b, n)
    valid = torch.rand(b, n, generator=torch.Generator().manual_seed(seed)) < 0.5
    groups, owners = torch.tensor([0, 1, 2]), torch.tensor([2] * k)  # no negatives for the last
    out = dense_info_nce(
        queries, keys, match, negatives, temperature=0.2, valid=valid,
        anchor_groups=groups, negative_groups=owners, kernel=kernel,
    )  # fmt: skip
    excluded = oracle.same_group(np.repeat(groups.numpy(), n), owners.numpy())
    rows = [i * n + j for i in range(2) for j in range(n) if valid[i, j]]
    assert out.valid.nonzero()[:, 0].tolist() == rows
    want = oracle.means(
        queries.flatten(0, 1).numpy(), keys.flatten(0, 1).numpy(), negatives.numpy(), excluded, rows
    )
    for name, value in want.items():
        assert float(out.diagnostics[name]) == pytest.approx(value, abs=1e-9), name
    assert out.diagnostics["masked_rows"] == b * n - len(rows)


@pytest.mark.parametrize(("b", "n"), [(0, 4), (2, 0)])
def test_an_empty_batch_has_no_values(b: int, n: int) -> None:
    queries = torch.zeros(b, n, 3, dtype=F64, requires_grad=True)
    out = dense_info_nce(
        queries, torch.zeros(b, 4, 3, dtype=F64), torch.zeros(b, n, dtype=torch.int64), unit(5, 3),
        temperature=0.2, valid=torch.ones(b, n, dtype=torch.bool),
        anchor_groups=torch.arange(b), negative_groups=torch.arange(5),
    )  # fmt: skip
    out.values.sum().backward()
    assert out.values.shape == out.valid.shape == (0,)
    assert out.diagnostics["masked_rows"] == 0
    assert queries.grad is not None


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="one entry for each cell"):
        dense_info_nce(
            unit(2, 4, 3), unit(2, 4, 3), torch.zeros(2, 3, dtype=torch.int64), unit(5, 3),
            temperature=0.2,
        )  # fmt: skip
    with pytest.raises(DataError, match="cells must be"):
        nearest_cells(unit(2, 4, 3), unit(2, 4, 5))
