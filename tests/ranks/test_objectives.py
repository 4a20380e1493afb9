"""Every public objective has one value and one gradient on 1, 2 and 4 ranks.

Each entry of :data:`OBJECTIVES` calls an objective as a system does: on local anchors, with keys
gathered from all ranks. A public function of ``rhyme.objectives`` without an entry fails.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rhyme.objectives
from ranks.pool import run_on_ranks
from rhyme import distributed
from rhyme.objectives import (
    cycle,
    dense_info_nce,
    info_nce,
    info_nce_in_batch,
    info_nce_symmetric,
    label_cross_entropy,
    multi_positive_info_nce,
    neighbour_weights,
    nt_xent,
    pair_distance,
    segment_ranking,
    soft_nearest_neighbour,
    with_own_negative,
)
from rhyme.training.metrics import Window

ITEMS, DIM = 8, 6


class Inputs:
    """Unit rows of the global batch, of which this rank holds its part; some of them parameters."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def rows(n: int) -> Tensor:
            drawn = torch.randn(n, DIM, generator=generator, dtype=torch.float64)
            return nn.functional.normalize(drawn, dim=1).to(dtype)

        mine = distributed.rank_slice(ITEMS)
        self.number = torch.arange(ITEMS)[mine]
        self.groups = self.number // 3
        # Learned, as far as the objective knows: the gradient of each local row is compared.
        self.anchors = rows(ITEMS)[mine].clone().requires_grad_()
        self.keys = rows(ITEMS)[mine].clone().requires_grad_()
        self.temperature = torch.tensor(0.3, dtype=dtype, requires_grad=True)
        self.support, self.negatives = rows(10), rows(12)
        self.support_groups, self.negative_groups = torch.arange(10) % 4, torch.arange(12) % 5


def _mean(out: object) -> Tensor:
    return distributed.mean(out.values, out.valid)  # type: ignore[attr-defined]


def _info_nce(x: Inputs) -> Tensor:
    keys = distributed.gather(x.keys, grad=True)
    options = {"temperature": x.temperature, "anchor_groups": x.groups}
    groups = distributed.gather(x.groups)
    everyone = info_nce(x.anchors, x.keys, keys, negative_groups=groups, **options)
    queue = info_nce(x.anchors, x.keys, x.negatives, negative_groups=x.negative_groups, **options)
    return _mean(everyone) + _mean(queue)


def _in_batch(x: Inputs) -> Tensor:
    keys, groups = distributed.gather(x.keys, grad=True), distributed.gather(x.groups)
    plain = info_nce_in_batch(x.anchors, keys, x.number, temperature=x.temperature)
    masked = info_nce_in_batch(
        x.anchors,
        keys,
        (x.number + 1) % ITEMS,
        temperature=x.temperature,
        self_index=x.number,
        anchor_groups=x.groups,
        key_groups=groups,
    )
    return _mean(plain) + _mean(masked)


def _dense(x: Inputs) -> Tensor:
    queries, keys = (rows.unflatten(0, (-1, 2)) for rows in (x.anchors, x.keys))
    items = x.number[::2] // 2
    out = dense_info_nce(
        queries,
        keys,
        torch.stack([items % 2, 1 - items % 2], dim=1),
        x.negatives,
        temperature=x.temperature,
        valid=torch.stack([items >= 0, items != 2], dim=1),
        anchor_groups=items,
        negative_groups=x.negative_groups,
    )
    return _mean(out)


def _symmetric(x: Inputs) -> Tensor:
    plain = info_nce_symmetric(x.anchors, x.keys, temperature=x.temperature)
    masked = info_nce_symmetric(
        x.anchors,
        x.keys,
        temperature=x.temperature,
        groups=x.groups,
        extra_negatives=x.negatives,
        extra_groups=x.negative_groups,
    )
    return _mean(plain) + _mean(masked)


def _pairs(x: Inputs) -> tuple[Tensor, Tensor]:
    """Two frames of each item."""
    return x.anchors.unflatten(0, (-1, 2)), x.keys.unflatten(0, (-1, 2))


def _multi(x: Inputs) -> Tensor:
    anchors, positives = _pairs(x)
    items = x.number[::2] // 2
    everyone = torch.cat([distributed.gather(x.keys, grad=True), x.negatives])
    owners = torch.cat([distributed.gather(items).repeat_interleave(2), x.negative_groups])
    out = multi_positive_info_nce(
        anchors,
        positives,
        everyone,
        temperature=x.temperature,
        anchor_groups=items,
        negative_groups=owners,
    )
    return _mean(out)


def _distance(x: Inputs) -> Tensor:
    return _mean(pair_distance(*_pairs(x)))


def _nt_xent(x: Inputs) -> Tensor:
    plain = nt_xent(x.anchors, x.keys, temperature=x.temperature)
    return _mean(plain) + _mean(nt_xent(x.anchors, x.keys, temperature=0.2, groups=x.groups))


def _cycle(x: Inputs) -> Tensor:
    keys = distributed.gather(x.keys, grad=True)
    over_queue = cycle(
        x.anchors,
        x.keys,
        x.support,
        x.negatives,
        temperature=x.temperature,
        neighbour_temperature=0.5,
        anchor_groups=x.groups,
        support_groups=x.support_groups,
        negative_groups=x.negative_groups,
        include_self=x.keys,
    )
    over_batch = cycle(x.anchors, x.keys, keys, x.negatives, temperature=x.temperature)
    return _mean(over_queue) + _mean(over_batch)


def _neighbour(x: Inputs) -> Tensor:
    keys = distributed.gather(x.keys, grad=True)
    out = soft_nearest_neighbour(
        x.anchors,
        keys,
        temperature=x.temperature,
        anchor_groups=x.groups,
        support_groups=distributed.gather(x.groups),
    )
    return distributed.mean((out.neighbour * x.keys).sum(1) + out.log_sum_exp, out.valid)


def _weights(x: Inputs) -> Tensor:
    shares = neighbour_weights(x.anchors, distributed.gather(x.keys), temperature=0.2)
    return distributed.mean((shares.detach() @ distributed.gather(x.keys, grad=True)).square())


def _ranking(x: Inputs) -> Tensor:
    return _mean(segment_ranking(*_pairs(x), theta=0.5))


def _labels(x: Inputs) -> Tensor:
    told = label_cross_entropy(x.anchors / x.temperature, x.groups)
    return _mean(told) + _mean(label_cross_entropy(x.keys, x.number % DIM))


def _own_negative(x: Inputs) -> Tensor:
    keys = distributed.gather(x.keys, grad=True)
    plain = info_nce_in_batch(x.anchors, keys, x.number, temperature=x.temperature)
    wrong = x.keys.flip(1)
    return _mean(with_own_negative(plain, x.anchors, x.keys, wrong, temperature=x.temperature))


OBJECTIVES: dict[str, Callable[[Inputs], Tensor]] = {
    "info_nce": _info_nce,
    "info_nce_in_batch": _in_batch,
    "dense_info_nce": _dense,
    "info_nce_symmetric": _symmetric,
    "multi_positive_info_nce": _multi,
    "nt_xent": _nt_xent,
    "pair_distance": _distance,
    "cycle": _cycle,
    "soft_nearest_neighbour": _neighbour,
    "neighbour_weights": _weights,
    "segment_ranking": _ranking,
    "label_cross_entropy": _labels,
    "with_own_negative": _own_negative,
}
NO_OBJECTIVES = {
    "masked_mean": "a detached mean over the rows of one rank, for diagnostics",
    "nearest_cells": "matches within an item, without gradient",
    "balanced_accuracy": "counts of answers, without gradient",
    "segment_accuracy": "within an item, without gradient",
    "segment_mean": "within an item, no loss",
    "shuffle_segments": "an order within an item, no loss",
    "calibrate_segments": "an order within an item, no loss",
}


def measure(name: str, dtype: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, and the global batch's gradients of anchors, keys and temperature, on every rank."""
    x = Inputs(getattr(torch, dtype))
    loss = OBJECTIVES[name](x)
    loss.backward()

    def everyone(parameter: Tensor) -> Tensor:
        # A parameter's gradient is the mean over the ranks, so each row's counts 1/W.
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return distributed.gather(own) / distributed.world_size()

    heat = torch.zeros(()) if x.temperature.grad is None else x.temperature.grad
    heat = distributed.sum_all(heat) / distributed.world_size()
    return loss.detach(), everyone(x.anchors), everyone(x.keys), heat


@functools.cache
def alone(name: str, dtype: str) -> tuple[Tensor, ...]:
    return measure(name, dtype)


def test_every_public_objective_is_measured() -> None:
    public = {
        n for n in rhyme.objectives.__all__ if inspect.isroutine(getattr(rhyme.objectives, n))
    }
    assert public == OBJECTIVES.keys() | NO_OBJECTIVES.keys()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_ranks_agree(name: str, world: int, dtype: str) -> None:
    want = alone(name, dtype)
    assert any(bool(gradient.any()) for gradient in want[1:])
    for found in run_on_ranks(measure, world, name, dtype):
        for a, b in zip(found, want, strict=True):
            scale = 1.0 if dtype == "float64" else max(float(b.abs().max()), 1e-12)
            limit = (1e-9 if dtype == "float64" else 1e-5) * scale
            assert float((a - b).abs().max()) <= limit


def told_of_masked_rows() -> dict[str, float]:
    """What the log says where the first three of eight rows have nothing to compare with."""
    x = Inputs(torch.float64)
    groups = (x.number >= 3).long() * (x.number + 1)
    options = {"temperature": 0.3, "anchor_groups": groups}
    same = torch.zeros(12, dtype=torch.int64)
    pairs = x.anchors[:, None], x.keys[:, None], x.negatives
    support = {"support_groups": same[:10], "negative_groups": same}
    outs = {
        "queue": info_nce(x.anchors, x.keys, x.negatives, negative_groups=same, **options),
        "valid": info_nce(x.anchors, x.keys, x.negatives, temperature=0.3, valid=x.number >= 3),
        "pairs": multi_positive_info_nce(*pairs, negative_groups=same, **options),
        "cycle": cycle(x.anchors, x.keys, x.support, x.negatives, **support, **options),
        "batch": info_nce_in_batch(
            x.anchors,
            distributed.gather(x.keys),
            x.number,
            key_groups=torch.zeros(ITEMS, dtype=torch.int64),
            **options,
        ),
        "symmetric": info_nce_symmetric(x.anchors, x.keys, temperature=0.3, groups=0 * x.number),
        "views": nt_xent(x.anchors, x.keys, temperature=0.3, groups=0 * x.number),
        "one": segment_ranking(x.anchors[:, None], x.keys[:, None]),
        "empty": info_nce(x.anchors, x.keys, x.negatives[:0], temperature=0.3),
    }
    window = Window()
    for name, out in outs.items():
        for key, value in out.diagnostics.items():
            window.add(f"{name}/{key}", value)
    return window.means()


@pytest.mark.parametrize("world", [2, 4])
def test_the_log_says_the_same_of_masked_rows_on_any_number_of_ranks(world: int) -> None:
    want = told_of_masked_rows()
    masked = {name: want[f"{name}/masked_rows"] for name in ("queue", "cycle", "symmetric", "one")}
    assert masked == {"queue": 3, "cycle": 3, "symmetric": 16, "one": 8}
    for found in run_on_ranks(told_of_masked_rows, world):
        assert found == pytest.approx(want, abs=1e-12)


def test_a_gather_without_gradient_is_found_out() -> None:
    """The comparison itself: keys that lose their gradient give another one."""
    whole = alone("info_nce_in_batch", "float64")[2]
    found = run_on_ranks(without_gradient, 2)[0]
    assert not torch.allclose(found, whole, rtol=1e-3)


def without_gradient() -> Tensor:
    kept = distributed.gather
    distributed.gather = lambda x, *, grad=False: kept(x)  # type: ignore[assignment]
    try:
        return measure("info_nce_in_batch", "float64")[2]
    finally:
        distributed.gather = kept
