"""Softmax within a batch against the plain matrix in float64: values, gradients, edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rhyme.errors import ConfigError, DataError, UnknownName
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
        scale = max(float(size.nan_to_num(0, 0, 0).abs().max()), 1e-30)
        gap = (got - value)[~endless].abs()
        worst = float(gap.max()) / scale if len(gap) else 0.0
        assert worst <= limit, f"{name} {where}: {worst:.1e}"


MEANT = 5e-3  # a larger limit would let an error of a per cent pass
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


# ---- range


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("temperature", [1e-4, 1e-3, 0.01, 0.02, 0.07, 1.0, 1e4])
@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("exact", [True, False], ids=["few digits", "all digits"])
def test_any_temperature_and_length_stays_finite_and_right(
    form: str,
    dtype: torch.dtype,
    temperature: float,
    size: float,
    exact: bool,
    exact_temperature: Callable[..., float],
) -> None:
    """Logits up to 9e6. Of few digits they are not rounded, and everything is right to 1e-5.

    Else a logit is rounded by about √d · 2⁻²⁴ of |a||k|/τ, and a weight by as much. Beyond 1e4 that
    is no bound on gradients any more, which need only be finite; the values stay right to 1e-5.
    """
    first, second = draw(13, 8, 0, dtype) * size, draw(21, 8, 1, dtype) * size
    if exact:
        first, second = (x.mul(8).round() / 8 for x in (first, second))
        temperature = exact_temperature(temperature)
    second = first if form == "self" else second
    second[3] = second[5]  # duplicates
    first[2] = 0  # no direction
    upstream = [draw(len(x), 1, 2, dtype, False)[:, 0] for x in (first, second)]
    upstream = upstream[: 2 if form == "both" else 1]
    excluded = torch.zeros(len(first), len(second), dtype=torch.bool)
    want = oracle(first, second, temperature, excluded, upstream)
    if form == "self":
        want["first"] += want.pop("second")
    found = measure(form, first, second, temperature, upstream)
    for name in found:
        assert torch.isfinite(found[name]).all(), name
    rounded = 3 * torch.finfo(dtype).eps * size**2 / temperature
    limit = max(LIMITS[dtype], 0 if exact and dtype is torch.float32 else rounded)
    if limit > MEANT:
        assert not exact
        assert size**2 / temperature >= 1e4
        want = {name: x for name, x in want.items() if name not in ("first", "second")}
        want = {name: x for name, x in want.items() if "temperature" not in name}
        limit = LIMITS[dtype]
    agree(found, want, limit, f"{form} {temperature} {size}")


@pytest.mark.parametrize("form", FORMS)
def test_rows_far_below_the_bound_of_the_norms_keep_their_digits(form: str) -> None:
    """One long pair raises the bound so far that the others' exponentials would all be 0."""
    first, second = draw(9, 4, 0, torch.float32), draw(11, 4, 1, torch.float32)
    first[0] *= 40
    second = first if form == "self" else second
    second[1] *= 40
    upstream = [torch.ones(len(x)) for x in (first, second)][: 2 if form == "both" else 1]
    skip = torch.full((len(first), 1), -1)
    skip[0] = skip[1] = 0 if form != "self" else -1
    want = oracle(first, second, 1.0, excluded_pairs(9, len(second), skip=skip), upstream)
    if form == "self":
        want["first"] += want.pop("second")
    found = measure(form, first, second, 1.0, upstream, skip=skip)
    agree(found, want, 3e-4, form)


def test_the_constant_and_the_running_maximum_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = draw(40, 8, 0), draw(30, 8, 1)
    options = {"skip": integers(-1, 30, (40, 2), 2)}
    upstream = [draw(n, 1, 3, F64, False)[:, 0] for n in (40, 30)]
    constant = measure("both", first, second, 0.05, upstream, **options)
    monkeypatch.setattr(tiles, "_shift", lambda *_: None)
    agree(measure("both", first, second, 0.05, upstream, **options), constant, 1e-12, "running")


# ---- edges


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kernel", ["auto", "eager"])
@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1e4])
@pytest.mark.parametrize("form", FORMS)
def test_rows_without_a_pair_are_minus_infinity_with_a_zero_gradient(
    form: str, temperature: float, kernel: str
) -> None:
    first = draw(11, 4, 0, torch.float32).requires_grad_()
    second = first if form == "self" else draw(11, 4, 1, torch.float32).requires_grad_()
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3])
    t = torch.tensor(temperature, requires_grad=True)
    alone = {0, 1, 2}  # of group 0, which the mask parts from everybody else
    skip = torch.full((11, 11), -1)
    skip[:3] = torch.arange(11)
    skip[3:, :3] = torch.arange(3)
    sides = call(
        form, first, second, temperature=t, groups=(groups, groups), skip=skip, kernel=kernel
    )
    total = torch.zeros(())
    for side in sides:
        assert {i for i, n in enumerate(side.allowed.tolist()) if not n} == alone
        assert torch.isneginf(side.log_sum_exp[:3]).all()
        assert torch.isneginf(side.hardest[:3]).all()
        assert torch.isfinite(side.log_sum_exp[3:]).all()
        total = total + torch.where(side.allowed > 0, side.log_sum_exp, 0).sum()
    total.backward()
    for leaf in (first, second):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert not leaf.grad[:3].any()
        assert leaf.grad[3:].any()
    assert t.grad is not None
    assert torch.isfinite(t.grad)


def test_a_row_without_a_pair_beside_rows_at_the_bound() -> None:
    """All logits are 1000, so a constant is taken off that would overflow by itself."""
    z = draw(1, 4, 0, torch.float32).repeat(5, 1).requires_grad_()
    skip = torch.full((5, 5), -1)
    skip[0], skip[1:, 0] = torch.arange(5), 0
    found = self_log_sum_exp(z, temperature=1e-3, skip=skip)
    assert found.allowed.tolist() == [0, 4, 4, 4, 4]
    assert torch.allclose(found.log_sum_exp[1:], torch.tensor(1000 + math.log(4)), rtol=1e-6)
    found.log_sum_exp[1:].sum().backward()
    assert z.grad is not None
    assert not z.grad[0].any()
    assert torch.allclose(z.grad[1:], 2000 * z.detach()[1:], rtol=1e-3)


@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_nothing_to_compare_with(kernel: str) -> None:
    first, none = draw(3, 4, 0).requires_grad_(), draw(3, 4, 0)[:0].requires_grad_()
    for a, k in ((first, none), (none, first), (none, none)):
        for form in ("rows", "both"):
            sides = call(form, a, k, temperature=0.1, kernel=kernel)
            for side in sides:
                assert torch.isneginf(side.log_sum_exp).all()
                assert not side.allowed.any()
            total = torch.stack([s.log_sum_exp.masked_fill(s.allowed == 0, 0).sum() for s in sides])
            (grad,) = torch.autograd.grad(total.sum(), a, allow_unused=True)
            assert grad is None or not grad.any()


def test_one_row_against_itself() -> None:
    z = draw(1, 4, 0).requires_grad_()
    found = self_log_sum_exp(z, temperature=0.5)
    assert torch.allclose(found.log_sum_exp, torch.full((1,), 2.0, dtype=F64))
    found.log_sum_exp.sum().backward()
    assert z.grad is not None
    assert torch.allclose(z.grad, 4 * z.detach())


def test_exclusions_that_overlap_are_counted_once() -> None:
    groups = (torch.tensor([0, 1, -1]), torch.tensor([0, 0, 1, -1]))
    skip = torch.tensor([[0, 0, 3], [2, 1, -1], [3, 3, 3]])
    found = symmetric_log_sum_exp(
        draw(3, 4, 0), draw(4, 4, 1), temperature=1.0, skip=skip,
        first_groups=groups[0], second_groups=groups[1],
    )  # fmt: skip
    pairs = excluded_pairs(3, 4, groups, skip=skip)
    assert found.rows.allowed.tolist() == (~pairs).sum(1).tolist() == [1, 2, 3]
    assert found.columns.allowed.tolist() == (~pairs).sum(0).tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("form", FORMS)
def test_broken_numbers_are_not_hidden(form: str, value: float) -> None:
    first, second = draw(5, 4, 0), draw(6, 4, 1)
    first[2, 1] = value
    for side in call(form, first, first if form == "self" else second, temperature=0.1):
        assert not torch.isfinite(side.log_sum_exp).all()


# ---- autograd


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_first_and_second_gradients_of_all_inputs(form: str, kernel: str) -> None:
    first, second = draw(9, 3, 0).requires_grad_(), draw(10, 3, 1).requires_grad_()
    t = torch.tensor(0.4, dtype=F64, requires_grad=True)
    own = torch.arange(9)
    skip = torch.stack([own, own.flip(0)], 1)

    def values(first: Tensor, second: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        sides = call(form, first, second, temperature=t, skip=skip, kernel=kernel)
        return tuple(side.log_sum_exp for side in sides)

    inputs = (first, second, t)
    if form == "self":

        def alone(first: Tensor, t: Tensor) -> tuple[Tensor, ...]:
            return values(first, first, t)

        assert torch.autograd.gradcheck(alone, (first, t))
        assert torch.autograd.gradgradcheck(alone, (first, t))
        return
    assert torch.autograd.gradcheck(values, inputs)
    assert torch.autograd.gradgradcheck(values, inputs)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    a, k = draw(5, 4, 0), draw(6, 4, 1)
    for need in ((True, False), (False, True)):
        x, y = a.clone().requires_grad_(need[0]), k.clone().requires_grad_(need[1])
        rows, columns = symmetric_log_sum_exp(x, y, temperature=0.3)
        columns.log_sum_exp.sum().backward()  # the rows' side has no gradient at all
        want = torch.softmax(k @ a.T / 0.3, 1) / 0.3
        if need[0]:
            assert y.grad is None
            assert torch.allclose(x.grad, want.T @ k)  # type: ignore[arg-type]
        else:
            assert x.grad is None
            assert torch.allclose(y.grad, want @ a)  # type: ignore[arg-type]
        assert not rows.hardest.requires_grad


def test_one_tensor_on_both_sides() -> None:
    z = draw(7, 4, 0)
    x, y = z.clone().requires_grad_(), z.clone().requires_grad_()
    sum(s.log_sum_exp.sum() for s in symmetric_log_sum_exp(x, x, temperature=0.3)).backward()  # type: ignore[union-attr]
    (2 * self_log_sum_exp(y, temperature=0.3).log_sum_exp.sum()).backward()
    assert torch.allclose(x.grad, y.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32_under_autocast(half: torch.dtype) -> None:
    a, k = draw(40, 16, 0, half), draw(50, 16, 1, half)
    x = a.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = in_batch_log_sum_exp(x, k, temperature=0.05)
        found.log_sum_exp.sum().backward()
    want = in_batch_log_sum_exp(a.double(), k.double(), temperature=0.05).log_sum_exp
    assert found.log_sum_exp.dtype == torch.float32
    assert torch.allclose(found.log_sum_exp.double(), want, rtol=1e-6, atol=1e-6)
    assert x.grad is not None
    assert x.grad.dtype == half


def test_results_repeat_bit_for_bit() -> None:
    a, k = draw(700, 32, 0, torch.float32), draw(900, 32, 1, torch.float32)
    up = [torch.ones(700), torch.ones(900)]
    once, again = (measure("both", a, k, 0.1, up) for _ in range(2))
    for name, value in once.items():
        assert torch.equal(value, again[name]), name


# ---- errors


def test_names_and_shapes_are_checked() -> None:
    a, k = draw(3, 4, 0), draw(5, 4, 1)
    with pytest.raises(UnknownName, match="unknown kernel"):
        in_batch_log_sum_exp(a, k, temperature=1.0, kernel="eagre")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temperature"):
        symmetric_log_sum_exp(a, k, temperature=0.0)
    with pytest.raises(DataError, match="dimension"):
        symmetric_log_sum_exp(a, k[:, :3], temperature=1.0)
    with pytest.raises(DataError, match="both sides"):
        in_batch_log_sum_exp(a, k, temperature=1.0, anchor_groups=torch.zeros(3).long())
    with pytest.raises(DataError, match="mask"):
        in_batch_log_sum_exp(a, k, temperature=1.0, mask=torch.zeros(5, 3, dtype=torch.bool))
    with pytest.raises(DataError, match="skip"):
        self_log_sum_exp(a, temperature=1.0, skip=torch.zeros(3).long())
    with pytest.raises(DataError, match="not there"):
        in_batch_log_sum_exp(a, k, temperature=1.0, skip=torch.full((3, 1), 5))
