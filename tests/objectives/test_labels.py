"""Labels against loops: values, gradients, balanced accuracy."""

import math

import numpy as np
import pytest
import torch

from objectives.oracle import softmax
from rhyme.errors import DataError
from rhyme.objectives import balanced_accuracy, label_cross_entropy

F64 = torch.float64


def test_cross_entropy_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(4, 2, 5, generator=generator, dtype=F64)).requires_grad_()
    labels = torch.randint(0, 5, (4, 2), generator=generator)
    upstream = torch.randn(4, 2, generator=generator, dtype=F64)
    out = label_cross_entropy(logits, labels)
    (out.values * upstream).sum().backward()
    rows, right = logits.detach().numpy(), 0
    gradient = np.zeros_like(rows)
    for i in range(4):
        for k in range(2):
            found, label = softmax(rows[i, k].tolist()), int(labels[i, k])
            value = found.log_sum_exp - rows[i, k, label]
            assert math.isclose(float(out.values[i, k].detach()), value, rel_tol=1e-12)
            for c in range(5):
                gradient[i, k, c] = float(upstream[i, k]) * (found.weights[c] - (c == label))
            right += int(np.argmax(rows[i, k])) == label
    np.testing.assert_allclose(logits.grad, gradient, atol=1e-14)
    assert math.isclose(float(out.diagnostics["accuracy"]), right / 8)
    assert bool(out.valid.all())


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    for classes in (4, 5):
        out = label_cross_entropy(torch.zeros(3, classes), torch.zeros(3, dtype=torch.int64))
        assert torch.allclose(out.values, torch.full((3,), math.log(classes)))


def test_half_precision_is_computed_in_full() -> None:
    logits = torch.randn(6, 5).bfloat16()
    out = label_cross_entropy(logits, torch.arange(6) % 5)
    assert out.values.dtype is torch.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError):
        label_cross_entropy(torch.zeros(3, 2, 5), torch.zeros(3, dtype=torch.int64))


def test_balanced_accuracy_by_hand() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    always = torch.zeros(100, dtype=torch.int64)
    assert float(balanced_accuracy(always, labels, 2)) == 0.5, "plain accuracy would say .9"
    assert float(balanced_accuracy(always, labels, 5)) == 0.5, "classes without a row do not count"
    some = labels.clone()
    some[:45], some[90:92] = 1, 0
    assert math.isclose(float(balanced_accuracy(some, labels, 2)), (0.5 + 0.8) / 2, rel_tol=1e-6)
    assert float(balanced_accuracy(labels, labels, 2)) == 1.0
    assert math.isnan(float(balanced_accuracy(labels[:0], labels[:0], 2)))
