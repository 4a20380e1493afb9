"""The passes over a queue in Triton, against plain float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rhyme.kernels.common import Exclusion

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
TOLERANCE = {F32: 1e-5, F16: 2e-2, BF16: 2e-2}

pytestmark = pytest.mark.filterwarnings("ignore:.*(encountered in|FP_FUSION)")


def unit(generator: torch.Generator, rows: int, d: int) -> Tensor:
    return nn.functional.normalize(torch.randn(rows, d, generator=generator), dim=1)


def excluded(kind: str, generator: torch.Generator, b: int, n: int) -> Exclusion:
    """Groups, indices and a mask, by their first letters."""
    draw = {"generator": generator}
    rows = torch.randint(-2, 4, (b,), **draw) if "g" in kind else None
    keys = torch.randint(-2, 4, (n,), **draw) * 2**40 if "g" in kind else None
    if rows is not None:
        rows = rows * 2**40
    mask = torch.rand(b, n, **draw) < 0.4 if "m" in kind else None
    if mask is not None:
        mask[b // 2] = True
    skip = torch.randint(-1, n, (b, 2), **draw) if "s" in kind else None
    return Exclusion(rows, keys, mask, skip)


def oracle(q, k, v, scale, exclusion, on_mean, on_lse):
    """All of it from the whole matrix in float64."""
    q, k = (t.double().requires_grad_() for t in (q, k))
    payload = k if v is None else v.double().requires_grad_()
    logits = q @ k.T * scale
    out = exclusion.pairs(len(q), len(k), q.device)
    out = torch.zeros_like(logits, dtype=torch.bool) if out is None else out
    some = ~out.all(1)
    logits = logits.masked_fill(out & some[:, None], -math.inf)
    lse = logits.logsumexp(1)
    mean = torch.softmax(logits, 1) @ payload
    lse = torch.where(some, lse, 0)
    mean = torch.where(some[:, None], mean, 0)
    total = (mean * on_mean).sum() + (lse * on_lse).sum()
    grads = torch.autograd.grad(total, [q, k] if v is None else [q, k, payload])
    top = torch.where(some, logits.detach().amax(1), -math.inf)
    return torch.where(some, lse, -math.inf).detach(), mean.detach(), top, (~out).sum(1), grads


def near(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Infinities in the same places, all else within a share of the largest."""
    found = found.double()
    finite = wanted.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert torch.equal(found[~finite], wanted[~finite])
    size = wanted[finite].abs().max().clamp(min=1.0) if finite.any() else 1.0
    assert float((found - wanted)[finite].abs().max() / size if finite.any() else 0.0) < tolerance


def check(kernels, b, n, d, e, dtype, scale, kind, seed=0) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = unit(generator, b, d).to(dtype), unit(generator, n, d).to(dtype)
    v = torch.randn(n, e, generator=generator).to(dtype) if e else None
    exclusion = excluded(kind, generator, b, n)
    on_mean = torch.randn(b, e or d, generator=generator)
    on_lse = torch.randn(b, generator=generator)
    pairs = exclusion.pairs(b, n, torch.device("cpu"))
    if pairs is not None:
        on_lse[pairs.all(1)] = 0
    lse, mean, top, allowed, grads = oracle(q, k, v, scale, exclusion, on_mean, on_lse)

    def there(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(kernels.device)

    q, k, v, on_mean, on_lse = (there(x) for x in (q, k, v, on_mean, on_lse))
    parts = (exclusion.query_groups, exclusion.key_groups, exclusion.mask, exclusion.skip)
    exclusion = Exclusion(*(there(x) for x in parts))
    assert kernels.queue.refusal(q, k, v) is None
    found = kernels.queue.forward_pass(q, k, v, scale, exclusion, True)
    # a logit of 1e4 has four digits behind the point in float32
    tolerance = max(TOLERANCE[dtype], 4e-7 * scale)
    near(found.log_sum_exp.cpu(), lse, tolerance)
    near(found.mean.cpu(), mean, tolerance)
    near(found.maximum.cpu(), top, tolerance)
    assert torch.equal(found.allowed.cpu(), allowed)
    assert (found.expected is None) == (v is not None)
    if found.expected is not None:
        near(found.expected.cpu(), (q.cpu().double() * mean).sum(1) * scale, tolerance)
    plain = kernels.queue.forward_pass(q, k, v, scale, exclusion, False)
    assert plain.mean is None
    assert plain.expected is None
    near(plain.log_sum_exp.cpu(), lse, tolerance)
    back = kernels.queue.backward_pass(
        q,
        k,
        v,
        scale,
        exclusion,
        found.powers,
        found.mean,
        on_mean,
        on_lse,
        True,
        True,
        v is not None,
    )
    for mine, wanted in zip([x for x in back if x is not None], grads, strict=True):
        size = wanted.abs().max().clamp(min=1e-30)
        near(mine.cpu() / size, wanted / size, tolerance)


CASES = [
    (5, 70, 20, 0, F32, 1 / 0.07, ""),
    (70, 130, 33, 0, F32, 1 / 0.07, "g"),
    (7, 150, 16, 24, F32, 5.0, "gms"),
    (9, 130, 48, 0, F16, 1 / 0.07, "gs"),
    (1, 1, 3, 0, F32, 1e4, ""),
    (3, 5, 16, 0, F32, 1e-4, "m"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(triton_kernels, case) -> None:
    check(triton_kernels, *case)


# What is compiled anew stands here, so that compiling can be shared by several processes.
KINDS = [
    (128, 0, F32, ""),
    (128, 0, F32, "g"),
    (100, 0, F32, "gms"),
    (128, 64, F32, "s"),
    (128, 0, F16, "g"),
    (128, 0, BF16, ""),
    (200, 0, BF16, "gms"),
    (100, 24, BF16, "m"),
    (20, 24, F32, "gms"),
    (64, 100, F32, "m"),
    (30, 0, F16, "gs"),
]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_many_shapes(triton_kernels, kind) -> None:
    d, e, dtype, pairs = kind
    draw = torch.Generator().manual_seed(1)
    check(triton_kernels, 256, 20_001, d, e, dtype, 1 / 0.07, pairs)
    check(triton_kernels, 200, 5_001, d, e, dtype, 1 / 0.01, pairs)
    check(triton_kernels, 1, 1, d, e, dtype, 1e4, "")
    for seed in range(25):
        b, n, which = (1 + int(torch.randint(m, (1,), generator=draw)) for m in (300, 3000, 4))
        scale = (1e-4, 1.0, 10.0, 1 / 0.07)[which - 1]
        check(triton_kernels, b, n, d, e, dtype, scale, pairs, seed)


def test_a_learned_scale_lies_on_the_device(triton_kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (unit(generator, n, 16).to(triton_kernels.device) for n in (4, 40))
    scale = torch.tensor(7.0, device=triton_kernels.device)
    number = triton_kernels.queue.forward_pass(q, k, None, 7.0, Exclusion(), True)
    scalar = triton_kernels.queue.forward_pass(q, k, None, scale, Exclusion(), True)
    for a, b in zip(number, scalar, strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_to_look_at_and_zero_vectors(triton_kernels) -> None:
    q = torch.zeros(3, 16, device=triton_kernels.device)
    _, mean, lse, top, allowed, _ = triton_kernels.queue.forward_pass(
        q, q[:0], None, 1.0, Exclusion(), True
    )
    assert lse.isneginf().all()
    assert top.isneginf().all()
    assert not mean.any()
    assert not allowed.any()
    keys = torch.zeros(5, 16, device=triton_kernels.device)
    _, mean, lse, _, allowed, expected = triton_kernels.queue.forward_pass(
        q, keys, None, 1e4, Exclusion(), True
    )
    torch.testing.assert_close(lse.cpu(), torch.full((3,), math.log(5)))
    assert not mean.any()
    assert not expected.any()
    assert allowed.tolist() == [5, 5, 5]


def test_the_gradient_of_the_log_sum_exp_alone_needs_no_kernel(triton_kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (unit(generator, n, 16).to(triton_kernels.device) for n in (4, 40))
    powers, mean, lse, *_ = triton_kernels.queue.forward_pass(q, k, None, 10.0, Exclusion(), True)
    on_lse = torch.ones_like(lse)
    rest = (None, on_lse, True, False, False)
    short = triton_kernels.queue.backward_pass(q, k, None, 10.0, Exclusion(), powers, mean, *rest)
    long = triton_kernels.queue.backward_pass(q, k, None, 10.0, Exclusion(), powers, None, *rest)
    torch.testing.assert_close(short[0], long[0], rtol=1e-5, atol=1e-6)


def test_other_block_sizes_agree(triton_kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (unit(generator, n, 16).to(triton_kernels.device) for n in (20, 100))
    sizes = triton_kernels.blocks.Blocks(rows=16, keys=16, warps=4, stages=1)
    first = triton_kernels.queue.forward_pass(q, k, None, 10.0, Exclusion(), True)
    with triton_kernels.blocks.using("queue_forward", sizes):
        second = triton_kernels.queue.forward_pass(q, k, None, 10.0, Exclusion(), True)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_the_kernels_refuse(triton_kernels) -> None:
    q = torch.zeros(2, 16, device=triton_kernels.device)
    refusal = triton_kernels.queue.refusal
    assert refusal(q, q, None) is None
    assert "float64" in refusal(q.double(), q, None)
    assert "256" in refusal(q, q, torch.zeros(2, 300, device=q.device))
    wide = torch.zeros(2, 200, device=q.device)
    assert "128" in refusal(wide, wide, None)
    assert refusal(wide.half(), wide.half(), None) is None
    assert "128" in refusal(wide.half(), wide, None)  # computed in float32
