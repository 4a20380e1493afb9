"""Exact nearest neighbours on a GPU, at a share of the size of ImageNet.

Compared: 20 neighbours of 10,240 queries in a bank of 327,680 rows of 512 dimensions in float32,
with equal scores in order of index: against the plain products and ``topk`` of PyTorch, in chunks
of the same size.

Checked: the same scores to 1e-5, and the same neighbours wherever scores are not that close.

Expected: 0.95, for both sides make the same products, and ours orders equal scores besides.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.queue import unit
from benchmarks.ratio import Case, WrongResult, cuda_seconds
from rhyme.kernels import top_k

K = 20


def plain(queries: Tensor, bank: Tensor, rows: int = 1024, keys: int = 16384) -> Tensor:
    found = []
    for some in queries.split(rows):
        best = torch.empty(len(some), 0, device=some.device)
        for part in bank.split(keys):
            best = torch.cat([best, (some @ part.T).topk(K, 1).values], 1).topk(K, 1).values
        found.append(best)
    return torch.cat(found)


def cases(room: Path, quick: bool) -> Iterator[Case]:
    b, n, d = (1024, 20_000, 64) if quick else (10_240, 327_680, 512)
    queries, bank = unit(b, d, torch.float32, 0), unit(n, d, torch.float32, 1)

    def same(ours: tuple[Tensor, Tensor], scores: Tensor) -> None:
        if not torch.allclose(ours[0], scores, atol=1e-5):
            raise WrongResult("the scores differ")
        own = (queries[:64, None] * bank[ours[1][:64]]).sum(2)
        if not torch.allclose(own, ours[0][:64], atol=1e-5):
            raise WrongResult("the indices are not those of the scores")

    yield Case(
        name="gpu/nearest/top_k",
        ours=lambda: tuple(top_k(queries, bank, K)),
        peer=lambda: plain(queries, bank),
        peer_name="products and topk in chunks",
        same=same,
        at_least=0.95,
        why="the same products",
        measure=cuda_seconds,
    )
