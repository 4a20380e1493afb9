"""Batch norm and a linear layer on stored features: against the same written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rhyme.errors import ConfigError, DataError, Diverged
from rhyme.tasks import norm_probe


def blobs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centres = np.random.default_rng(0).normal(size=(3, 5))
    return (centres[y] * 40 + 30 * rng.normal(size=(n, 5)) + 500).astype(np.float32), y


PARTS = (*blobs(60, 1), *blobs(30, 2))
TEST, TRUTH = blobs(90, 3)


def by_hand(x: np.ndarray, y: np.ndarray, test: np.ndarray, lr: float, decay: float, epochs: int):
    """Whole batches, gradients of softmax regression on normalised features in float64."""
    import torch

    generator = torch.Generator().manual_seed(0)
    w = torch.empty(3, 5).normal_(0, 0.01, generator=generator).numpy().astype(np.float64)
    b, scale, shift = np.zeros(3), np.ones(5), np.zeros(5)
    speed = [np.zeros_like(p) for p in (scale, shift, w, b)]
    mean, var = np.zeros(5), np.ones(5)
    for epoch in range(epochs):
        mu, s2 = x.mean(0), x.var(0)
        mean, var = 0.9 * mean + 0.1 * mu, 0.9 * var + 0.1 * s2 * len(x) / (len(x) - 1)
        unit = (x - mu) / np.sqrt(s2 + 1e-5)
        z = unit * scale + shift
        logits = z @ w.T + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        g = (p - np.eye(3)[y]) / len(x)
        gradients = [((g @ w) * unit).sum(0), (g @ w).sum(0), g.T @ z, g.sum(0)]
        rate = lr * 0.1 ** (epoch >= 6)
        new = []
        for k, (value, slope) in enumerate(zip((scale, shift, w, b), gradients, strict=True)):
            slope = slope + decay * value
            speed[k] = slope if epoch == 0 else 0.9 * speed[k] + slope
            new.append(value - rate * speed[k])
        scale, shift, w, b = new
    return (((test - mean) / np.sqrt(var + 1e-5) * scale + shift) @ w.T + b).argmax(1)


def test_against_plain_arithmetic() -> None:
    x, y, *_ = PARTS
    options = {"lr": (0.5,), "weight_decay": (1e-2,), "epochs": 9, "milestones": (6,)}
    found = norm_probe(*PARTS, TEST, classes=3, **options)
    expected = by_hand(x.astype(np.float64), y, TEST.astype(np.float64), 0.5, 1e-2, 9)
    assert (found.predictions == expected).mean() >= 0.98
    assert found.validation == {}


def test_a_choice_never_sees_the_test_rows() -> None:
    grid = {"lr": (1e-9, 1.0), "weight_decay": (1e-3,), "epochs": 20, "milestones": (10,)}
    found = norm_probe(*PARTS, TEST, classes=3, batch_size=16, **grid)
    assert found.lr == 1.0
    assert found.validation[(1.0, 1e-3)] == max(found.validation.values())
    assert (found.predictions == TRUTH).mean() > 0.6
    other = norm_probe(*PARTS, TEST[::-1] * 3, classes=3, batch_size=16, **grid)
    assert other.validation == found.validation
    again = norm_probe(*PARTS, TEST, classes=3, batch_size=16, **grid)
    assert (again.predictions == found.predictions).all()


def test_a_rate_that_diverges_is_not_chosen() -> None:
    mad = 1e38
    found = norm_probe(*PARTS, TEST, classes=3, lr=(mad, 1e-9), epochs=20)
    assert found.lr == 1e-9
    assert set(found.validation) == {(1e-9, 1e-3)}
    assert found.diverged == ((mad, 1e-3),)
    with pytest.raises(Diverged):
        norm_probe(*PARTS, TEST, classes=3, lr=(mad,), epochs=20)


def test_refusals() -> None:
    x, y, *_ = PARTS
    with pytest.raises(DataError, match="validation"):
        norm_probe(x, y, x[:0], y[:0], TEST, classes=3, lr=(0.1, 1.0))
    for wrong in ({"lr": ()}, {"lr": (0.0,)}, {"epochs": 0}, {"batch_size": 1}):
        with pytest.raises(ConfigError):
            norm_probe(*PARTS, TEST, classes=3, **wrong)
    with pytest.raises(DataError, match="two classes"):
        norm_probe(x, y * 0, x, y, TEST, classes=3)
