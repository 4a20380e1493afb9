"""Exact nearest neighbours: ``kernels.top_k`` against the full matrix of scores.

Compared: the 10 nearest of 100,000 rows of 128 dimensions for 2,000 queries, in float32. The peers:
``torch.topk`` on the whole matrix of scores, and NumPy's ``argpartition`` in blocks of 250 queries
(on the whole matrix it would hold 2.4 GB). Ours orders equal scores by index and keeps memory
bounded; the peers promise neither.

Checked: the same rows in the same order for all queries (random vectors have no equal scores that
matter; places whose scores differ by rounding alone may be exchanged).

Expected: no slower than ``torch.topk`` (0.95 allows for noise), 2 times NumPy, a fifth of the
memory of the whole matrix.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ratio import Case, WrongResult, peak_mib, seconds
from rhyme.kernels import top_k

K = 10
TIES = (
    "probably (not taken apart) the merge of the chunks' best: each chunk is selected and sorted "
    "anew, and its neighbours are joined with those found before"
)

Found = tuple[Tensor, Tensor]


def by_torch(queries: Tensor, bank: Tensor) -> Found:
    scores, indices = (queries @ bank.T).topk(K, dim=1)
    return scores, indices


def by_numpy(queries: np.ndarray, bank: np.ndarray) -> Found:
    scores, indices = [], []
    for at in range(0, len(queries), 250):
        block = queries[at : at + 250] @ bank.T
        some = np.argpartition(block, -K, axis=1)[:, -K:]
        values = np.take_along_axis(block, some, axis=1)
        order = np.argsort(-values, axis=1)
        scores.append(np.take_along_axis(values, order, axis=1))
        indices.append(np.take_along_axis(some, order, axis=1))
    return torch.from_numpy(np.concatenate(scores)), torch.from_numpy(np.concatenate(indices))


def agree(ours: Found, peer: Found) -> None:
    if not torch.allclose(ours[0], peer[0], atol=1e-4):
        raise WrongResult("scores differ")
    close = (ours[0][:, :-1] - ours[0][:, 1:]).abs() < 1e-4
    tied = torch.zeros_like(ours[1], dtype=torch.bool)
    tied[:, :-1] |= close
    tied[:, 1:] |= close
    tied[:, -1] = True  # its rival may be the first row left out
    if bool(((ours[1] != peer[1]) & ~tied).any()):
        raise WrongResult("rows differ where scores do not tie")


def cases(room: Path, quick: bool) -> Iterator[Case]:
    b, n = (200, 20_000) if quick else (2_000, 100_000)
    generator = torch.Generator().manual_seed(0)
    queries, bank = (torch.randn(rows, 128, generator=generator) for rows in (b, n))
    arrays = queries.numpy(), bank.numpy()

    def ours() -> Found:
        found = top_k(queries, bank, K)
        return found.scores, found.indices

    yield Case(
        name="kernels/nearest/torch/time",
        ours=ours,
        peer=lambda: by_torch(queries, bank),
        peer_name="torch.topk, whole matrix",
        same=agree,
        at_least=0.95,
        why="the same product; the choice among 16,384 at a time against 100,000",
        cause=TIES,
        measure=seconds,
    )
    yield Case(
        name="kernels/nearest/torch/memory",
        ours=ours,
        peer=lambda: by_torch(queries, bank),
        peer_name="torch.topk, whole matrix",
        same=agree,
        at_least=5.0,
        why="1,024 x 16,384 scores at a time",
        cause=TIES,
        measure=peak_mib,
        unit="MiB",
    )
    yield Case(
        name="kernels/nearest/numpy/time",
        ours=ours,
        peer=lambda: by_numpy(*arrays),
        peer_name="NumPy argpartition",
        same=agree,
        at_least=2.0,
        why="argpartition works on one thread and moves 8-byte indices",
        cause=TIES,
    )
