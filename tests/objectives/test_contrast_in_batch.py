"""Both directions at once, extra negatives, and that no matrix of pairs is ever held."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from objectives import oracle
from rhyme.errors import DataError
from rhyme.objectives import ObjectiveOutput, info_nce_in_batch, info_nce_symmetric, nt_xent

F64 = torch.float64


def unit(n: int, d: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return nn.functional.normalize(rows, dim=1).to(dtype)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1e4])
def test_both_directions_against_the_oracle(grouped: bool, extra: bool, temperature: float) -> None:
    b, m = 7, 5
    first, second = unit(b, 6).requires_grad_(), unit(b, 6, 1).requires_grad_()
    queue, up = unit(m, 6, 2), unit(1, 2 * b, 3)[0]
    groups, owners = torch.tensor([0, 0, 1, 2, -1, 3, -1]), torch.tensor([0, 1, -1, 3, 3])
    out = info_nce_symmetric(
        first,
        second,
        temperature=temperature,
        groups=groups if grouped else None,
        extra_negatives=queue if extra else None,
        extra_groups=owners if grouped and extra else None,
    )
    (out.values * up).sum().backward()
    excluded = np.eye(b, dtype=bool)
    beside = np.zeros((b, m), dtype=bool)
    if grouped:
        excluded |= oracle.same_group(groups.numpy(), groups.numpy())
        beside |= oracle.same_group(groups.numpy(), owners.numpy())
    x, y = first.detach().numpy(), second.detach().numpy()
    grads = {"x": np.zeros_like(x), "y": np.zeros_like(y)}
    for at, (anchors, keys, a, k) in enumerate(((x, y, "x", "y"), (y, x, "y", "x"))):
        want = oracle.info_nce(
            anchors,
            keys,
            np.concatenate([keys, queue.numpy()]) if extra else keys,
            temperature,
            np.concatenate([excluded, beside], 1) if extra else excluded,
            up[at * b : (at + 1) * b].numpy(),
        )
        rows = slice(at * b, (at + 1) * b)
        scale = max(1.0, 1 / temperature)
        np.testing.assert_allclose(
            out.values[rows].detach().numpy(), want.values, rtol=1e-9, atol=1e-9 * scale
        )
        assert out.valid[rows].tolist() == want.valid.tolist()
        grads[a] += want.grad_anchors
        grads[k] += want.grad_positives + want.grad_negatives[:b]
    assert first.grad is not None
    assert second.grad is not None
    np.testing.assert_allclose(first.grad.numpy(), grads["x"], rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(second.grad.numpy(), grads["y"], rtol=1e-9, atol=1e-9 * scale)


def test_the_mean_is_that_of_two_cross_entropies() -> None:
    first, second, t = unit(9, 5), unit(9, 5, 1), 0.1
    logits, own = first @ second.T / t, torch.arange(9)
    cross = nn.functional.cross_entropy
    want = (cross(logits, own) + cross(logits.T, own)) / 2
    out = info_nce_symmetric(first, second, temperature=t)
    assert torch.allclose(out.values.mean(), want, rtol=1e-12)
    assert torch.allclose(
        info_nce_symmetric(second, first, temperature=t).values, out.values.roll(9), rtol=1e-12
    )


def test_diagnostics_speak_of_both_directions() -> None:
    first, second = unit(6, 4), unit(6, 4, 1)
    out = info_nce_symmetric(first, second, temperature=0.1, extra_negatives=unit(3, 4, 2))
    cosine = first @ second.T
    beside = torch.cat([first, second]) @ unit(3, 4, 2).T
    others = cosine - 9 * torch.eye(6, dtype=F64)
    hardest = torch.maximum(torch.cat([others.amax(1), others.amax(0)]), beside.amax(1))
    positive = cosine.diagonal().repeat(2)
    d = {name: float(value) for name, value in out.diagnostics.items()}
    assert math.isclose(d["positive_cosine"], float(positive.mean()), rel_tol=1e-9)
    assert math.isclose(d["hardest_negative_cosine"], float(hardest.mean()), rel_tol=1e-9)
    assert math.isclose(d["accuracy"], float((positive > hardest).to(F64).mean()), rel_tol=1e-6)
    assert math.isclose(d["masked_fraction"], 1 / 9, rel_tol=1e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_extra_negatives_are_as_if_they_stood_among_the_keys(grouped: bool) -> None:
    q, keys, queue = unit(4, 6), unit(7, 6, 1), unit(5, 6, 2)
    positive = torch.tensor([3, 0, 6, 2])
    groups, owners = torch.tensor([0, 1, 2, -1]), torch.tensor([0, 0, 1, -1, 2, 2, 2])
    beside = torch.tensor([1, 1, 2, -1, 9])

    def joined(a: Tensor, k: Tensor) -> ObjectiveOutput:
        options = {}
        if grouped:
            options = {"anchor_groups": groups, "key_groups": torch.cat([owners, beside])}
        return info_nce_in_batch(a, torch.cat([k, queue]), positive, temperature=0.2, **options)

    def apart(a: Tensor, k: Tensor) -> ObjectiveOutput:
        options = {}
        if grouped:
            options = {"anchor_groups": groups, "key_groups": owners, "extra_groups": beside}
        return info_nce_in_batch(a, k, positive, temperature=0.2, extra_negatives=queue, **options)

    found = []
    for form in (joined, apart):
        a, k = q.clone().requires_grad_(), keys.clone().requires_grad_()
        out = form(a, k)
        (out.values * unit(1, 4, 5)[0]).sum().backward()
        assert a.grad is not None
        assert k.grad is not None
        found.append([out.values.detach(), a.grad, k.grad, *out.diagnostics.values()])
    for x, y in zip(*found, strict=True):
        assert torch.allclose(x, y, rtol=1e-6 if x.ndim == 0 else 1e-12, atol=1e-14)


def test_a_batch_of_one_has_its_extra_negatives_only() -> None:
    q, p, queue = unit(1, 4).requires_grad_(), unit(1, 4, 1), unit(3, 4, 2)
    alone = info_nce_symmetric(q, p, temperature=0.1)
    assert not alone.valid.any()
    out = info_nce_symmetric(q, p, temperature=0.1, extra_negatives=queue)
    assert out.valid.all()
    (alone.values.sum() + out.values.sum()).backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
    own = info_nce_symmetric(
        q, p, temperature=0.1, groups=torch.tensor([3]),
        extra_negatives=queue, extra_groups=torch.tensor([3, 3, 3]),
    )  # fmt: skip
    q.grad = None
    own.values.sum().backward()
    assert not own.valid.any()
    assert not q.grad.any()


def test_what_does_not_fit_is_refused() -> None:
    q = unit(3, 4)
    with pytest.raises(DataError, match="both sides"):
        info_nce_symmetric(q, q[:2], temperature=1.0)
    with pytest.raises(DataError, match="extra_groups"):
        info_nce_symmetric(q, q, temperature=1.0, extra_groups=torch.zeros(3))
    with pytest.raises(DataError, match="both sides"):  # groups of the queue, none of the anchors
        info_nce_symmetric(
            q, q, temperature=1.0, extra_negatives=q, extra_groups=torch.zeros(3).long()
        )


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], ObjectiveOutput]] = {
    "nt_xent": lambda a, b, g: nt_xent(a, b, temperature=0.1, groups=g),
    "symmetric": lambda a, b, g: info_nce_symmetric(a, b, temperature=0.1, groups=g),
    "in_batch": lambda a, b, g: info_nce_in_batch(
        a, b, torch.arange(len(a)), temperature=0.1, anchor_groups=g, key_groups=g
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_no_tensor_grows_with_the_number_of_pairs(name: str) -> None:
    """Twice the items take twice the memory, not four times: forward, backward, groups and all."""

    def most(n: int) -> int:
        a, b = unit(n, 4, 0, torch.float32), unit(n, 4, 1, torch.float32)
        a.requires_grad_()
        b.requires_grad_()
        groups = torch.arange(n) // 2
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            FORMS[name](a, b, groups).values.mean().backward()
        held = highest = 0
        events = profile.profiler.kineto_results.events()
        for event in sorted(
            (e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()
        ):
            held += event.nbytes()
            highest = max(highest, held)
        return highest

    few, many = most(1024), most(2048)
    assert many < 2.2 * few
    assert many < 2048 * 2048  # a quarter of the bytes of one matrix of logits


@pytest.mark.parametrize("name", ["nt_xent", "symmetric"])
def test_two_hundred_steps_go_the_same_way(name: str) -> None:
    """Learned rows and a learned temperature: the kernels' losses stay together."""
    objective = {"nt_xent": nt_xent, "symmetric": info_nce_symmetric}[name]

    def losses(kernel: Literal["auto", "eager"]) -> list[float]:
        rows = [unit(24, 8, seed, torch.float32).requires_grad_() for seed in (0, 1)]
        log_heat = torch.tensor(-1.0, requires_grad=True)
        optimiser = torch.optim.SGD([*rows, log_heat], lr=0.5)
        found = []
        for _ in range(200):
            first, second = (nn.functional.normalize(x, dim=1) for x in rows)
            loss = objective(first, second, temperature=log_heat.exp(), kernel=kernel).values.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(float(loss.detach()))
        return found

    ours, plain = losses("auto"), losses("eager")
    assert plain[-1] < 0.8 * plain[0]
    np.testing.assert_allclose(ours, plain, rtol=1e-4)
