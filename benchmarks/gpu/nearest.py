"""Exact nearest neighbours on a GPU: of features, and of positions within a window.

Compared: ``top_k``: 20 neighbours of 10,240 queries in a bank of 327,680 rows of 512 dimensions in
float32, with equal scores in order of index: against the plain products and ``topk`` of PyTorch, in
chunks of about the same size. ``window``: the 10 best keys within 12 cells in 7 frames, and in the
whole of one more, for each position of a grid of 60 x 107 with 512 dimensions, against all
products, of which most are then masked, and ``topk``.

Checked: the same scores to 1e-5, and the same neighbours wherever scores are not that close.

Expected: 0.95, for both sides make the same products, and ours orders equal scores besides. 1.0 for
the window: a sixth of the products, and a few hundred launches instead of four.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.queue import unit
from benchmarks.ratio import Case, WrongResult, cuda_seconds
from rhyme.kernels import top_k
from rhyme.kernels.window import Affinity, Window, windowed_affinity

K = 20
RADIUS = 12


def plain(queries: Tensor, bank: Tensor, rows: int = 1024, keys: int = 16384) -> Tensor:
    found = []
    for some in queries.split(rows):
        best = torch.empty(len(some), 0, device=some.device)
        for part in bank.split(keys):
            best = torch.cat([best, (some @ part.T).topk(K, 1).values], 1).topk(K, 1).values
        found.append(best)
    return torch.cat(found)


def dense(query: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """All products, then those beyond the window masked in all frames but the first."""
    h, w, d = query.shape
    scores = (query.view(-1, d) @ context.view(-1, d).T).view(h * w, len(context), h * w)
    y, x = (torch.arange(n, device=query.device) for n in (h, w))
    place = torch.cartesian_prod(y, x)
    offset = place[:, None] - place[None]
    far = offset.square().sum(2) >= RADIUS**2
    scores[:, 1:].masked_fill_(far[:, None], -torch.inf)
    found = scores.view(h * w, -1).topk(10, 1)
    return found.values, found.indices


def window(quick: bool) -> Case:
    """Affinity of a frame with 8 others."""
    h, w, d = (20, 27, 64) if quick else (60, 107, 512)
    query = unit(h * w, d, torch.float32, 0).view(h, w, d)
    context = unit(8 * h * w, d, torch.float32, 1).view(8, h, w, d)

    def ours() -> Affinity:
        return windowed_affinity(
            query, context, 10, temperature=0.07, window=Window(RADIUS), whole=[0]
        )

    def same(found: Affinity, other: tuple[Tensor, Tensor]) -> None:
        if not torch.allclose(found.scores.view(h * w, -1), other[0], atol=1e-5):
            raise WrongResult("the scores differ")
        keys = context.view(-1, d)[found.indices.view(h * w, -1)[:64]]
        own = (query.view(-1, 1, d)[:64] * keys).sum(2)
        if not torch.allclose(own, found.scores.view(h * w, -1)[:64], atol=1e-5):
            raise WrongResult("the indices are not those of the scores")

    return Case(
        name="gpu/nearest/window",
        ours=ours,
        peer=lambda: dense(query, context),
        peer_name="all products, mask and topk",
        same=same,
        at_least=1.0,
        why="most products lie outside of the window",
        measure=cuda_seconds,
    )


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
    yield window(quick)
