"""Contrast within a batch: ours against the few lines of PyTorch that everybody writes.

Compared: forward and backward, 128 dimensions, float32, with the gradient of both sides:

- ``symmetric``, ``info_nce_symmetric`` of 8,192 and of 16,384 pairs against CLIP's own way:
  ``logits = a @ b.T / t``, then the mean of ``cross_entropy`` of the logits and of their transpose;
- ``nt_xent`` of 4,096 pairs against SimCLR's: all views in one matrix, its diagonal at −inf,
  ``cross_entropy``;
- ``local``, ``info_nce_in_batch`` of 2,048 anchors among 16,384 keys, as one rank of eight sees
  them, against ``cross_entropy`` of ``anchors @ keys.T / t``.

Our side also returns accuracy, hardest negative and row counts, which the plain side does not
compute. Memory is the most that tensors of the call hold at once, the gradients included.

Checked: equal values and gradients.

Expected: we make four matrix products of the size of the logits, the plain side three; but it
goes through main memory with the logits a dozen times, and we never leave the cache. That is worth
2.4 at 8,192 pairs. At 16,384 a matrix has 1 GiB, and most of the time goes to memory being mapped:
5. NT-Xent's matrix is its own transpose, so we make half of each product: 4. Of one direction there
is less to save, half as many passes over the logits: 1.5. What we hold grows with the rows, what
the plain side holds with the pairs: 10 times less at 8,192, 15 at 16,384.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ratio import Case, Side, WrongResult, peak_mib, seconds
from rhyme.objectives import info_nce_in_batch, info_nce_symmetric, nt_xent

TAU = 0.07
CAUSE = "four matrix products, which take four fifths of our time, against three"

Loss = Callable[[Tensor, Tensor], Tensor]
Found = tuple[Tensor, Tensor, Tensor]


def clip(first: Tensor, second: Tensor) -> Tensor:
    logits = first @ second.T / TAU
    own = torch.arange(len(logits))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def simclr(first: Tensor, second: Tensor) -> Tensor:
    views = torch.cat([first, second])
    logits = (views @ views.T / TAU).fill_diagonal_(-torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(views)).roll(len(first)))


def one_way(anchors: Tensor, keys: Tensor) -> Tensor:
    return functional.cross_entropy(anchors @ keys.T / TAU, torch.arange(len(anchors)))


def local(anchors: Tensor, keys: Tensor) -> Tensor:
    own = torch.arange(len(anchors))
    return info_nce_in_batch(anchors, keys, own, temperature=TAU).values.mean()


def side(loss: Loss, first: Tensor, second: Tensor) -> Side:
    """The loss and both gradients."""

    def call() -> Found:
        leaves = [x.detach().requires_grad_() for x in (first, second)]
        value = loss(*leaves)
        return value.detach(), *torch.autograd.grad(value, leaves)

    return call


def agree(ours: Found, peer: Found) -> None:
    for name, a, b in zip(("value", "first", "second"), ours, peer, strict=True):
        gap = float((a - b).abs().max() / b.abs().max())
        if not gap < 1e-5:
            raise WrongResult(f"{name}: differs by {gap:.1e} of its size")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    shrink = 16 if quick else 1

    def unit(rows: int) -> Tensor:
        drawn = torch.randn(rows // shrink, 128, generator=generator)
        return functional.normalize(drawn, dim=1)

    def both(a: Tensor, b: Tensor) -> Tensor:
        return info_nce_symmetric(a, b, temperature=TAU).values.mean()

    def views(a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, temperature=TAU).values.mean()

    pairs: list[tuple[str, Loss, Loss, int, int, float, float, int]] = [
        ("symmetric_8192", both, clip, 8192, 8192, 2.4, 10, 5),
        ("symmetric_16384", both, clip, 16384, 16384, 5, 15, 3),
        ("nt_xent_4096", views, simclr, 4096, 4096, 4, 10, 5),
        ("local_2048_of_16384", local, one_way, 2048, 16384, 1.5, 5, 5),
    ]
    for name, mine, plain, b, n, time, memory, rounds in pairs:
        first, second = unit(b), unit(n)
        sides = [side(loss, first, second) for loss in (mine, plain)]
        for what, measure, unit_name, floor, why in (
            ("time", seconds, "s", time, "logits stay in the cache"),
            ("memory", peak_mib, "MiB", memory, "a tile of the logits at a time"),
        ):
            yield Case(
                name=f"kernels/batch/{name}/{what}",
                ours=sides[0],
                peer=sides[1],
                peer_name="logits + cross_entropy",
                same=agree,
                at_least=floor,
                why=why,
                cause=CAUSE if what == "time" else "",
                measure=measure,
                unit=unit_name,
                rounds=rounds if what == "time" else 1,  # the same tensors every time
            )
