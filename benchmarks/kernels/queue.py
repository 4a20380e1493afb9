"""The two losses over a queue: ours against the few lines of PyTorch that everybody writes.

Compared: forward and backward, 256 queries and a queue of 65,536 keys of 128 dimensions in float32:

- ``info_nce`` against MoCo's own way: concatenate the positive logit and those of the queue, divide
  by the temperature, ``cross_entropy``;
- ``soft_nearest_neighbour`` against ``softmax(q @ queue.T / t) @ queue``, normalised.

Our side also returns accuracy, hardest negative and row counts, or log-sum-exp and entropy, which
the naive side does not compute. Memory is the most that tensors of the call hold at once.

Checked: equal values and gradients.

Expected: no slower, 1 (0.95 allows for the noise of the machine): today's implementation is plain
PyTorch too, which saves a copy of the logits, not the logits themselves; hence 1.5 in memory.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ratio import Case, WrongResult, peak_mib, seconds
from rhyme.objectives import info_nce, soft_nearest_neighbour

TAU = 0.07
CAUSES = {
    "info_nce/memory": "two matrices of 256 x 65,536 at once against three; the rest is the sums "
    "of rows for the diagnostics",
    "soft_neighbour/memory": "the backward pass holds weights, their gradient and one product, "
    "three matrices, as the other side does",
    "soft_neighbour/time": "probably (not taken apart) one more pass for the log-sum-exp and the "
    "entropy, and products in the backward pass that are not made in place",
}


def with_gradient(anchors: Tensor, value: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A scalar and its gradient for the anchors."""
    anchors = anchors.detach().requires_grad_()
    result = value(anchors)
    result.backward()
    assert anchors.grad is not None
    return result.detach(), anchors.grad


def naive_info_nce(anchors: Tensor, positives: Tensor, queue: Tensor) -> Tensor:
    positive = (anchors * positives).sum(1, keepdim=True)
    logits = torch.cat([positive, anchors @ queue.T], dim=1) / TAU
    return functional.cross_entropy(logits, torch.zeros(len(anchors), dtype=torch.int64))


def naive_neighbour(anchors: Tensor, queue: Tensor) -> Tensor:
    weights = torch.softmax(anchors @ queue.T / TAU, dim=1)
    return functional.normalize(weights @ queue, dim=1)


def agree(ours: tuple[Tensor, Tensor], peer: tuple[Tensor, Tensor]) -> None:
    for name, a, b in zip(("value", "gradient"), ours, peer, strict=True):
        gap = float((a - b).abs().max() / b.abs().max())
        if not gap < 1e-4:
            raise WrongResult(f"the {name} differs by {gap:.1e} of its size")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    b, k, d = (64, 8192, 128) if quick else (256, 65536, 128)
    generator = torch.Generator().manual_seed(0)

    def unit(rows: int) -> Tensor:
        return functional.normalize(torch.randn(rows, d, generator=generator), dim=1)

    anchors, positives, queue, back = unit(b), unit(b), unit(k), unit(b)
    pairs: dict[str, tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "info_nce": (
            "cat + cross_entropy",
            lambda a: info_nce(a, positives, queue, temperature=TAU).values.mean(),
            lambda a: naive_info_nce(a, positives, queue),
        ),
        "soft_neighbour": (
            "softmax @ queue",
            lambda a: (soft_nearest_neighbour(a, queue, temperature=TAU).neighbour * back).sum(),
            lambda a: (naive_neighbour(a, queue) * back).sum(),
        ),
    }
    for name, (peer_name, mine, naive) in pairs.items():
        for what, measure, unit_name, floor, why in (
            ("time", seconds, "s", 0.95, "the same matrix products on both sides"),
            ("memory", peak_mib, "MiB", 1.5, "logits and weights are not kept twice"),
        ):
            yield Case(
                name=f"kernels/queue/{name}/{what}",
                ours=lambda mine=mine: with_gradient(anchors, mine),
                peer=lambda naive=naive: with_gradient(anchors, naive),
                peer_name=peer_name,
                same=agree,
                at_least=floor,
                why=why,
                cause=CAUSES.get(f"{name}/{what}", ""),
                measure=measure,
                unit=unit_name,
                rounds=7 if what == "time" else 5,
            )
