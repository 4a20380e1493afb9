"""J and F against slow loops, and their conventions at the edges."""

import math

import numpy as np
import pytest

from rhyme.errors import DataError
from rhyme.tasks import boundary_map, boundary_similarity, mask_score, region_similarity


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixel by pixel: the neighbours to the right, below, and right below, where they exist."""
    h, w = mask.shape
    out = np.zeros_like(mask)
    for y in range(h):
        for x in range(w):
            if y < h - 1 and x < w - 1:
                around = (mask[y, x + 1], mask[y + 1, x], mask[y + 1, x + 1])
            elif y < h - 1:
                around = (mask[y + 1, x],)
            elif x < w - 1:
                around = (mask[y, x + 1],)
            else:
                around = ()
            out[y, x] = any(mask[y, x] != other for other in around)
    return out


def slow_f(predicted: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    found, wanted = (np.argwhere(slow_boundary(m)).tolist() for m in (predicted, truth))
    if not found and not wanted:
        return 1.0
    radius = math.ceil(tolerance * math.sqrt(sum(n * n for n in truth.shape)))

    def matched(points: list, others: list) -> float:
        hits = sum(
            any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points
        )
        # an empty prediction is right in all it says, an empty truth is found entirely
        return hits / len(points) if points else 1.0

    precision, recall = matched(found, wanted), matched(wanted, found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blobs(seed: int, t: int = 6, h: int = 17, w: int = 23) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    masks = []
    for _ in range(t):
        cy, cx, r = rng.uniform(0, h), rng.uniform(0, w), rng.uniform(1, 9)
        masks.append((y - cy) ** 2 + (x - cx) ** 2 < r * r)
    return np.stack(masks)


@pytest.mark.parametrize("tolerance", [0.008, 0.05, 0.15])
def test_figures_against_loops(tolerance: float) -> None:
    for seed in range(6):
        predicted, truth = blobs(seed), blobs(seed + 100)
        predicted[0] = truth[0]
        predicted[1] = False
        j, f = region_similarity(predicted, truth), boundary_similarity(predicted, truth, tolerance)
        for t in range(len(truth)):
            assert np.array_equal(boundary_map(truth[t]), slow_boundary(truth[t]))
            union = sum(bool(a or b) for a, b in zip(predicted[t].flat, truth[t].flat, strict=True))
            both = sum(bool(a and b) for a, b in zip(predicted[t].flat, truth[t].flat, strict=True))
            assert j[t] == pytest.approx(both / union if union else 1.0)
            assert f[t] == pytest.approx(slow_f(predicted[t], truth[t], tolerance))


def test_a_perfect_mask_and_empty_ones() -> None:
    masks = blobs(0)
    empty = np.zeros_like(masks)
    for measure in (region_similarity, boundary_similarity):
        assert measure(masks, masks).tolist() == [1.0] * 6
        assert measure(empty, empty).tolist() == [1.0] * 6
    some = masks.any(axis=(1, 2))
    assert region_similarity(empty, masks)[some].tolist() == [0.0] * int(some.sum())
    assert boundary_similarity(empty, masks)[some].tolist() == [0.0] * int(some.sum())


def test_the_tolerance_at_480p_is_eight_pixels() -> None:
    truth = np.zeros((1, 480, 854), dtype=bool)
    truth[0, 200:300, 200:300] = True
    for shift, found in ((8, 1.0), (9, 0.0)):
        side = np.zeros_like(truth)
        side[0, 200:300, 200 + shift : 300 + shift] = True
        edges = boundary_similarity(side, truth)[0]
        assert (edges == 1.0) == (found == 1.0)


def test_recall_is_strict_and_decay_compares_quarters_of_any_length() -> None:
    values = np.linspace(1.0, 0.0, 301)  # bins of 8-bit numbers would not hold this many
    score = mask_score(values)
    assert score.mean == pytest.approx(0.5)
    assert score.recall == pytest.approx(150 / 301), "one half itself does not count"
    assert score.decay == pytest.approx(values[:76].mean() - values[225:].mean())
    assert mask_score(np.ones(3)).decay == 0


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="no frame counts"):
        mask_score(np.empty(0))
    with pytest.raises(DataError, match="as many predicted"):
        region_similarity(blobs(0), blobs(0)[:2])
