"""Contrast within a batch on a GPU, forward and backward, against plain PyTorch and cuBLAS.

Compared: both directions of 32,768 pairs of 256 dimensions in bfloat16, forward and backward:

- ``time`` and ``memory`` against the logits and two calls of ``cross_entropy``, in bfloat16;
- ``rate``: floating-point operations of the four products (one forward, and in the backward pass
  the logits again and one product for each side) a second, over those of a plain bfloat16 product
  of 8192³ in the same run;
- ``objective``: ``info_nce_symmetric``, with its diagnostics and the positives kept apart, against
  the same eager side;
- ``float32``: as ``time``, of 8192 pairs in float32;
- ``largest``: 262,144 pairs of 512 dimensions: memory against 2 GiB, and time against one second.

Time is that on the GPU, with the host ahead. Memory is the most that a call holds, gradients too.

Checked: loss and gradients against float64, whole at 32,768 (gradients on 512 rows of each side)
and on 128 rows at 262,144.

Expected: 3 times eager, which moves its 2 GB of logits a dozen times; 60 % of the rate of the plain
product, since two of the four products are the library's and exponentials run beside the others;
10 times less memory; the largest within 2 GiB and a second. In float32 1.2: products in three parts
of TF32 in the kernels, plain float32 for the gradients, which both sides share.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.queue import unit
from benchmarks.ratio import Case, WrongResult, cuda_peak_mib, cuda_seconds, told
from rhyme.kernels import symmetric_log_sum_exp
from rhyme.kernels.rows import row_products
from rhyme.objectives import info_nce_symmetric

TAU = 0.07
Found = tuple[Tensor, Tensor, Tensor]


def contrast(first: Tensor, second: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Found:
    """Loss and both gradients."""
    first, second = first.detach().requires_grad_(), second.detach().requires_grad_()
    value = loss(first, second)
    return value.detach(), *torch.autograd.grad(value, (first, second))


def by_kernel(first: Tensor, second: Tensor) -> Tensor:
    rows, columns = symmetric_log_sum_exp(first, second, temperature=TAU, kernel="triton")
    positive = row_products(first, second) / TAU
    return (0.5 * (rows.log_sum_exp + columns.log_sum_exp) - positive).mean()


def by_objective(first: Tensor, second: Tensor) -> Tensor:
    return info_nce_symmetric(first, second, temperature=TAU).values.mean()


def by_eager(first: Tensor, second: Tensor) -> Tensor:
    logits = first @ second.T / TAU
    target = torch.arange(len(first), device=first.device)
    both = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    return both / 2


@torch.no_grad()
def exact(first: Tensor, second: Tensor, rows: int) -> Found:
    """The same in float64, a thousand rows at a time; gradients of the first rows of each side."""
    x, y, step = first.double(), second.double(), 1024
    n = len(x)
    on_rows = x.new_empty(n)
    sums = x.new_zeros(n)
    for start in range(0, n, step):
        weights = (x[start : start + step] @ y.T / TAU - 1 / TAU).exp_()
        on_rows[start : start + step] = weights.sum(1).log() + 1 / TAU
        sums += weights.sum(0)
    on_columns = sums.log() + 1 / TAU
    loss = (0.5 * (on_rows + on_columns) - (x * y).sum(1) / TAU).mean()

    def gradient(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
        logits = a[:rows] @ b.T / TAU
        weights = (logits - of_a[:rows, None]).exp() + (logits - of_b).exp()
        return (weights @ b / 2 - b[:rows]) / (TAU * n)

    return loss, gradient(x, y, on_rows, on_columns), gradient(y, x, on_columns, on_rows)


def close(found: Found, reference: Found, limit: float, who: str) -> None:
    for name, a, b in zip(("loss", "first", "second"), found, reference, strict=True):
        part = a if a.ndim == 0 else a[: len(b)]
        gap = float((part.double() - b).abs().max() / b.abs().max())
        if not gap < limit:
            raise WrongResult(f"{name} of {who} is off by {gap:.1e} of its size")


def library_product(side: int) -> Callable[[], Tensor]:
    """A plain product in bfloat16, of what the library is fastest at."""
    left = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    return lambda: left @ right


def compared(n: int, d: int) -> Iterator[Case]:
    """The cases in bfloat16 that share their inputs."""
    first, second = unit(n, d, torch.bfloat16, 0), unit(n, d, torch.bfloat16, 1)
    reference = exact(first, second, 512)

    def check(ours: Found, peer: Found) -> None:
        close(ours, reference, 2e-2, "ours")
        close(peer, reference, 1e-1, "the other side")

    def eager() -> Found:
        return contrast(first, second, by_eager)

    def kernel() -> Found:
        return contrast(first, second, by_kernel)

    for name, ours, measure, least, why in (
        ("time", kernel, cuda_seconds, 3.0, "no logits are written, nor read"),
        ("memory", kernel, cuda_peak_mib, 10.0, "a chunk of rows instead of several matrices"),
        (
            "objective",
            lambda: contrast(first, second, by_objective),
            cuda_seconds,
            2.5,
            "as time, beside the diagnostics and the pairs kept apart",
        ),
    ):
        yield Case(
            name=f"gpu/batch/{name}",
            ours=ours,
            peer=eager,
            peer_name="logits and cross_entropy twice",
            same=check,
            at_least=least,
            why=why,
            measure=measure,
            unit="MiB" if name == "memory" else "s",
        )
    side = 8192 if n > 8192 else 2048
    flops = 4 * 2 * n * n * d, 2 * side**3

    def rate(ours: float, peer: float) -> float:
        print(f"  {flops[0] / ours / 1e12:.0f} and {flops[1] / peer / 1e12:.0f} TFLOP/s")
        return (flops[0] / ours) / (flops[1] / peer)

    yield Case(
        name="gpu/batch/rate",
        ours=kernel,
        peer=library_product(side),
        peer_name=f"a bfloat16 product of {side}³, by rate",
        same=lambda ours, _: close(ours, reference, 2e-2, "ours"),
        at_least=0.6,
        why="two of four products are the library's",
        measure=cuda_seconds,
        rounds=9,
        combine=rate,
    )


def in_float32(n: int) -> Case:
    """Eager and ours, both in float32 without TF32."""
    first, second = unit(n, 256, torch.float32, 0), unit(n, 256, torch.float32, 1)
    reference = exact(first, second, 512)

    def check(ours: Found, peer: Found) -> None:
        close(ours, reference, 1e-5, "ours")
        close(peer, reference, 1e-4, "the other side")

    return Case(
        name="gpu/batch/float32",
        ours=lambda: contrast(first, second, by_kernel),
        peer=lambda: contrast(first, second, by_eager),
        peer_name="logits and cross_entropy twice",
        same=check,
        at_least=1.2,
        why="products in float32 on both sides",
        measure=cuda_seconds,
    )


def largest(n: int, d: int) -> Iterator[Case]:
    """What eager PyTorch cannot hold."""
    first, second = unit(n, d, torch.bfloat16, 0), unit(n, d, torch.bfloat16, 1)

    def ours() -> Found:
        return contrast(first, second, by_kernel)

    @torch.no_grad()
    def check(found: Found, _: object) -> None:
        rows, columns = symmetric_log_sum_exp(first, second, temperature=TAU, kernel="triton")
        x, y = first[:128].double(), second[:128].double()
        for name, mine, a, b in (
            ("rows", rows.log_sum_exp, x, second),
            ("columns", columns.log_sum_exp, y, first),
        ):
            wanted = torch.logsumexp(a @ b.double().T / TAU, 1)
            gap = float((mine[:128].double() - wanted).abs().max())
            if not gap < 2e-2:
                raise WrongResult(f"log-sum-exps of {name} are off by {gap:.1e}")
        logits = x @ second.double().T / TAU
        weights = (logits - rows.log_sum_exp[:128, None].double()).exp()
        weights += (logits - columns.log_sum_exp.double()).exp()
        wanted = (weights @ second.double() / 2 - second[:128].double()) / (TAU * n)
        gap = float((found[1][:128].double() - wanted).abs().max() / wanted.abs().max())
        if not gap < 2e-2:
            raise WrongResult(f"the gradient is off by {gap:.1e} of its size")

    for name, measure, peer, unit_name, what in (
        ("memory", cuda_peak_mib, 2048.0, "MiB", "2 GiB"),
        ("time", cuda_seconds, 1.0, "s", "a second"),
    ):

        def limited(measure=measure) -> tuple[float, Found]:
            return measure(ours)

        yield Case(
            name=f"gpu/batch/largest/{name}",
            ours=limited,
            peer=lambda peer=peer: (peer, None),
            peer_name=what,
            same=check,
            at_least=1.0,
            why="a chunk of rows, and sums in float32" if name == "memory" else "the same rate",
            measure=told,
            unit=unit_name,
        )


def cases(room: Path, quick: bool) -> Iterator[Case]:
    yield from compared(4096 if quick else 32768, 256)
    yield in_float32(2048 if quick else 8192)
    yield from largest(16384 if quick else 262144, 512)
