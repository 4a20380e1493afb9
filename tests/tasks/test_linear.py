"""The linear probe: against scikit-learn's optimum, and blind to the test set."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rhyme.errors import ConfigError, DataError
from rhyme.tasks import linear_probe, standardise


def blobs(n, seed, spread=1.6, classes=3, d=6):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(classes, d))
    y = rng.integers(0, classes, n)
    return (centres[y] + spread * rng.normal(size=(n, d))).astype(np.float32), y


@pytest.fixture
def parts():
    return (*blobs(90, 1), *blobs(60, 2), *blobs(80, 3))


def test_matches_a_plain_fit_with_the_chosen_penalty(parts):
    x, y, xv, yv, xt, yt = parts
    grid = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    found = linear_probe(*parts, l2=grid)
    s = standardise(x)
    accuracies = {}
    for l2 in grid:
        model = LogisticRegression(C=1 / (l2 * len(x)), max_iter=5000, tol=1e-8)
        model.fit(s.apply(x).astype(np.float64), y)
        accuracies[l2] = float((model.predict(s.apply(xv)) == yv).mean())
        if l2 == found.l2:
            predicted = model.predict(s.apply(xt))
    assert found.validation == pytest.approx(accuracies, abs=0.02)
    assert found.l2 == max(grid, key=lambda v: (found.validation[v], v))
    assert (found.predictions == predicted).mean() > 0.97
    assert found.accuracy == pytest.approx((found.predictions == yt).mean())
    for code, accuracy in found.per_class.items():
        assert accuracy == pytest.approx((found.predictions[yt == code] == code).mean())
    assert found.converged
    assert found.refit == "train"
    assert found.at_edge == (found.l2 in (1e-3, 10.0))


def test_the_choice_never_sees_the_test_labels(parts):
    x, y, xv, yv, xt, yt = parts
    honest = linear_probe(x, y, xv, yv, xt, yt)
    for poison in range(3):
        poisoned = linear_probe(x, y, xv, yv, xt, np.full_like(yt, poison))
        assert poisoned.l2 == honest.l2
        assert poisoned.validation == honest.validation
        assert (poisoned.predictions == honest.predictions).all()


@pytest.mark.parametrize("planted", [1e-4, 1e-2, 1.0])
def test_the_choice_follows_the_validation_labels(parts, planted):
    # validation labels that are the answers of one penalty's classifier: that one is chosen
    x, y, xv, _, xt, yt = parts
    answers = linear_probe(x, y, xv, y[:60], xv, y[:60], l2=(planted,)).predictions
    found = linear_probe(x, y, xv, answers, xt, yt, l2=(1e-4, 1e-2, 1.0))
    assert found.validation[planted] == 1.0
    assert found.l2 == planted


def test_refit_on_both_uses_the_validation_rows(parts):
    x, y, xv, yv, xt, yt = parts
    few = slice(0, 12)
    alone = linear_probe(x[few], y[few], xv, yv, xt, yt, l2=(0.1,))
    both = linear_probe(x[few], y[few], xv, yv, xt, yt, l2=(0.1,), refit="train+val")
    assert both.refit == "train+val"
    assert both.accuracy > alone.accuracy
    assert not alone.at_edge


def test_constant_features_and_too_few_iterations(parts):
    x, y, xv, yv, xt, yt = parts
    dead = [np.concatenate([p, np.full((len(p), 1), 7, np.float32)], 1) for p in (x, xv, xt)]
    found = linear_probe(dead[0], y, dead[1], yv, dead[2], yt)
    assert found.accuracy == pytest.approx(linear_probe(*parts).accuracy, abs=0.02)
    assert not linear_probe(*parts, l2=(1e-6,), iterations=2).converged


def test_refusals(parts):
    x, y, xv, yv, xt, yt = parts
    with pytest.raises(DataError, match="two classes"):
        linear_probe(x, np.zeros_like(y), xv, yv, xt, yt)
    with pytest.raises(DataError, match="val rows"):
        linear_probe(x, y, xv[:0], yv[:0], xt, yt)
    with pytest.raises(ConfigError, match="positive"):
        linear_probe(*parts, l2=(0.0, 1.0))
    with pytest.raises(ConfigError, match="refit"):
        linear_probe(*parts, refit="test")
