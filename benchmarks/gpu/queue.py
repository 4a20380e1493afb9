"""A queue on a GPU: the kernels in Triton against plain PyTorch, forward and backward.

Compared: 256 queries (2048 where so named) and 65,536 keys of 128 dimensions, forward and backward:

- ``soft_neighbour``: against ``softmax(q @ queue.T / t) @ queue``, in float32 as the systems hold
  their queues, and in bfloat16; ``masked``: each query leaves its own group out, on the other side
  by ``masked_fill``; ``sdpa``: against ``scaled_dot_product_attention``, which has gradients for
  keys and values to compute as well;
- ``log_sum_exp``: against ``logsumexp(q @ queue.T / t)``, MoCo's negatives;
- ``wall``: the same as ``soft_neighbour/float32`` by the host's clock, one call at a time.

Time is that on the GPU, with the host ahead. Memory is the most that a call holds.

Checked: values and gradients of both sides against float64, to 1e-5 in float32 and 2e-2 in
bfloat16.

Expected: 4 in float32, for the other side moves the 67 MB of its logits a dozen times; in bfloat16,
where it moves half of that, 4 as well, since products take a fifth of the time; 1.3 against the
attention call; 10 in memory. By the host's clock 2: a call costs the host more than the GPU.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ratio import Case, WrongResult, cuda_peak_mib, cuda_seconds, seconds
from rhyme.kernels import queue_log_sum_exp, soft_neighbour

TAU = 0.07
Pair = tuple[Tensor, Tensor]


def unit(rows: int, d: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Rows of length one, drawn on the CPU."""
    draw = torch.randn(rows, d, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(draw, dim=1).to("cuda", dtype)


def with_gradient(queries: Tensor, value: Callable[[Tensor], Tensor], back: Tensor) -> Pair:
    """A result, and the gradient of its inner product with ``back`` for the queries."""
    queries = queries.detach().requires_grad_()
    found = value(queries)
    (gradient,) = torch.autograd.grad(found, queries, back.to(found.dtype))
    return found.detach(), gradient


def agree(reference: Pair, limit: float) -> Callable[[Pair, Pair], None]:
    """Both sides lie by float64; ours as exactly as promised."""

    def check(ours: Pair, peer: Pair) -> None:
        for side, found, most in (("ours", ours, limit), ("the other side", peer, 5 * limit)):
            for name, a, b in zip(("value", "gradient"), found, reference, strict=True):
                gap = float((a.double() - b).abs().max() / b.abs().max())
                if not gap < most:
                    raise WrongResult(f"the {name} of {side} is off by {gap:.1e} of its size")

    return check


def attention(q: Tensor, keys: Tensor) -> Tensor:
    found = functional.scaled_dot_product_attention(
        q[None, None], keys[None, None], keys[None, None], scale=1 / TAU
    )
    return found[0, 0]


def cases(room: Path, quick: bool) -> Iterator[Case]:
    d, n = 128, 8192 if quick else 65536
    groups = torch.arange(n, device="cuda") // 32
    # dtype, queries, form, other side, measure, expected, why
    plan = [
        (torch.float32, 256, "", "eager", cuda_seconds, 4.0, "logits are not moved a dozen times"),
        (torch.bfloat16, 256, "", "eager", cuda_seconds, 4.0, "no logits, and matrix units"),
        (torch.float32, 256, "masked", "eager", cuda_seconds, 4.0, "no logits and no mask"),
        (torch.float32, 256, "memory", "eager", cuda_peak_mib, 10.0, "no matrix of logits"),
        (torch.bfloat16, 2048, "", "eager", cuda_seconds, 4.0, "no logits, and matrix units"),
        (torch.bfloat16, 2048, "", "sdpa", cuda_seconds, 1.3, "three products instead of five"),
        (torch.float32, 256, "wall", "eager", seconds, 2.0, "the host's share is alike"),
    ]
    for dtype, b, form, other, measure, least, why in plan:
        b = min(b, 128) if quick else b
        q, keys, back = unit(b, d, dtype, 0), unit(n, d, dtype, 1), unit(b, d, torch.float32, 2)
        own = torch.arange(b, device="cuda") if form == "masked" else None
        pairs = None if own is None else own[:, None] == groups

        def ours(q=q, keys=keys, back=back, own=own) -> Pair:
            options = {} if own is None else {"query_groups": own, "support_groups": groups}
            return with_gradient(
                q,
                lambda x: soft_neighbour(x, keys, temperature=TAU, kernel="triton", **options).mean,
                back,
            )

        def plain(q=q, keys=keys, back=back, pairs=pairs) -> Pair:
            def value(x: Tensor) -> Tensor:
                logits = x @ keys.to(x.dtype).T / TAU
                if pairs is not None:
                    logits = logits.masked_fill(pairs, -math.inf)
                return torch.softmax(logits, 1) @ keys.to(x.dtype)

            return with_gradient(q, value, back)

        def by_attention(q=q, keys=keys, back=back) -> Pair:
            kept = keys.detach().requires_grad_()
            return with_gradient(q, lambda x: attention(x, kept), back)

        def timed(side: Callable[[], Pair]) -> Callable[[], Pair]:
            def call() -> Pair:
                found = side()
                torch.cuda.synchronize()
                return found

            return call

        reference = plain(q.double(), keys, back.double(), pairs)
        limit = 1e-5 if dtype is torch.float32 else 2e-2
        peer = by_attention if other == "sdpa" else plain
        kind = "float32" if dtype is torch.float32 else "bfloat16"
        parts = ["gpu/queue/soft_neighbour", kind, *([str(b)] if b > 256 else [])]
        parts += [word for word in (form, "" if other == "eager" else other) if word]
        yield Case(
            name="/".join(parts),
            ours=timed(ours) if form == "wall" else ours,
            peer=timed(peer) if form == "wall" else peer,
            peer_name="attention of PyTorch" if other == "sdpa" else "softmax(q @ queue.T) @ queue",
            same=agree(reference, limit),
            at_least=least,
            why=why,
            measure=measure,
            unit="MiB" if form == "memory" else "s",
            rounds=9,
        )
        del reference
    yield from log_sum_exp(quick, n, d)


def log_sum_exp(quick: bool, n: int, d: int) -> Iterator[Case]:
    """Negatives of MoCo."""
    b = 128 if quick else 256
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        q, keys = unit(b, d, dtype, 0), unit(n, d, dtype, 1)
        back = torch.ones(b, device="cuda")

        def plain(q=q, keys=keys, back=back) -> Pair:
            return with_gradient(
                q, lambda x: torch.logsumexp(x @ keys.to(x.dtype).T / TAU, 1), back
            )

        def ours(q=q, keys=keys, back=back) -> Pair:
            return with_gradient(
                q,
                lambda x: queue_log_sum_exp(x, keys, temperature=TAU, kernel="triton").log_sum_exp,
                back,
            )

        yield Case(
            name=f"gpu/queue/log_sum_exp/{'float32' if limit < 1e-3 else 'bfloat16'}",
            ours=ours,
            peer=plain,
            peer_name="logsumexp(q @ queue.T)",
            same=agree(plain(q.double(), keys, back.double()), limit),
            at_least=4.0,
            why="one pass over the queue, and no backward pass",
            measure=cuda_seconds,
            rounds=9,
        )
