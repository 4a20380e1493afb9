"""The product under the kernels: ``kernels.product`` against ``torch.mm``, float32 on a CPU.

Compared, at the sizes that the kernels walk in: a tile of 512 x 512 logits of 128 dimensions, 64
times; and a chunk of 4,096 queries with 1,024 rows of 512 dimensions. PyTorch's side writes into
memory that is there.

Checked: equal to 1e-4.

Expected: 1.5 where MKL holds back, which is what the choice of oneDNN rests on; elsewhere both
sides are the same.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ratio import Case, WrongResult
from rhyme.kernels.product import by_onednn, inner


def agree(ours: Tensor, peer: Tensor) -> None:
    if not torch.allclose(ours, peer, rtol=0, atol=1e-4 * float(peer.abs().max())):
        raise WrongResult("the products differ")


def repeated(product: Callable[[], Tensor], times: int) -> Callable[[], Tensor]:
    """The product so many times, and the last result."""

    def run() -> Tensor:
        for _ in range(times - 1):
            product()
        return product()

    return run


def cases(room: Path, quick: bool) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    chosen = by_onednn(torch.empty(1))
    for name, m, n, d, times in (("tile", 512, 512, 128, 64), ("chunk", 4096, 1024, 512, 4)):
        if quick:
            m, n, times = m // 8, n // 8, 1
        left, right = (torch.randn(rows, d, generator=generator) for rows in (m, n))
        yield Case(
            name=f"kernels/product/{name}",
            ours=repeated(partial(inner, left, right, torch.empty(m, n)), times),
            peer=repeated(partial(torch.mm, left, right.T, out=torch.empty(m, n)), times),
            peer_name="torch.mm",
            same=agree,
            at_least=1.5 if chosen else 0.95,
            why="AVX-512 against AVX2" if chosen else "the same product: MKL is not held back here",
            rounds=7,
        )
