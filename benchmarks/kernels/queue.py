"""The two losses over a queue: ours against the few lines of PyTorch that everybody writes.

Compared: forward and backward, 256 queries and a queue of 65,536 keys of 128 dimensions in float32:

- ``info_nce`` against MoCo's own way: concatenate the positive logit and those of the queue, divide
  by the temperature, ``cross_entropy``;
- ``soft_neighbour`` against ``softmax(q @ queue.T / t) @ queue``, normalised;
- both ``masked``: keys of the query's own video are left out. 16,384 videos have four keys each in
  the queue. The peer compares owners, ``[b, n]``, and fills the logits with −inf.

Our side also returns accuracy, hardest negative and row counts, or log-sum-exp and entropy, which
the naive side does not compute. Memory is the most that tensors of the call hold at once.

Checked: equal values and gradients.

Expected on two cores, in time: 4 for InfoNCE, whose backward pass is gone (two products against
four, and no matrix written), 3 masked; 2.2 for the soft neighbour (five products against four, but
in the cache), 2 masked. In memory: the peer holds at least two matrices of 64 MiB. Ours must stay
below a tenth of one, 6.4 MiB, so the expectation is 20.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ratio import Case, WrongResult, peak_mib, seconds
from rhyme.objectives import info_nce, soft_nearest_neighbour

TAU = 0.07
KEYS_OF_A_VIDEO = 4
FIVE = (
    "ours makes five products, since weights are computed again in the backward pass, the other "
    "side four; where both sides' products are as fast, that leaves little for what the cache saves"
)
WHY = {
    "info_nce": (4.0, "one pass, the mean it makes is the gradient; logits stay in the cache"),
    "info_nce/masked": (3.0, "the same, and pairs are found by sorting owners"),
    "soft_neighbour": (2.2, "five products against four, but no matrix is written or read"),
    "soft_neighbour/masked": (2.0, "the same, and pairs are found by sorting owners"),
}


def with_gradient(anchors: Tensor, value: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A scalar and its gradient for the anchors."""
    anchors = anchors.detach().requires_grad_()
    result = value(anchors)
    result.backward()
    assert anchors.grad is not None
    return result.detach(), anchors.grad


def similarities(anchors: Tensor, queue: Tensor, *owners: Tensor) -> Tensor:
    """The whole matrix; −inf where owners, if given for both sides, are equal."""
    found = anchors @ queue.T
    if owners:
        found = found.masked_fill(owners[0][:, None] == owners[1], -torch.inf)
    return found


def naive_info_nce(anchors: Tensor, positives: Tensor, queue: Tensor, *owners: Tensor) -> Tensor:
    positive = (anchors * positives).sum(1, keepdim=True)
    logits = torch.cat([positive, similarities(anchors, queue, *owners)], dim=1) / TAU
    return functional.cross_entropy(logits, torch.zeros(len(anchors), dtype=torch.int64))


def naive_neighbour(anchors: Tensor, queue: Tensor, *owners: Tensor) -> Tensor:
    weights = torch.softmax(similarities(anchors, queue, *owners) / TAU, dim=1)
    return functional.normalize(weights @ queue, dim=1)


def agree(ours: tuple[Tensor, Tensor], peer: tuple[Tensor, Tensor]) -> None:
    for name, a, b in zip(("value", "gradient"), ours, peer, strict=True):
        gap = float((a - b).abs().max() / b.abs().max())
        if not gap < 1e-4:
            raise WrongResult(f"the {name} differs by {gap:.1e} of its size")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    b, n, d = (64, 8192, 128) if quick else (256, 65536, 128)
    generator = torch.Generator().manual_seed(0)

    def unit(rows: int) -> Tensor:
        return functional.normalize(torch.randn(rows, d, generator=generator), dim=1)

    anchors, positives, queue, back = unit(b), unit(b), unit(n), unit(b)
    videos = n // KEYS_OF_A_VIDEO
    owners = torch.arange(n)[torch.randperm(n, generator=generator)] % videos
    own = torch.randint(0, videos, (b,), generator=generator)

    def nce(a: Tensor, *groups: Tensor) -> Tensor:
        names = dict(zip(("anchor_groups", "negative_groups"), groups, strict=False))
        return info_nce(a, positives, queue, temperature=TAU, **names).values.mean()

    def neighbour(a: Tensor, *groups: Tensor) -> Tensor:
        names = dict(zip(("anchor_groups", "support_groups"), groups, strict=False))
        return soft_nearest_neighbour(a, queue, temperature=TAU, **names).neighbour

    pairs: dict[str, tuple[str, Callable[..., Tensor], Callable[..., Tensor]]] = {
        "info_nce": (
            "cat + cross_entropy",
            nce,
            lambda a, *groups: naive_info_nce(a, positives, queue, *groups),
        ),
        "soft_neighbour": (
            "softmax @ queue",
            lambda a, *groups: (neighbour(a, *groups) * back).sum(),
            lambda a, *groups: (naive_neighbour(a, queue, *groups) * back).sum(),
        ),
    }
    for name, (peer_name, mine, naive) in pairs.items():
        for kind, groups in (("", ()), ("/masked", (own, owners))):
            ratio, why = WHY[name + kind]
            for what, measure, unit_name, floor, reason in (
                ("time", seconds, "s", ratio, why),
                ("memory", peak_mib, "MiB", 20.0, "a block of logits against whole matrices"),
            ):
                yield Case(
                    name=f"kernels/queue/{name}{kind}/{what}",
                    ours=lambda f=mine, g=groups: with_gradient(anchors, lambda a: f(a, *g)),
                    peer=lambda f=naive, g=groups: with_gradient(anchors, lambda a: f(a, *g)),
                    peer_name=peer_name if not kind else f"{peer_name}, owners compared",
                    same=agree,
                    at_least=floor,
                    why=reason,
                    measure=measure,
                    unit=unit_name,
                    cause=FIVE if name == "soft_neighbour" else "",
                    rounds=7 if what == "time" else 5,
                )
