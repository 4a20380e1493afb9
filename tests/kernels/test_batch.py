"""Softmax within a batch against the plain matrix in float64: values, gradients, edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rhyme.kernels import (
    QueueSummary,
    in_batch_log_sum_exp,
    self_log_sum_exp,
    symmetric_log_sum_exp,
    tiles,
)

F64 = torch.float64
FORMS = ("rows", "both", "self")


def draw(n: int, d: int, seed: int, dtype: torch.dtype = F64, unit: bool = True) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return (nn.functional.normalize(rows, dim=1) if unit else rows).to(dtype)


def integers(low: int, high: int, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def call(form: str, first: Tensor, second: Tensor, **options: Any) -> list[QueueSummary]:
    """One of the three public functions, with groups and indices under common names."""
    groups = options.pop("groups", (None, None))
    if form == "self":
        options.pop("mask", None)
        return [self_log_sum_exp(first, groups=groups[0], **options)]
    if form == "rows":
        names = {"anchor_groups": groups[0], "key_groups": groups[1]}
        return [in_batch_log_sum_exp(first, second, **names, **options)]
    names = {"first_groups": groups[0], "second_groups": groups[1]}
    return list(symmetric_log_sum_exp(first, second, **names, **options))


def excluded_pairs(
    b: int,
    n: int,
    groups: tuple[Tensor | None, Tensor | None] = (None, None),
    mask: Tensor | None = None,
    skip: Tensor | None = None,
) -> Tensor:
    """What must not meet, pair by pair."""
    out = torch.zeros(b, n, dtype=torch.bool) if mask is None else mask.clone()
    if groups[0] is not None and groups[1] is not None:
        out |= (groups[0][:, None] == groups[1][None]) & (groups[0][:, None] >= 0)
    if skip is not None:
        for i, row in enumerate(skip.tolist()):
            for j in row:
                if j >= 0:
                    out[i, j] = True
    return out


def oracle(
    first: Tensor, second: Tensor, temperature: float, excluded: Tensor, upstream: list[Tensor]
) -> dict[str, Tensor]:
    """Whole matrix, float64, gradients by hand; columns too if they have an upstream gradient."""
    a, k = first.double(), second.double()
    cosine = (a @ k.T).masked_fill(excluded, -math.inf)
    logits = cosine / temperature
    found: dict[str, Tensor] = {}
    weights = torch.zeros_like(logits)
    for side, up in enumerate(upstream):
        x = logits if side == 0 else logits.T
        lse = torch.logsumexp(x, 1)
        share = torch.exp(x - lse[:, None]).nan_to_num(0.0) * up.double()[:, None]
        weights += share if side == 0 else share.T
        found[f"lse{side}"] = lse
        c = cosine if side == 0 else cosine.T
        found[f"hardest{side}"] = c.amax(1)
        found[f"allowed{side}"] = (~(excluded if side == 0 else excluded.T)).sum(1)
    found["first"] = weights @ k / temperature
    found["second"] = weights.T @ a / temperature
    scale = torch.where(excluded, 0.0, weights * (a @ k.T))
    found["temperature"] = -scale.sum() / temperature**2
    found["of temperature"] = scale.abs().sum() / temperature**2  # what was summed up
    return found


def measure(
    form: str, first: Tensor, second: Tensor, temperature: float, upstream: list[Tensor], **kw: Any
) -> dict[str, Tensor]:
    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    t = torch.tensor(temperature, dtype=F64 if first.dtype is F64 else torch.float32)
    t.requires_grad_()
    sides = call(form, *leaves, temperature=t, **kw)
    found: dict[str, Tensor] = {}
    total = torch.zeros((), dtype=t.dtype)
    for i, (side, up) in enumerate(zip(sides, upstream, strict=True)):
        found[f"lse{i}"] = side.log_sum_exp.detach()
        found[f"hardest{i}"] = side.hardest
        found[f"allowed{i}"] = side.allowed
        # −inf times a zero gradient would be NaN; rows without a pair are the caller's to leave out
        some = side.allowed > 0
        total = total + (torch.where(some, side.log_sum_exp, 0) * up).sum()
    total.backward()
    for name, leaf in (("first", leaves[0]), ("second", leaves[1]), ("temperature", t)):
        found[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return found


def agree(found: dict[str, Tensor], want: dict[str, Tensor], limit: float, where: str) -> None:
    """Equal within ``limit`` of the size of each quantity; infinities and counts exactly."""
    for name, value in want.items():
        if name == "of temperature":
            continue
        got, value = found[name].double(), value.double()
        endless = value.isinf()
        assert torch.equal(got[endless], value[endless]), f"{name} {where}"
        if name.startswith("allowed"):
            assert torch.equal(got, value), f"{name} {where}"
            continue
        size = want.get(f"of {name}", value)
        scale = max(float(size.nan_to_num(0, 0, 0).abs().max()), 1e-6)
        gap = (got - value)[~endless].abs()
        worst = float(gap.max()) / scale if len(gap) else 0.0
        assert worst <= limit, f"{name} {where}: {worst:.1e}"


LIMITS = {F64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 8 x 8, so that small inputs have many, with ragged ends."""
    monkeypatch.setattr(tiles, "SIDE", 8)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("part", range(4))
def test_two_hundred_random_cases_against_the_oracle(part: int) -> None:
    for case in range(part, 200, 4):
        b, n, d = (int(x) for x in integers(1, 29, (3,), case))
        dtype = list(LIMITS)[case % 4]
        form = FORMS[int(integers(0, 3, (1,), case + 1))]
        unit = case % 5 != 0
        temperature = [0.05, 0.2, 1.0, 30.0][int(integers(0, 4, (1,), case + 2))]
        temperature *= 1 if unit else 5
        first = draw(b, d, case, dtype, unit)
        second = first if form == "self" else draw(n, d, case + 1000, dtype, unit)
        n = len(second)
        options: dict[str, Any] = {}
        if case % 2:
            owners = integers(-1, [2, 6, 40][case % 3], (b,), case + 3)
            others = owners if form == "self" else integers(-1, 6, (n,), case + 4)
            options["groups"] = (owners, others)
        if case % 3 and form == "self":
            own = torch.arange(b)
            options["skip"] = torch.stack([own, own.flip(0)], 1)  # both ways round
        elif case % 3:
            options["skip"] = integers(-1, n, (b, 2), case + 5)
        if case % 7 == 0 and form != "self":
            options["mask"] = integers(0, 3, (b, n), case + 6) == 0
        upstream = [draw(b, 1, case + 7, F64, False)[:, 0]]
        if form == "both":
            upstream.append(draw(n, 1, case + 8, F64, False)[:, 0])
        if dtype is not F64:
            upstream = [u.float() for u in upstream]
        excluded = excluded_pairs(b, n, **options)
        want = oracle(first, second, temperature, excluded, upstream)
        if form == "self":
            want["first"] += want.pop("second")
        found = measure(form, first, second, temperature, upstream, **options)
        agree(found, want, LIMITS[dtype], f"case {case}: {form} {b}x{n}x{d} {dtype}")
