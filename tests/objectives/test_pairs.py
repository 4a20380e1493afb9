"""Pairs of frames against loops over NumPy rows: values and gradients."""

import math

import numpy as np
import pytest
import torch

from objectives import oracle
from rhyme.errors import DataError
from rhyme.objectives import info_nce, multi_positive_info_nce, pair_distance

F64 = torch.float64


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return torch.nn.functional.normalize(rows, dim=-1)


def test_distances_against_loops() -> None:
    p, z = unit(3, 4, 6).requires_grad_(), unit(3, 2, 6, seed=1).requires_grad_()
    out = pair_distance(p, z)
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    (out.values * upstream).sum().backward()
    a, b = p.detach().numpy(), z.detach().numpy()
    ga, gb = np.zeros_like(a), np.zeros_like(b)
    for i in range(3):
        total = 0.0
        for t in range(4):
            for u in range(2):
                total += (2 - 2 * math.fsum(a[i, t] * b[i, u])) / 8
                ga[i, t] += float(upstream[i]) * -2 * b[i, u] / 8
                gb[i, u] += float(upstream[i]) * -2 * a[i, t] / 8
        assert math.isclose(float(out.values[i].detach()), total, rel_tol=1e-12)
    np.testing.assert_allclose(p.grad, ga, atol=1e-14)
    np.testing.assert_allclose(z.grad, gb, atol=1e-14)


def test_distances_of_known_directions() -> None:
    rows = unit(5, 2, 64)
    assert torch.allclose(pair_distance(rows[:, :1], rows[:, :1]).values, torch.zeros(5).double())
    assert torch.allclose(
        pair_distance(rows[:, :1], -rows[:, :1]).values, torch.full((5,), 4.0).double()
    )
    apart = pair_distance(unit(2000, 1, 64), unit(2000, 1, 64, seed=1)).values
    assert abs(float(apart.mean()) - 2) < 0.02, "independent directions"


def test_rolls_meet_every_pair_once() -> None:
    """The published form: T rolls of one half against the other, each with weight 1/T."""
    p, z = unit(3, 4, 8), unit(3, 4, 8, seed=1)
    rolled, seen = torch.zeros(3, dtype=F64), np.zeros((4, 4))
    for roll in range(4):
        partner = z.roll(-roll, dims=1)
        for t in range(4):
            seen[t, (t + roll) % 4] += 1
        rolled += (2 - 2 * (p * partner).sum(2)).mean(1) / 4
    assert (seen == 1).all()
    assert torch.allclose(pair_distance(p, z).values, rolled)


def test_each_positive_is_normalised_by_itself() -> None:
    anchors, positives = unit(3, 2, 6).requires_grad_(), unit(3, 4, 6, seed=1).requires_grad_()
    negatives = unit(9, 6, seed=2).requires_grad_()
    groups, owners = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1, 2, -1, 1, 0, 3, 2])
    out = multi_positive_info_nce(
        anchors, positives, negatives, temperature=0.2,
        anchor_groups=groups, negative_groups=owners,
    )  # fmt: skip
    upstream = torch.linspace(-1, 2, 6, dtype=F64)
    (out.values * upstream).sum().backward()
    rows = anchors.detach().flatten(0, 1).numpy()
    excluded = oracle.same_group(groups.repeat_interleave(2).numpy(), owners.numpy())
    values, ga, gn = np.zeros(6), np.zeros((6, 6)), np.zeros((9, 6))
    gp = np.zeros((3, 4, 6))
    for u in range(4):
        chosen = positives.detach()[:, u].repeat_interleave(2, 0).numpy()
        want = oracle.info_nce(
            rows, chosen, negatives.detach().numpy(), 0.2, excluded, upstream.numpy() / 4
        )
        values += want.values / 4
        ga += want.grad_anchors
        gn += want.grad_negatives
        gp[:, u] += want.grad_positives.reshape(3, 2, 6).sum(1)
    np.testing.assert_allclose(out.values.detach(), values, atol=1e-12)
    np.testing.assert_allclose(anchors.grad.flatten(0, 1), ga, atol=1e-12)
    np.testing.assert_allclose(positives.grad, gp, atol=1e-12)
    np.testing.assert_allclose(negatives.grad, gn, atol=1e-12)


def test_one_positive_is_info_nce() -> None:
    anchors, positives, negatives = unit(4, 1, 5), unit(4, 1, 5, seed=1), unit(7, 5, seed=2)
    one = multi_positive_info_nce(anchors, positives, negatives, temperature=0.1)
    plain = info_nce(anchors[:, 0], positives[:, 0], negatives, temperature=0.1)
    assert torch.allclose(one.values, plain.values, atol=1e-12)
    for name, value in plain.diagnostics.items():
        assert torch.allclose(one.diagnostics[name], value), name


def test_an_anchor_without_negatives_is_left_out() -> None:
    out = multi_positive_info_nce(
        unit(2, 1, 4), unit(2, 3, 4), unit(2, 4, seed=1), temperature=0.2,
        anchor_groups=torch.tensor([0, 1]), negative_groups=torch.tensor([0, 0]),
    )  # fmt: skip
    assert out.valid.tolist() == [False, True]
    assert float(out.values[0]) == 0
    assert float(out.diagnostics["masked_rows"]) == 1


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="two clips of the same items"):
        pair_distance(unit(3, 2, 4), unit(2, 2, 4))
    with pytest.raises(DataError, match="two clips of the same items"):
        multi_positive_info_nce(unit(3, 4), unit(3, 4), unit(5, 4), temperature=0.2)
