"""Shuffle-rank and temporal coherence: loops in float64, and the values of the specification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectives import oracle
from objectives.test_against_oracle import close, leaf
from rhyme.errors import ConfigError, DataError
from rhyme.objectives import (
    ObjectiveOutput,
    calibrate_segments,
    info_nce,
    nt_xent,
    segment_accuracy,
    segment_mean,
    segment_ranking,
    shuffle_segments,
)

F64 = torch.float64
SETTINGS = settings(max_examples=100, deadline=None)


def unit(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def ranking_by_hand(
    first: np.ndarray, second: np.ndarray, theta: float, clamp: float | None, upstream: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anchor by anchor, other by other; and the gradient of ``Σ_i upstream_i · R_i``."""
    b, s, _ = first.shape
    values, grads = np.zeros(b), [np.zeros_like(first), np.zeros_like(second)]
    for i in range(b):
        sets = (first[i], second[i])
        names = [(k, j) for k in (0, 1) for j in range(s)]
        for k, j in names:
            u, v = sets[k][j], sets[1 - k][j]
            for m, n in names:
                if n == j:
                    continue
                w = sets[m][n]
                x = float(u @ w - u @ v) / theta
                kept = clamp is None or x <= clamp
                x = x if clamp is None else min(x, clamp)
                share = 1 / (2 * s * (2 * s - 2))
                values[i] += share * (math.log1p(math.exp(-abs(x))) + max(x, 0.0))
                slope = share * upstream[i] / theta / (1 + math.exp(-x)) if kept else 0.0
                grads[k][i, j] += slope * (w - v)
                grads[m][i, n] += slope * u
                grads[1 - k][i, j] -= slope * u
    return values, *grads


@SETTINGS
@given(
    b=st.integers(1, 4), s=st.integers(1, 4), d=st.integers(1, 6),
    theta=st.sampled_from([0.01, 0.05, 0.5, 10.0]), clamp=st.sampled_from([None, 0.5, 5.0]),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_ranking(b: int, s: int, d: int, theta: float, clamp: float | None, seed: int) -> None:
    first, second = unit(b, s, d, seed=seed), unit(b, s, d, seed=seed + 1)
    up = torch.randn(b, generator=torch.Generator().manual_seed(seed), dtype=F64)
    a, c = leaf(first), leaf(second)
    out = segment_ranking(a, c, theta=theta, clamp=clamp)
    (out.values * up).sum().backward()
    want, on_first, on_second = ranking_by_hand(
        first.numpy(), second.numpy(), theta, clamp, up.numpy()
    )
    close(out.values, want, 1 / theta)
    close(a.grad, on_first, 1 / theta)
    close(c.grad, on_second, 1 / theta)
    assert out.valid.tolist() == [s > 1] * b
    assert float(out.diagnostics["masked_rows"]) == (0 if s > 1 else b)


def coherence(x: Tensor, y: Tensor) -> ObjectiveOutput:
    return nt_xent(segment_mean(x), segment_mean(y), temperature=0.07)


def all_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """S of every two clips: the mean over all pairs of their segments."""
    found = np.zeros((len(first), len(second)))
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            found[i, j] = np.mean([float(p @ q) for p in x for q in y])
    return found


def as_clips(on_pairs: np.ndarray, second: np.ndarray, s: int) -> np.ndarray:
    """Gradient at the first side's segments, from that at the similarities ``[b, n]``."""
    return np.repeat((on_pairs @ second.mean(1))[:, None] / s, s, axis=1)


def softmax_rows(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@SETTINGS
@given(
    b=st.integers(2, 4), s=st.integers(1, 4), d=st.integers(1, 6),
    t=st.sampled_from([0.03, 0.07, 1.0]), seed=st.integers(0, 999),
)  # fmt: skip
def test_coherence_within_the_batch(b: int, s: int, d: int, t: float, seed: int) -> None:
    x, y = unit(b, s, d, seed=seed), unit(b, s, d, seed=seed + 1)
    up = torch.randn(2 * b, generator=torch.Generator().manual_seed(seed), dtype=F64)
    a, c = leaf(x), leaf(y)
    out = nt_xent(segment_mean(a), segment_mean(c), temperature=t)
    (out.values * up).sum().backward()
    clips = np.concatenate([x.numpy(), y.numpy()])
    logits = all_pairs(clips, clips) / t
    np.fill_diagonal(logits, -np.inf)
    positive = (np.arange(2 * b) + b) % (2 * b)
    share = softmax_rows(logits)
    want = -np.log(share[np.arange(2 * b), positive])
    on_pairs = share.copy()
    on_pairs[np.arange(2 * b), positive] -= 1
    on_pairs *= up.numpy()[:, None] / t
    grad = as_clips(on_pairs + on_pairs.T, clips, s)
    close(out.values, want, 10 / t)
    close(torch.cat([a.grad, c.grad]), grad, 10 / t)


@SETTINGS
@given(
    b=st.integers(1, 4), n=st.integers(1, 6), s=st.integers(1, 4), d=st.integers(1, 6),
    t=st.sampled_from([0.03, 0.07, 1.0]), seed=st.integers(0, 999), grouped=st.booleans(),
)  # fmt: skip
def test_coherence_against_a_queue(
    b: int, n: int, s: int, d: int, t: float, seed: int, grouped: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y, k = unit(b, s, d, seed=seed), unit(b, s, d, seed=seed + 1), unit(n, s, d, seed=seed + 2)
    mine = torch.randint(-1, 3, (b,), generator=generator)
    theirs = torch.randint(-1, 3, (n,), generator=generator)
    up = torch.randn(b, generator=generator, dtype=F64)
    a = leaf(x)
    out = info_nce(
        segment_mean(a), segment_mean(y), segment_mean(k), temperature=t,
        anchor_groups=mine if grouped else None, negative_groups=theirs if grouped else None,
    )  # fmt: skip
    (out.values * up).sum().backward()
    excluded = np.zeros((b, n), dtype=bool)
    if grouped:
        excluded = oracle.same_group(mine.numpy(), theirs.numpy())
    means = [z.numpy().mean(1) for z in (x, y, k)]
    want = oracle.info_nce(*means, t, excluded, up.numpy())
    assert np.allclose(all_pairs(x.numpy(), k.numpy()), means[0] @ means[2].T, atol=1e-15)
    close(out.values, want.values, 10 / t)
    assert out.valid.tolist() == want.valid.tolist()
    close(a.grad, np.repeat(want.grad_anchors[:, None] / s, s, axis=1), 10 / t)


@SETTINGS
@given(b=st.integers(1, 4), s=st.integers(1, 5), k=st.integers(1, 3), seed=st.integers(0, 999))
def test_calibration_undoes_the_shuffle(b: int, s: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(s, generator=generator) for _ in range(b)])
    clips = torch.randn(b, s * k, 2, 3, generator=generator)
    shuffled = shuffle_segments(clips, order)
    for i in range(b):
        for j in range(s):
            came_from = int(order[i, j])
            theirs = clips[i, came_from * k : (came_from + 1) * k]
            assert torch.equal(shuffled[i, j * k : (j + 1) * k], theirs)
    # a head that reads each segment by itself
    vectors = leaf(shuffled.unflatten(1, (s, k)).flatten(2))
    restored = calibrate_segments(vectors, order)
    assert torch.equal(restored, clips.unflatten(1, (s, k)).flatten(2))
    restored[:, 0].sum().backward()
    came = [int(torch.argwhere(order[i] == 0)) for i in range(b)]
    assert all(vectors.grad[i].any(dim=1).nonzero().tolist() == [[came[i]]] for i in range(b))


# The invariants of clips.md 1.8.


def shuffle_rank(q: Tensor, p: Tensor, r: Tensor, clamp: float | None = None) -> float:
    parts = [segment_ranking(x, p, clamp=clamp).values.mean() for x in (q, r)]
    return float(0.5 * parts[0] + 0.5 * parts[1])


def at_angle(degrees: float) -> Tensor:
    angle = math.radians(degrees)
    rows = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=F64)
    return rows.expand(3, 2, 2)


@pytest.mark.parametrize("s", [2, 3, 4])
def test_equal_vectors_give_the_logarithm_of_two(s: int) -> None:
    same = unit(3, 1, 8).expand(3, s, 8)
    assert shuffle_rank(same, same, same) == pytest.approx(math.log(2), abs=1e-12)
    assert segment_accuracy(same, same).tolist() == [0.0] * 3, "a tie is no hit"


@pytest.mark.parametrize(("degrees", "want"), [(20, 0.26186), (41.4, 0.00673), (60, 4.54e-5)])
def test_two_segments_at_an_angle(degrees: float, want: float) -> None:
    x = at_angle(degrees)
    found = shuffle_rank(x, x, x)
    exact = math.log1p(math.exp((math.cos(math.radians(degrees)) - 1) / 0.05))
    assert found == pytest.approx(exact, rel=1e-12)
    assert found == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize(("degrees", "most"), [(20, 0.970), (41.4, 0.875), (60, 0.75), (180, 0)])
def test_the_largest_coherence_at_that_angle(degrees: float, most: float) -> None:
    """What shuffle-rank drives apart, coherence pays for: opposite segments have none."""
    x = at_angle(degrees)
    found = coherence(x, x).diagnostics["positive_cosine"]
    assert float(found) == pytest.approx((1 + math.cos(math.radians(degrees))) / 2, abs=1e-12)
    assert float(found) == pytest.approx(most, abs=1e-3)


def test_random_directions() -> None:
    q, p, r = (unit(20_000, 2, 64, seed=k) for k in range(3))
    assert shuffle_rank(q, p, r) == pytest.approx(1.60, abs=0.02)
    assert shuffle_rank(q, p, r, clamp=5.0) == pytest.approx(1.47, abs=0.02)
    assert float(segment_accuracy(q, p).mean()) == pytest.approx(0.5, abs=0.01)
    three = [unit(20_000, 3, 64, seed=k) for k in range(2)]
    assert float(segment_accuracy(*three).mean()) == pytest.approx(1 / 3, abs=0.01)


def test_segments_that_changed_places() -> None:
    """Nearly orthogonal segments, calibrated wrongly: always wrong, about 10 without a clamp."""
    q = unit(5000, 2, 64)
    noise = [torch.nn.functional.normalize(q + 0.02 * unit(5000, 2, 64, seed=k), dim=-1)
             for k in (1, 2)]  # fmt: skip
    r, p = noise[0], noise[1].flip(1)
    assert shuffle_rank(q, p, r) == pytest.approx(10.2, abs=0.3)
    assert segment_accuracy(q, p).tolist() == [0.0] * 5000
    assert segment_accuracy(q, noise[1]).tolist() == [1.0] * 5000
    assert shuffle_rank(q, p, r, clamp=5.0) < 4


def test_a_head_that_ignores_its_input_is_right_only_where_nothing_moved() -> None:
    constant = torch.eye(2, 64, dtype=F64).expand(2, 2, 64)
    still, moved = constant[:1], constant[:1].flip(1)
    assert shuffle_rank(still, still, still) < 1e-8
    assert shuffle_rank(still, moved, still) == pytest.approx((20 + math.log(2)) / 2, abs=1e-3)
    assert float(segment_accuracy(still, still)) == 1
    assert float(segment_accuracy(still, moved)) == 0
    both = torch.cat([still, moved])
    out = segment_ranking(constant, both)
    assert float(out.diagnostics["accuracy"]) == 0.5
    assert float(out.values.mean()) == pytest.approx(5.17, abs=0.01)
    measured = segment_ranking(constant, both, measured=torch.tensor([False, True]))
    assert float(measured.diagnostics["accuracy"]) == 0, "on what moved alone it is never right"


def test_the_best_that_a_head_can_do_which_ignores_its_input() -> None:
    """With two segments .6507, a little below ln 2, at (1 - cos) / θ = ln 2; and 0 % right.

    A run whose shuffle-rank stays there has not begun to see order.
    """

    def mean(apart: float) -> float:
        c = 1 - 0.05 * apart
        head = torch.tensor([[1.0, 0.0], [c, math.sqrt(1 - c * c)]], dtype=F64)[None]
        values = [segment_ranking(head, x).values for x in (head, head.flip(1))]
        return float(sum(values)) / 2

    least = (math.log(1.5) + math.log(3) / 2 + math.log(2) / 2) / 2
    assert mean(math.log(2)) == pytest.approx(least, abs=1e-9)
    assert least == pytest.approx(0.6507, abs=1e-4)
    assert all(mean(x) > least for x in (0.0, 0.3, 0.6, 0.8, 2.0, 20.0))


def test_the_clamp_takes_the_gradient_of_the_worst_pairs() -> None:
    q = unit(4, 2, 64)
    for clamp, moves in ((None, True), (5.0, False)):
        x = leaf(q)
        out = segment_ranking(x, q.flip(1), clamp=clamp)
        out.values.sum().backward()
        worst = (q * q.flip(1)).sum(-1) < 0.75 - 1e-9
        assert worst.all()
        # what is left with the clamp are the pairs within a set, which are ties here
        assert (x.grad.norm() > 5) == moves


def test_uniform_logits() -> None:
    same = unit(1, 2, 8).expand(64, 2, 8)
    out = coherence(same, same)
    assert out.values.mean().item() == pytest.approx(math.log(127), abs=1e-9)
    assert math.log(127) == pytest.approx(4.8442, abs=1e-4)
    queue = same[:1].expand(16384, 2, 8)
    means = [segment_mean(x) for x in (same, same, queue)]
    out = info_nce(*means, temperature=0.07)
    assert out.values.mean().item() == pytest.approx(9.7041, abs=1e-4)


def test_coherence_does_not_know_the_order_of_segments_and_ranking_does() -> None:
    x, y = unit(6, 3, 8), unit(6, 3, 8, seed=1)
    turned = y[:, [2, 0, 1]]
    plain, other = (coherence(x, z).values for z in (y, turned))
    assert torch.allclose(plain, other, atol=1e-12)
    plain, other = (segment_ranking(x, z).values for z in (y, turned))
    assert not torch.allclose(plain, other, atol=1e-3)


def test_rows_in_half_precision_are_ranked_in_full() -> None:
    x, y = (unit(4, 2, 8, seed=k).to(torch.bfloat16) for k in (0, 1))
    out = segment_ranking(x, y)
    assert out.values.dtype is torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(segment_ranking(x, y).values, out.values)


def test_what_does_not_fit_is_refused() -> None:
    x = unit(3, 2, 8)
    with pytest.raises(DataError, match="twice"):
        segment_ranking(x, x[:, :1])
    with pytest.raises(DataError, match="measured"):
        segment_ranking(x, x, measured=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ConfigError, match="theta"):
        segment_ranking(x, x, theta=0.0)
    with pytest.raises(ConfigError, match="clamp"):
        segment_ranking(x, x, clamp=-1.0)
    with pytest.raises(DataError, match="segments of clips"):
        segment_mean(x[0])
    with pytest.raises(DataError, match="divide"):
        shuffle_segments(torch.zeros(3, 5, 1), torch.zeros(3, 2, dtype=torch.int64))
