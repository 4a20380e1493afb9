"""Slow and obvious: objectives as loops over NumPy float64 rows, values and gradients by hand."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Softmax(NamedTuple):
    weights: list[float]
    log_sum_exp: float
    entropy: float


def softmax(logits: list[float]) -> Softmax:
    """Weights, log-sum-exp and entropy of a list of logits; −inf and zeros of an empty one."""
    if not logits:
        return Softmax([], -math.inf, 0.0)
    top = max(logits)
    total = math.fsum(math.exp(x - top) for x in logits)
    weights = [math.exp(x - top) / total for x in logits]
    entropy = -math.fsum(w * math.log(w) for w in weights if w > 0)
    return Softmax(weights, top + math.log(total), entropy)


def allowed(excluded: NDArray[np.bool_], i: int) -> list[int]:
    return [j for j in range(excluded.shape[1]) if not excluded[i, j]]


def same_group(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    out = np.zeros((len(a), len(b)), dtype=bool)
    for i in range(len(a)):
        for j in range(len(b)):
            out[i, j] = a[i] >= 0 and a[i] == b[j]
    return out


class Contrast(NamedTuple):
    values: Array
    valid: NDArray[np.bool_]
    grad_anchors: Array
    grad_positives: Array
    grad_negatives: Array


def info_nce(
    anchors: Array,
    positives: Array,
    negatives: Array,
    temperature: float,
    excluded: NDArray[np.bool_],
    upstream: Array,
) -> Contrast:
    """InfoNCE row by row, and the gradient of ``Σ_i upstream_i · L_i``."""
    b = len(anchors)
    values, valid = np.zeros(b), np.zeros(b, dtype=bool)
    ga, gp, gn = np.zeros_like(anchors), np.zeros_like(positives), np.zeros_like(negatives)
    for i in range(b):
        keep = allowed(excluded, i)
        if not keep:
            continue
        valid[i] = True
        logits = [float(anchors[i] @ positives[i]) / temperature]
        logits += [float(anchors[i] @ negatives[j]) / temperature for j in keep]
        soft = softmax(logits)
        values[i] = soft.log_sum_exp - logits[0]
        if values[i] < 1e-6:  # the difference lost its digits: −log p = log(1 + others)
            values[i] = math.log1p(math.fsum(math.exp(x - logits[0]) for x in logits[1:]))
        others = math.fsum(soft.weights[1:])
        scale = upstream[i] / temperature
        ga[i] += scale * -others * positives[i]
        gp[i] += scale * -others * anchors[i]
        for weight, j in zip(soft.weights[1:], keep, strict=True):
            ga[i] += scale * weight * negatives[j]
            gn[j] += scale * weight * anchors[i]
    return Contrast(values, valid, ga, gp, gn)


def means(
    anchors: Array,
    positives: Array,
    negatives: Array,
    excluded: NDArray[np.bool_],
    rows: list[int],
) -> dict[str, float]:
    """What InfoNCE tells of these rows and no others."""
    cosines = [float(anchors[i] @ positives[i]) for i in rows]
    hardest = [max(float(anchors[i] @ negatives[j]) for j in allowed(excluded, i)) for i in rows]
    hits = [c - h > 1e-12 for c, h in zip(cosines, hardest, strict=True)]
    return {
        "positive_cosine": math.fsum(cosines) / len(rows),
        "hardest_negative_cosine": math.fsum(hardest) / len(rows),
        "accuracy": sum(hits) / len(rows),
    }


class Neighbour(NamedTuple):
    mean: Array
    neighbour: Array
    entropy: Array
    log_sum_exp: Array
    weights: Array
    grad_anchors: Array


def soft_neighbour(
    anchors: Array,
    support: Array,
    temperature: float,
    excluded: NDArray[np.bool_],
    upstream: Array,
    *,
    self_keys: Array | None = None,
    values: Array | None = None,
) -> Neighbour:
    """The soft neighbour row by row, and the gradient of ``Σ upstream · q̂`` for the anchors."""
    payload = support if values is None else values
    b, s = excluded.shape
    mean, unit = np.zeros_like(anchors), np.zeros_like(anchors)
    entropy, lse, weights = np.zeros(b), np.full(b, -np.inf), np.zeros((b, s))
    grad = np.zeros_like(anchors)
    for i in range(b):
        q = anchors[i]
        keep = allowed(excluded, i)
        keys = [support[j] for j in keep]
        rows = [payload[j] for j in keep]
        if self_keys is not None:
            keys.append(self_keys[i])
            rows.append(q)
        soft = softmax([float(q @ k) / temperature for k in keys])
        entropy[i], lse[i] = soft.entropy, soft.log_sum_exp
        for weight, j in zip(soft.weights, keep, strict=False):
            weights[i, j] = weight
        for weight, row in zip(soft.weights, rows, strict=True):
            mean[i] += weight * row
        norm = math.sqrt(float(mean[i] @ mean[i]))
        if not keys or norm < 1e-6:
            continue
        unit[i] = mean[i] / norm
        g = (upstream[i] - (upstream[i] @ unit[i]) * unit[i]) / norm  # through the normalisation
        for weight, key, row in zip(soft.weights, keys, rows, strict=True):
            grad[i] += weight / temperature * float(g @ row - g @ mean[i]) * key
        if self_keys is not None:
            grad[i] += soft.weights[-1] * g  # the query is also a value
    return Neighbour(mean, unit, entropy, lse, weights, grad)


def cycle(
    anchors: Array,
    positives: Array,
    support: Array,
    negatives: Array,
    temperature: float,
    neighbour_temperature: float,
    support_excluded: NDArray[np.bool_],
    negative_excluded: NDArray[np.bool_],
    upstream: Array,
    *,
    self_keys: Array | None = None,
    values: Array | None = None,
) -> tuple[Array, NDArray[np.bool_], Array]:
    """Values, valid rows and the anchors' gradient of ``Σ upstream · L``."""
    zero = np.zeros_like(anchors)
    options = {"self_keys": self_keys, "values": values}
    out = soft_neighbour(anchors, support, neighbour_temperature, support_excluded, zero, **options)
    back = info_nce(out.neighbour, positives, negatives, temperature, negative_excluded, upstream)
    valid = back.valid & (np.linalg.norm(out.neighbour, axis=1) > 0.5)
    through = back.grad_anchors * valid[:, None]
    grad = soft_neighbour(
        anchors, support, neighbour_temperature, support_excluded, through, **options
    ).grad_anchors
    return back.values * valid, valid, grad
