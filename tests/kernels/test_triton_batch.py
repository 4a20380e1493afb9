"""The passes within a batch in Triton, against plain float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rhyme.kernels.common import Exclusion

F32, BF16 = torch.float32, torch.bfloat16
TOLERANCE = {F32: 1e-5, BF16: 2e-2}

pytestmark = pytest.mark.filterwarnings("ignore:.*(encountered in|FP_FUSION)")


def oracle(x, y, scale, exclusion, form, on_rows, on_columns):
    """Both sides from the whole matrix in float64."""
    x = x.double().requires_grad_()
    y = x if form == "self" else y.double().requires_grad_()
    logits = x @ y.T * scale
    out = exclusion.pairs(len(x), len(y), x.device)
    out = torch.zeros_like(logits, dtype=torch.bool) if out is None else out
    sides, total = [], 0.0
    both = [(logits, out, on_rows), (logits.T, out.T, on_columns)]
    for matrix, gone, gradient in both if form == "both" else both[:1]:
        some = ~gone.all(1)
        matrix = matrix.masked_fill(gone & some[:, None], -math.inf)
        lse = torch.where(some, matrix.logsumexp(1), 0)
        total = total + (lse * gradient).sum()
        top = matrix.detach().amax(1)
        sides.append(tuple(torch.where(some, z, -math.inf).detach() for z in (lse, top)))
    grads = torch.autograd.grad(total, [x] if form == "self" else [x, y])
    return sides, grads


def near(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    found = found.cpu().double()
    finite = wanted.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert torch.equal(found[~finite], wanted[~finite])
    if finite.any():
        size = wanted[finite].abs().max().clamp(min=1.0)
        assert float((found - wanted)[finite].abs().max() / size) < tolerance


def check(kernels, b, n, d, dtype, scale, form, kind="", length=1.0, seed=0) -> None:
    generator = torch.Generator().manual_seed(seed)

    def unit(rows: int) -> Tensor:
        rows = torch.randn(rows, d, generator=generator)
        return (nn.functional.normalize(rows, dim=1) * length).to(dtype)

    x = unit(b)
    y = x if form == "self" else unit(n)
    rows = torch.randint(-1, 4, (b,), generator=generator) if "g" in kind else None
    keys = torch.randint(-1, 4, (n,), generator=generator) if "g" in kind else None
    keys = rows if form == "self" else keys
    mask = torch.rand(b, n, generator=generator) < 0.3 if "m" in kind else None
    if mask is not None:
        mask[b // 2], mask[:, n // 2] = True, True
    skip = torch.arange(b)[:, None] if "s" in kind else None
    exclusion = Exclusion(rows, keys, mask, skip)
    on_rows, on_columns = (torch.randn(m, generator=generator) for m in (b, n))
    pairs = exclusion.pairs(b, n, x.device)
    if pairs is not None:
        on_rows[pairs.all(1)], on_columns[pairs.all(0)] = 0, 0
    sides, grads = oracle(x, y, scale, exclusion, form, on_rows, on_columns)

    def there(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(kernels.device)

    exclusion = Exclusion(*(there(t) for t in (rows, keys, mask, skip)))
    on_rows, on_columns = there(on_rows), there(on_columns)
    x = there(x)
    y = x if form == "self" else there(y)
    assert kernels.batch.refusal(x, y) is None
    # a logit of 1e4 has four digits behind the point in float32
    tolerance = max(TOLERANCE[dtype], 4e-7 * scale * length**2)
    totals = kernels.batch.forward(x, y, scale, exclusion, form)
    found = [totals.rows] if totals.columns is None else [totals.rows, totals.columns]
    assert len(found) == len(sides)
    for mine, wanted in zip(found, sides, strict=True):
        near(mine[0], wanted[0], tolerance)
        near(mine[1], wanted[1], tolerance)
    back = kernels.batch.backward(
        x, y, scale, exclusion, form, totals, on_rows,
        on_columns if form == "both" else None, (True, form != "self"),
    )  # fmt: skip
    for mine, wanted in zip([g for g in back if g is not None], grads, strict=True):
        size = wanted.abs().max().clamp(min=1e-30)
        near(mine.cpu() / size, wanted / size, tolerance)


CASES = [
    (70, 150, 20, F32, 1 / 0.07, "both", ""),
    (64, 64, 32, F32, 1 / 0.07, "both", "s"),
    (70, 90, 33, F32, 1 / 0.07, "both", "gms"),
    (30, 140, 16, F32, 1 / 0.01, "both", "gm"),
    (1, 1, 3, F32, 1e4, "both", ""),
    (30, 80, 16, F32, 1e-4, "rows", "g"),
    (75, 75, 16, F32, 1 / 0.07, "self", "gs"),
    (20, 20, 16, F32, 1e4, "self", "s"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(triton_kernels, case) -> None:
    check(triton_kernels, *case)


def test_columns_in_many_launches_and_gradients_in_chunks(triton_kernels, monkeypatch) -> None:
    monkeypatch.setattr(triton_kernels.batch, "HELD", 8 * 90)  # one tile of rows at a time
    blocks = triton_kernels.blocks
    few = blocks.Blocks(rows=32, keys=32, depth=16, warps=4, stages=2, chunk=32 * 90 * 4)
    with blocks.using("batch_sums", few), blocks.using("batch_weights", few):
        assert triton_kernels.batch._spans(few, 70, 90, 4) == (64, 32)  # six chunks
        check(triton_kernels, 70, 90, 20, F32, 1 / 0.07, "both", "s")
        check(triton_kernels, 70, 90, 20, F32, 1 / 0.01, "both", "s")


def test_whole_vectors_at_once_agree(triton_kernels) -> None:
    blocks = triton_kernels.blocks
    whole = blocks.Blocks(rows=32, keys=32, depth=0, warps=4, stages=1)
    with blocks.using("batch_sums", whole), blocks.using("batch_weights", whole):
        check(triton_kernels, 50, 70, 40, F32, 1 / 0.07, "both", "gs")


def test_long_vectors_are_followed_by_their_maximum(triton_kernels) -> None:
    check(triton_kernels, 20, 30, 16, F32, 1 / 0.07, "both", length=8.0)


# What is compiled anew stands here, so that compiling can be shared by several processes.
KINDS = [
    (256, F32, "both", ""),
    (100, F32, "both", "s"),
    (128, F32, "rows", "gm"),
    (64, F32, "self", "gs"),
    (256, BF16, "both", ""),
    (256, BF16, "both", "s"),
    (512, BF16, "both", ""),
    (100, BF16, "rows", "g"),
    (1000, BF16, "self", "s"),
    (256, BF16, "both", "gm"),
]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_many_shapes(triton_kernels, kind) -> None:
    d, dtype, form, pairs = kind
    draw = torch.Generator().manual_seed(1)
    for tau in (0.07, 0.01):
        check(triton_kernels, 1024, 1024, d, dtype, 1 / tau, form, pairs)
    for seed in range(22):
        b, n, which = (1 + int(torch.randint(m, (1,), generator=draw)) for m in (700, 900, 4))
        n = b if form == "self" or "s" in pairs else n
        scale = (1e-4, 1.0, 1 / 0.07, 100.0)[which - 1]
        check(triton_kernels, b, n, d, dtype, scale, form, pairs, seed=seed)


def test_empty_sides(triton_kernels) -> None:
    x = torch.zeros(3, 16, device=triton_kernels.device)
    totals = triton_kernels.batch.forward(x, x[:0], 1.0, Exclusion(), "both")
    assert totals.rows[0].isneginf().all()
    assert len(totals.columns[0]) == 0
    back = triton_kernels.batch.backward(
        x, x[:0], 1.0, Exclusion(), "both", totals, x[:, 0], x[:0, 0], (True, True)
    )
    assert not back[0].any()
    assert back[1].shape == (0, 16)


def test_what_the_kernels_refuse(triton_kernels) -> None:
    x = torch.zeros(2, 16, device=triton_kernels.device)
    assert triton_kernels.batch.refusal(x, x) is None
    assert "float64" in triton_kernels.batch.refusal(x, x.double())
