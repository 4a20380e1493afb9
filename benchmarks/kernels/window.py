"""Windowed affinity: ``kernels.windowed_affinity`` against the masked form found everywhere.

Compared: one frame of a 480p video on a grid of 60 x 107 against 20 frames with a disk of radius 12
and the first frame without a window; 10 keys a position; temperature 0.05; float32. The peer slices
100 queries at a time, multiplies them with all positions of all 21 frames, adds -1e10 outside of
the disk, takes ``topk`` and a softmax. The widths: 512, the last stage of a ResNet-18, the widest
that is propagated with; and 128, where the choice weighs more. Features resemble each other at the
same place, as those of a video do. Memory is compared with the same form on all queries at once, on
4 frames and the first, which leaves room on a small machine; it grows with the number of frames on
both sides.

Checked: the same 10 keys in the same order for every position (two whose scores differ by rounding
alone may be exchanged, below 1 in 1,000), and their weights.

Expected: 5 times faster, since a window holds a seventh of the keys and a tile of 8 x 8 windows
little more; a seventh of the memory.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.ratio import Case, WrongResult, peak_mib
from rhyme.kernels import Window, windowed_affinity

K, RADIUS, TAU = 10, 12, 0.05
Found = tuple[Tensor, Tensor, Tensor]
ROUNDING = 2e-6  # of a product of unit vectors


def dense(query: Tensor, context: Tensor, rows: int) -> Found:
    """Scores, indices and weights, ``rows`` queries at a time against every position."""
    t, h, w, d = context.shape
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w)).float()
    queries, keys = query.view(-1, d), context.view(-1, d)
    kept, indices, weights = [], [], []
    for at in range(0, len(queries), rows):
        affinity = (queries[at : at + rows] @ keys.T).view(-1, t, h * w)
        outside = torch.cdist(place[at : at + rows], place) >= RADIUS
        affinity[:, 1:] += outside.float()[:, None] * -1e10
        scores, found = affinity.view(-1, t * h * w).topk(K, dim=1)
        kept.append(scores)
        indices.append(found)
        weights.append(torch.softmax(scores / TAU, dim=1))
    return torch.cat(kept), torch.cat(indices), torch.cat(weights)


def ours(query: Tensor, context: Tensor) -> Found:
    found = windowed_affinity(query, context, K, temperature=TAU, window=Window(RADIUS), whole=[0])
    return found.scores.view(-1, K), found.indices.view(-1, K), found.weights.view(-1, K)


def agree(ours: Found, peer: Found) -> None:
    if not torch.allclose(ours[0], peer[0], rtol=0, atol=ROUNDING):
        raise WrongResult("scores differ")
    close = (ours[0][:, :-1] - ours[0][:, 1:]) < ROUNDING
    tied = torch.zeros_like(ours[1], dtype=torch.bool)
    tied[:, :-1] |= close
    tied[:, 1:] |= close
    differ = ours[1] != peer[1]
    # the last key's rival may be the first one left out
    if bool((differ & ~tied)[:, :-1].any()) or float(differ.float().mean()) > 1e-3:
        raise WrongResult("keys differ where scores do not tie")
    if not torch.allclose(ours[2], peer[2], atol=1e-4):
        raise WrongResult("weights differ")


def features(t: int, h: int, w: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(h, w, d, generator=generator)

    def frames(*shape: int) -> Tensor:
        noise = torch.randn(*shape, h, w, d, generator=generator)
        return functional.normalize(shared + noise, dim=-1)

    return frames(), frames(t)


def cases(room: Path, quick: bool) -> Iterator[Case]:
    h, w = (30, 40) if quick else (60, 107)
    for d in (512, 128):
        query, context = features(3 if quick else 21, h, w, d)
        yield Case(
            name=f"kernels/window/{d}/time",
            ours=lambda query=query, context=context: ours(query, context),
            peer=lambda query=query, context=context: dense(query, context, 100),
            peer_name="all positions, masked",
            same=agree,
            at_least=5.0,
            why="a seventh of the product, and no choice among 134,820",
        )
        del query, context
    query, context = features(3 if quick else 5, h, w, 128)
    yield Case(
        name="kernels/window/128/memory",
        ours=lambda: ours(query, context),
        peer=lambda: dense(query, context, h * w),
        peer_name="all positions, masked, at once",
        same=agree,
        at_least=7.0,
        why="a copy of the windowed frames and the scores of one tile",
        measure=peak_mib,
        unit="MiB",
        rounds=2 if quick else 5,
    )
