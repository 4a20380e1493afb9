from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as Reference
from torch import Tensor

from rhyme.errors import ConfigError, DataError, UnknownName
from rhyme.kernels import kmeans


def clouds(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(7, d, generator=generator, dtype=dtype) * 3
    which = torch.randint(0, 7, (n,), generator=generator)
    return centres[which] + torch.randn(n, d, generator=generator, dtype=dtype)


def by_loops(
    points: np.ndarray, centres: np.ndarray, weights: np.ndarray, steps: int, cosine: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Lloyd's algorithm in float64, a point at a time; clusters must not run empty."""
    points = points.astype(np.float64)
    if cosine:
        points = np.array([p / np.linalg.norm(p) if np.linalg.norm(p) else p for p in points])
        centres = np.array([c / np.linalg.norm(c) for c in centres])

    def distance(p: np.ndarray, c: np.ndarray) -> float:
        return 1 - float(p @ c) if cosine else float(((p - c) ** 2).sum())

    for step in range(steps + 1):
        each = np.array([[distance(p, c) for c in centres] for p in points])
        assignment = each.argmin(1)
        if step == steps:
            break
        means = []
        for j in range(len(centres)):
            mine = assignment == j
            mean = (points[mine] * weights[mine, None]).sum(0) / weights[mine].sum()
            means.append(mean / np.linalg.norm(mean) if cosine else mean)
        centres = np.array(means)
    return centres, assignment, float((each.min(1) * weights).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "d", "k"), [(2000, 6, 9), (500, 3, 40), (70_000, 2, 3)])
def test_equals_scikit_learn_from_the_same_centres(
    n: int, d: int, k: int, dtype: torch.dtype
) -> None:
    points = (clouds(n, d) + 50).to(dtype)
    start = points[torch.randperm(n, generator=torch.Generator().manual_seed(1))[:k]]
    found = kmeans(points, k, init=start, iterations=12, tolerance=0)
    reference = Reference(
        k, init=start.numpy(), n_init=1, max_iter=12, tol=0, algorithm="lloyd"
    ).fit(points.numpy())
    agree = (found.assignment.numpy() == reference.labels_).mean()
    assert agree == 1 if dtype is torch.float64 else agree > 0.999
    assert found.inertia == pytest.approx(reference.inertia_, rel=1e-4)
    assert np.allclose(found.centres, reference.cluster_centers_, rtol=1e-4, atol=1e-3)
    assert found.counts.tolist() == np.bincount(found.assignment, minlength=k).tolist()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_loops_over_points(cosine: bool, weighted: bool) -> None:
    points = clouds(150, 3, seed=2)
    points[4] = 0
    weights = torch.rand(150, generator=torch.Generator().manual_seed(3)).double() + 0.1
    if not weighted:
        weights = torch.ones_like(weights)
    found = kmeans(
        points, 5, metric="cosine" if cosine else "euclidean", init=points[10:15], iterations=4,
        tolerance=0, weights=weights if weighted else None,
    )  # fmt: skip
    centres, assignment, inertia = by_loops(
        points.numpy(), points[10:15].numpy(), weights.numpy(), 4, cosine
    )
    assert found.assignment.tolist() == assignment.tolist()
    assert found.inertia == pytest.approx(inertia, rel=1e-9)
    assert np.allclose(found.centres, centres, atol=1e-9)


def test_a_whole_weight_counts_a_point_so_often() -> None:
    points = clouds(60, 3)
    times = torch.arange(60) % 4
    often = kmeans(points.repeat_interleave(times, 0), 4, init=points[1:5], tolerance=0)
    weighed = kmeans(points, 4, init=points[1:5], tolerance=0, weights=times.double())
    assert torch.allclose(often.centres, weighed.centres)
    assert often.inertia == pytest.approx(weighed.inertia)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40), d=st.integers(1, 3), levels=st.integers(0, 3), seed=st.integers(0, 999),
    cosine=st.booleans(), random=st.booleans(), share=st.floats(0, 1),
)  # fmt: skip
def test_whatever_comes_the_inertia_never_rises(
    n: int, d: int, levels: int, seed: int, cosine: bool, random: bool, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(-levels, levels + 1, (n, d), generator=generator).double()
    k = 1 + round(share * (n - 1))
    found = kmeans(
        points, k, metric="cosine" if cosine else "euclidean",
        init="random" if random else "k-means++", tolerance=0, generator=seed,
    )  # fmt: skip
    history = [*found.history, found.inertia]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(history))
    assert found.centres.isfinite().all()
    assert int(found.counts.sum()) == n
    assert found.assignment.min() >= 0
    assert found.assignment.max() < k
    if not cosine:
        distinct = len(torch.unique(points, dim=0))
        if k >= distinct:
            assert found.inertia == pytest.approx(0, abs=1e-9)


def test_empty_clusters_go_to_the_farthest_points() -> None:
    points = torch.tensor([[0.0], [1], [2], [50], [90]])
    # the last two centres are nobody's nearest
    found = kmeans(points, 4, init=torch.tensor([[0.0], [1], [1e6], [-1e6]]), tolerance=0)
    assert (found.counts > 0).all()
    assert found.inertia == pytest.approx(0.5)
    assert sorted(found.centres[:, 0].tolist())[2:] == [50, 90]


def test_the_same_seed_gives_the_same_clusters_and_leaves_the_global_generator() -> None:
    points = clouds(400, 4, dtype=torch.float32)
    state = torch.get_rng_state()
    first, again = kmeans(points, 9, generator=5), kmeans(points, 9, generator=5)
    assert torch.equal(first.centres, again.centres)
    assert torch.equal(first.assignment, again.assignment)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.centres, kmeans(points, 9, generator=6).centres)
    by_generator = kmeans(points, 9, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first.centres, by_generator.centres)


def test_more_starts_are_no_worse_and_plus_plus_finds_far_clouds() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 2, generator=generator) + torch.arange(12).repeat(25)[:, None] * 100
    good = kmeans(points, 12)
    assert good.counts.tolist() == [25] * 12
    assert good.converged
    one = kmeans(points, 12, init="random", generator=1)
    assert kmeans(points, 12, init="random", generator=1, restarts=8).inertia <= one.inertia
    assert one.inertia > 10 * good.inertia


def test_half_precision_is_computed_in_float32() -> None:
    points = clouds(200, 4).half()
    found = kmeans(points, 5, init=points[:5])
    exact = kmeans(points.float(), 5, init=points[:5].float())
    assert found.centres.dtype == torch.float32
    assert torch.equal(found.centres, exact.centres)


def test_cosine_ignores_lengths_and_survives_opposite_points() -> None:
    points = clouds(200, 5)
    lengths = torch.rand(200, 1, generator=torch.Generator().manual_seed(0)).double() + 0.1
    one = kmeans(points, 6, metric="cosine", init=points[:6])
    other = kmeans(points * lengths, 6, metric="cosine", init=points[:6])
    assert torch.equal(one.assignment, other.assignment)
    assert torch.allclose(one.centres.norm(dim=1), torch.ones(6).double())
    opposite = torch.tensor([[1.0, 0], [-1, 0]])
    found = kmeans(opposite, 1, metric="cosine", init=torch.tensor([[0.0, 1]]))
    assert found.centres.tolist() == [[0, 1]]
    assert found.inertia == pytest.approx(2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e-14, 1e17, 1e20, 3e37, 1e200])
def test_points_of_any_size_are_assigned_right_or_refused(
    metric: Any, dtype: torch.dtype, size: float
) -> None:
    """Squares of 1e20 are infinite in float32, those of 1e-30 are 0: no distance could be told."""
    generator = torch.Generator().manual_seed(0)
    points = torch.eye(4).repeat(50, 1) + torch.randn(200, 4, generator=generator) / 10
    points = (points.double() * size).to(dtype)
    if not 0 < float(points.abs().max()) < torch.inf:
        return
    served = 1e-15 < size < 1e18 or (dtype is torch.float64 and 1e-140 < size < 1e150)
    if not served:
        with pytest.raises(DataError, match="leave the range") as told:
            kmeans(points, 4, metric=metric)
        assert told.value.value == pytest.approx(float(points.abs().max()))
        assert "divide all points" in str(told.value.remedy)
        points = points.double() / float(points.abs().max())  # what the error says
    found = kmeans(points, 4, metric=metric)
    groups = [set(found.assignment[k::4].tolist()) for k in range(4)]
    assert sorted(len(group) for group in groups) == [1] * 4
    assert set.union(*groups) == set(range(4))
    assert 0 < found.inertia < torch.inf


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 69_999])
def test_numbers_that_are_none_are_refused(value: float, row: int) -> None:
    points = clouds(70_000, 2, dtype=torch.float32)
    points[row, 1] = value
    for metric in ("euclidean", "cosine"):
        with pytest.raises(DataError, match="not finite"):
            kmeans(points, 2, metric=metric)
    with pytest.raises(DataError, match="leave the range"):
        kmeans(torch.randn(5, 2), 1, init=torch.full((1, 2), 1e20))


def test_zeros_are_points() -> None:
    found = kmeans(torch.zeros(5, 3), 2)
    assert found.inertia == 0
    assert int(found.counts.sum()) == 5


def test_what_does_not_fit_is_refused() -> None:
    points = torch.randn(5, 2)
    with pytest.raises(DataError, match="more clusters than points"):
        kmeans(points, 6)
    with pytest.raises(DataError, match="not finite"):
        kmeans(torch.tensor([[0.0, torch.nan]]), 1)
    with pytest.raises(DataError, match=r"\[k, d\]"):
        kmeans(points, 2, init=torch.zeros(3, 2))
    with pytest.raises(DataError, match="not finite"):
        kmeans(points, 1, init=torch.full((1, 2), torch.inf))
    with pytest.raises(DataError, match="one number for each"):
        kmeans(points, 2, weights=torch.ones(4))
    for weights in (torch.zeros(5), -torch.ones(5), torch.full((5,), torch.nan)):
        with pytest.raises(DataError, match="weights"):
            kmeans(points, 2, weights=weights)
    for wrong in ({"iterations": 0}, {"restarts": 0}, {"tolerance": -1.0}):
        with pytest.raises(ConfigError):
            kmeans(points, 2, **wrong)
    with pytest.raises(ConfigError):
        kmeans(points, 0)
    with pytest.raises(UnknownName, match="metric"):
        kmeans(points, 2, metric="manhattan")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="initialisation"):
        kmeans(points, 2, init="farthest")
