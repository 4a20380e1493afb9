"""Softmax over a queue against loops in float64: any shape, dtype, exclusion and temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.ratio import peak_mib
from rhyme.errors import ConfigError
from rhyme.kernels import queue_log_sum_exp, soft_neighbour, streaming
from rhyme.kernels.common import Exclusion

PARTS = ("query_groups", "key_groups", "mask", "skip")
TRITON = pytest.param("triton", marks=pytest.mark.gpu)
KERNELS = ["eager", "streaming", TRITON]
PRECISION = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}
ERROR = {torch.float64: 4e-16, torch.float32: 4e-7, torch.bfloat16: 4e-7}  # of a logit, as a share
MEANT = 8e-3  # a larger tolerance would let an error of a per cent pass


class Oracle:
    """Values and gradients for ``Σ (mean · g) + Σ h · lse``, a pair at a time.

    ``sizes`` has the sum of the absolute values of all terms of each gradient, of which the largest
    is what rounding is measured by: a gradient may be 0 because its terms cancel.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        q, k, v, own, g, h = (
            None if case[name] is None else case[name].double().numpy()
            for name in ("q", "k", "v", "own", "g", "h")
        )
        tau, values = case["tau"], k if v is None else v
        b = len(q)
        self.lse, self.top = np.full(b, -np.inf), np.full(b, -np.inf)
        self.mean = np.zeros((b, values.shape[1]))
        self.entropy, self.allowed = np.zeros(b), np.zeros(b, dtype=int)
        self.on_q, self.on_k, self.on_tau = np.zeros_like(q), np.zeros_like(k), 0.0
        self.on_v = None if v is None else np.zeros_like(v)
        self.on_own = None if own is None else np.zeros_like(own)
        self.largest = 1.0  # logit
        self.sizes = {name: np.zeros_like(x) for name, x in (("q", q), ("k", k))}
        for name, x in (("v", v), ("own", own)):
            self.sizes[name] = np.zeros(1) if x is None else np.zeros_like(x)
        self.size_of_tau = 0.0
        for i in range(b):
            met = [j for j in range(len(k)) if not self.apart(case, i, j)]
            self.allowed[i] = len(met)
            keys = [k[j] for j in met] + ([] if own is None else [own[i]])
            rows = [values[j] for j in met] + ([] if own is None else [q[i]])
            if not keys:
                continue
            keys, rows = np.array(keys), np.array(rows)
            logits = keys @ q[i] / tau
            self.largest = max(self.largest, np.abs(logits).max())
            if met:
                self.top[i] = logits[: len(met)].max() * tau
            self.lse[i] = logits.max() + np.log(np.exp(logits - logits.max()).sum())
            p = np.exp(logits - self.lse[i])
            self.mean[i] = p @ rows
            self.entropy[i] = self.lse[i] - p @ logits
            slope = p * (rows @ g[i] - self.mean[i] @ g[i] + h[i])
            self.on_q[i] = slope @ keys / tau
            self.on_tau -= slope @ logits / tau
            terms = p * (
                np.abs(rows) @ np.abs(g[i]) + np.abs(self.mean[i]) @ np.abs(g[i]) + abs(h[i])
            )
            self.sizes["q"][i] = terms @ np.abs(keys) / tau + np.abs(g[i, :1]) * p[-1]
            self.sizes["own"] += terms[-1] * np.abs(q[i]).max() / tau
            self.size_of_tau += terms @ (np.abs(keys) @ np.abs(q[i])) / tau
            for place, j in enumerate(met):
                weighed = p[place] * np.abs(g[i])
                self.sizes["k"][j] += terms[place] * np.abs(q[i]) / tau
                if self.on_v is None:
                    self.sizes["k"][j] += weighed
                else:
                    self.sizes["v"][j] += weighed
                self.on_k[j] += slope[place] * q[i] / tau
                if self.on_v is None:
                    self.on_k[j] += p[place] * g[i]
                else:
                    self.on_v[j] += p[place] * g[i]
            if self.on_own is not None:
                self.on_q[i] += p[-1] * g[i]
                self.on_own[i] = slope[-1] * q[i] / tau

    @staticmethod
    def apart(case: dict[str, Any], i: int, j: int) -> bool:
        gq, gk, mask, skip = (case[name] for name in ("gq", "gk", "mask", "skip"))
        return bool(
            (gq is not None and gq[i] >= 0 and gq[i] == gk[j])
            or (mask is not None and mask[i, j])
            or (skip is not None and j in skip[i].tolist())
        )


def near(what: str, found: Tensor | None, wanted: Any, tolerance: float, size: Any = 1.0) -> None:
    """Within the tolerance of the largest of ``size``, and infinite in the same places."""
    assert found is not None, what
    assert tolerance < MEANT or found.dtype is torch.bfloat16, what
    got, wanted = found.detach().double().cpu().numpy(), np.asarray(wanted)
    assert np.array_equal(np.isfinite(got), np.isfinite(wanted)), what
    fine = np.isfinite(wanted)
    assert np.array_equal(got[~fine], wanted[~fine]), what
    worst = float(np.abs(got[fine] - wanted[fine]).max(initial=0.0))
    assert worst <= tolerance * float(np.max(size, initial=0.0)), f"{what}: {worst}"


def draw_case(seed: int) -> dict[str, Any]:
    """Shapes, types and exclusions; a quarter of the cases has something degenerate.

    At temperatures whose logits float32 would round by more than gradients bear, rows have few
    digits and logits none too many.
    """
    rng = np.random.default_rng(seed)
    dtype = [torch.float64, torch.float32, torch.bfloat16][seed % 3]
    tau = float(rng.choice([1e-4, 0.01, 0.07, 0.5, 1.0, 1e4]))
    b, n, d = (int(rng.integers(low, high)) for low, high in ((1, 9), (1, 40), (1, 20)))
    n = [n, n, n, 0, int(rng.integers(130, 200))][int(rng.integers(5))]

    def rows(count: int, unit: bool = True) -> Tensor:
        x = torch.from_numpy(rng.standard_normal((count, d)))
        x = nn.functional.normalize(x, dim=1) if unit else x * 3
        return (x.mul(8).round() / 8 if tau < 0.05 else x).to(dtype)

    q, k = rows(b, rng.random() < 0.8), rows(n, rng.random() < 0.8)
    kind = int(rng.integers(8))
    if kind == 0:
        q[0], k[:2] = 0, 0
    elif kind == 1 and n:
        k[:] = k[0].clone()
    elif kind == 2 and n:
        q[0] = k[0]
    owners = int(rng.choice([1, 3, 30]))
    grouped, masked, skipped = rng.random(3) < (0.5, 0.3, 0.4)
    ids = [torch.from_numpy(rng.integers(-1, owners, size)) for size in (b, n)]
    mask = torch.from_numpy(rng.random((b, n)) < 0.4)
    mask[0] |= bool(rng.random() < 0.3)
    width = int(rng.integers(0, 4))
    values = torch.from_numpy(rng.standard_normal((n, 5))).to(dtype)
    return {
        "q": q, "k": k,
        "v": values if rng.random() < 0.3 else None,
        "own": None, "tau": tau, "exact": tau < 0.05,
        "gq": ids[0] if grouped else None, "gk": ids[1] if grouped else None,
        "mask": mask if masked else None,
        "skip": torch.from_numpy(rng.integers(-1, n, (b, width))) if skipped and n else None,
        "h": torch.from_numpy(rng.standard_normal(b)), "dtype": dtype,
    }  # fmt: skip


def run(
    kernel: Any, case: dict[str, Any], neighbour: bool, exact_temperature: Callable[..., float]
) -> None:
    """One of the two functions against the oracle, gradients for everything included."""
    device = "cuda" if kernel == "triton" else "cpu"
    case = {**case}
    if case["exact"]:
        case["tau"] = exact_temperature(case["tau"], base_2=kernel != "eager")
    if kernel == "triton" and case["dtype"] is torch.float64:
        case["dtype"] = torch.float32
        case.update(
            {name: case[name].float() for name in ("q", "k", "v") if case[name] is not None}
        )
    rng = np.random.default_rng(len(case["q"]) + 7 * len(case["k"]))
    if neighbour:
        case["skip"] = None
        values = case["k"] if case["v"] is None else case["v"]
        if case["v"] is None and not case["exact"] and rng.random() < 0.3:
            case["own"] = case["q"].flip(0)
        case["g"] = torch.from_numpy(rng.standard_normal((len(case["q"]), values.shape[1])))
    else:
        case["v"], case["g"] = None, torch.zeros(case["q"].shape)
    want = Oracle(case)
    case["h"][want.lse == -np.inf] = 0  # nobody has a use for the gradient of −inf
    moved = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in case.items()}
    q, k, v, own = (
        None if moved[name] is None else moved[name].detach().requires_grad_()
        for name in ("q", "k", "v", "own")
    )
    wide = torch.float64 if case["dtype"] is torch.float64 else torch.float32
    tau = torch.tensor(case["tau"], dtype=wide, device=device, requires_grad=True)
    groups, mask = (moved["gq"], moved["gk"]), moved["mask"]
    precision, wide_precision = PRECISION[case["dtype"]], PRECISION[wide]
    if kernel != "triton" and case["dtype"] is torch.bfloat16:
        precision = 5e-3  # computed in float32, and rounded once: 2⁻⁸ at most
    # a rounded logit of 25 costs a weight 1e-5; one of few digits costs it nothing
    rounded = 0.0 if case["exact"] and wide is torch.float32 else ERROR[wide] * want.largest
    tolerance = max(wide_precision, rounded)
    if neighbour:
        found: Any = soft_neighbour(
            q, k, temperature=tau, query_groups=groups[0], support_groups=groups[1], mask=mask,
            self_key=own, values=v, kernel=kernel,
        )  # fmt: skip
        near("mean", found.mean, want.mean, tolerance, values.double().abs().numpy())
        # the difference of two numbers as large as the logits
        near("entropy", found.entropy, want.entropy, wide_precision, max(1.0, want.largest * 0.4))
        total = (found.mean * moved["g"]).sum()
    else:
        found = queue_log_sum_exp(
            q, k, temperature=tau, query_groups=groups[0], key_groups=groups[1], mask=mask,
            skip=moved["skip"], kernel=kernel,
        )  # fmt: skip
        near("hardest", found.hardest, want.top, wide_precision, want.largest * case["tau"])
        total = 0.0
    assert found.log_sum_exp.dtype == wide
    assert found.allowed.tolist() == want.allowed.tolist()
    near("lse", found.log_sum_exp, want.lse, wide_precision, want.largest)
    total = total + torch.where(moved["h"] == 0, 0, found.log_sum_exp * moved["h"]).sum()
    total.backward()
    for name, leaf, grad in (
        ("q", q, want.on_q), ("k", k, want.on_k), ("v", v, want.on_v), ("own", own, want.on_own)
    ):  # fmt: skip
        if leaf is not None:
            # its own slot is weighed by the difference of two rounded numbers
            size = want.sizes[name] * (2 if name == "own" else 1)
            near(f"∂{name}", leaf.grad, grad, max(tolerance, precision), size)
    near("∂τ", tau.grad, want.on_tau, tolerance, want.size_of_tau / case["tau"])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("start", range(0, 200, 20))
def test_200_random_cases(
    kernel: str,
    start: int,
    monkeypatch: pytest.MonkeyPatch,
    exact_temperature: Callable[..., float],
) -> None:
    monkeypatch.setattr(streaming, "_ROWS", 4)  # several blocks of queries, and of keys
    monkeypatch.setattr(streaming, "_HOST_BYTES", 1)
    for seed in range(start, start + 20):
        run(kernel, draw_case(seed), False, exact_temperature)
        run(kernel, draw_case(seed), True, exact_temperature)


@pytest.mark.parametrize("kernel", KERNELS)
def test_logits_that_climb_fall_and_start_late(
    kernel: str, monkeypatch: pytest.MonkeyPatch, exact_temperature: Callable[..., float]
) -> None:
    """The level of the sums has to follow rows of every kind, over several blocks."""
    monkeypatch.setattr(streaming, "_HOST_BYTES", 1)
    k = torch.zeros(300, 4)
    k[:, 0] = torch.linspace(0, 500, 300)
    k[:, 1] = torch.linspace(500, 0, 300)
    k[:, 2] = -400
    k[70, 3], k[130, 3] = 7, 30  # the level stays, then moves
    mask = torch.zeros(5, 300, dtype=torch.bool)
    mask[2, :250] = True  # meets its first key in a late block, far below 0
    mask[4] = True
    case = {
        "q": torch.cat([torch.eye(4)[[0, 1, 2, 3]], torch.ones(1, 4)]), "k": k, "v": None,
        "own": None, "tau": 0.5, "gq": None, "gk": None, "mask": mask, "skip": None,
        "h": torch.linspace(-1, 1, 5), "dtype": torch.float32, "exact": False,
    }  # fmt: skip
    run(kernel, case, False, exact_temperature)
    run(kernel, case, True, exact_temperature)


@pytest.mark.parametrize("kernel", ["eager", "streaming"])
@pytest.mark.parametrize("values", [False, True])
def test_gradients_and_second_gradients(kernel: Any, values: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    q, k, v = leaf(3, 2), leaf(5, 2), leaf(5, 1)
    tau = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 1, -1]), torch.tensor([0, 1, 2, -1, 0])

    def both(q: Tensor, k: Tensor, v: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
        near = soft_neighbour(
            q, k, temperature=tau, query_groups=groups[0], support_groups=groups[1],
            values=v if values else None, self_key=None if values else k[:3], kernel=kernel,
        )  # fmt: skip
        far = queue_log_sum_exp(
            q, k, temperature=tau, skip=torch.tensor([[0, 2], [1, 1], [-1, 4]]), kernel=kernel
        )
        return near.mean, near.log_sum_exp, far.log_sum_exp

    assert torch.autograd.gradcheck(both, (q, k, v, tau))
    assert torch.autograd.gradgradcheck(both, (q, k, v, tau))


def test_a_tensor_may_be_queries_and_keys_at_once() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    itself = torch.arange(5)[:, None]

    def own(x: Tensor) -> Tensor:
        return queue_log_sum_exp(x, x, temperature=0.5, skip=itself).log_sum_exp

    assert torch.autograd.gradcheck(own, x.requires_grad_())
    assert torch.autograd.gradgradcheck(own, x)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    q, k = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3)
    queue_log_sum_exp(q, k, temperature=1.0).log_sum_exp.sum().backward()
    assert k.grad is None
    k.requires_grad_()
    for kernel in ("eager", "streaming"):
        queue_log_sum_exp(
            q.detach(), k, temperature=1.0, kernel=kernel
        ).log_sum_exp.sum().backward()  # type: ignore[arg-type]
    assert k.grad is not None
    with torch.no_grad():
        found = queue_log_sum_exp(q, k, temperature=1.0)
    assert not found.log_sum_exp.requires_grad


def exclusions(b: int, n: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    videos = torch.randint(0, n // 4, (n,), generator=generator)  # four keys each
    one = torch.zeros(n, dtype=torch.int64)
    return {
        "nothing": {},
        "videos": {"query_groups": videos[:b], "key_groups": videos},
        "one video": {"query_groups": one[:b], "key_groups": one},
        "many": {"query_groups": videos[:b] % 8, "key_groups": videos % 8},
        "mask": {"mask": torch.rand(b, n, generator=generator) < 0.5},
        "skip": {"skip": torch.randint(0, n, (b, 3), generator=generator)},
    }


@pytest.mark.parametrize("kind", exclusions(4, 8))
def test_memory_is_that_of_a_block_and_of_the_rows(kind: str) -> None:
    b, n, d = 128, 131072, 8
    q = torch.randn(b, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    k = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    options = exclusions(b, n)[kind]

    def step() -> Tensor:
        found = queue_log_sum_exp(q, k, temperature=0.5, **options)  # type: ignore[arg-type]
        torch.where(found.allowed > 0, found.log_sum_exp, 0).sum().backward()
        if "skip" not in options:
            names = {"key_groups": "support_groups"}
            renamed = {names.get(name, name): value for name, value in options.items()}
            near = soft_neighbour(q, k, temperature=0.5, **renamed)  # type: ignore[arg-type]
            near.mean.sum().backward()
        return found.allowed

    peak, allowed = peak_mib(step)
    assert peak < b * n * 4 / 10 / 2**20
    gone = Exclusion(*(options.get(name) for name in PARTS)).pairs(b, n, q.device)
    gone = torch.zeros(b, n) if gone is None else gone
    assert torch.equal(allowed, n - gone.sum(1).long())


def test_the_same_numbers_again() -> None:
    q, k = torch.randn(300, 16), torch.randn(5000, 16)
    owners = torch.arange(5000) % 700
    found = [
        soft_neighbour(q, k, temperature=0.1, query_groups=owners[:300], support_groups=owners)
        for _ in range(2)
    ]
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_half_precision_and_autocast_compute_in_float32() -> None:
    q, k = (torch.randn(n, 8, dtype=torch.bfloat16).requires_grad_() for n in (3, 50))
    wide = queue_log_sum_exp(q.float(), k.float(), temperature=0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = queue_log_sum_exp(q, k, temperature=0.07)
    assert torch.equal(half.log_sum_exp, wide.log_sum_exp)
    half.log_sum_exp.sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.bfloat16


def test_triton_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="GPU"):
        soft_neighbour(torch.ones(1, 2), torch.ones(1, 2), temperature=1.0, kernel="triton")
