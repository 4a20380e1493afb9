"""Exact nearest neighbours and k-means: ``kernels.top_k`` and ``kernels.kmeans``.

Compared, in float32 on the same threads:

- the 10 nearest of 100,000 rows of 512 dimensions for 50,000 queries, against FAISS
  ``IndexFlatIP``;
- the same for 500 queries against usearch's exact search, which would take a quarter of an hour
  for all;
- 2,000 queries and 128 dimensions, where the choice weighs more, against ``torch.topk`` on the
  whole matrix of scores, in time and memory, and against NumPy's ``argpartition`` in blocks;
- k-means of 100,000 points of 128 dimensions into 256 clusters, 10 iterations from the same
  centres, against scikit-learn (Lloyd) and ``faiss.Kmeans``.

Ours orders equal scores by index and keeps memory bounded; the peers do not promise both. A peer
that is not installed is left out, and the run says so.

Checked: the same rows in the same order for all queries (places whose scores differ by rounding
alone may be exchanged); the same inertia to 1e-4, and 95 % of the assignments (rounding moves a
point between clusters, which moves its centre, which moves others).

FAISS brings a library of products that chooses its code by the processor's name. One that is newer
than the library gets the plainest, at a third of the speed, where ``OPENBLAS_CORETYPE`` does not
name another by hand.

Expected: 0.95 of FAISS, whose product is the same and whose choice is a heap in C++; 2 times
usearch, which takes a dot product at a time; no slower than ``torch.topk`` (0.95 allows for noise),
2 times NumPy, a fifth of the memory of the whole matrix; k-means 0.9 of scikit-learn and FAISS: the
product is the same, but the nearest centre takes a second look at the scores.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ratio import Case, WrongResult, peak_mib
from rhyme.kernels import kmeans, top_k

K, CLUSTERS, STEPS = 10, 256, 10
CHOICE = "what follows the product is a dozen small operations a chunk instead of one loop"
PRODUCT = (
    "the product is four fifths of our time; what FAISS's takes depends on the code that its "
    "library picks for the processor"
)
Found = tuple[Tensor, Tensor]
Clusters = tuple[Tensor, float]


def installed(module: str) -> bool:
    if importlib.util.find_spec(module) is not None:
        return True
    print(f"kernels/nearest: {module} is left out: not installed (make bench)", file=sys.stderr)
    return False


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


def by_usearch(queries: np.ndarray, bank: np.ndarray) -> Found:
    from usearch.index import MetricKind, search

    found = search(bank, queries, K, MetricKind.IP, exact=True, threads=torch.get_num_threads())
    keys = np.asarray(found.keys).reshape(len(queries), K).astype(np.int64)
    distances = np.asarray(found.distances).reshape(len(queries), K)
    return torch.from_numpy(1 - distances), torch.from_numpy(keys)


def agree(ours: Found, peer: Found) -> None:
    if not torch.allclose(ours[0], peer[0], atol=1e-3):
        raise WrongResult("scores differ")
    close = (ours[0][:, :-1] - ours[0][:, 1:]).abs() < 1e-3
    tied = torch.zeros_like(ours[1], dtype=torch.bool)
    tied[:, :-1] |= close
    tied[:, 1:] |= close
    tied[:, -1] = True  # its rival may be the first row left out
    if bool(((ours[1] != peer[1]) & ~tied).any()):
        raise WrongResult("rows differ where scores do not tie")


def ours(queries: Tensor, bank: Tensor) -> Callable[[], Found]:
    def found() -> Found:
        result = top_k(queries, bank, K)
        return result.scores, result.indices

    return found


def cases(room: Path, quick: bool) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)

    def rows(n: int, d: int) -> Tensor:
        return torch.randn(n, d, generator=generator)

    yield from wide(rows, quick)
    yield from narrow(rows, quick)
    yield from clusters(rows, quick)


def wide(rows: Callable[[int, int], Tensor], quick: bool) -> Iterator[Case]:
    queries, bank = (
        (rows(500, 512), rows(5_000, 512)) if quick else (rows(50_000, 512), rows(100_000, 512))
    )
    if installed("faiss"):
        import faiss

        def by_faiss() -> Found:
            faiss.omp_set_num_threads(torch.get_num_threads())
            scores, indices = index.search(queries.numpy(), K)
            return torch.from_numpy(scores), torch.from_numpy(indices)

        index = faiss.IndexFlatIP(512)
        index.add(bank.numpy())
        yield Case(
            name="kernels/nearest/faiss/time",
            ours=ours(queries, bank),
            peer=by_faiss,
            peer_name="FAISS IndexFlatIP",
            same=agree,
            at_least=0.95,
            why="the same product; looking at the maxima of blocks costs little beside it",
            cause=PRODUCT,
            rounds=3,  # a turn takes more than a minute
        )
    if installed("usearch"):
        few = queries[: 50 if quick else 500].contiguous()
        yield Case(
            name="kernels/nearest/usearch/time",
            ours=ours(few, bank),
            peer=lambda: by_usearch(few.numpy(), bank.numpy()),
            peer_name="usearch, exact",
            same=agree,
            at_least=2.0,
            why="a product of matrices uses a row again while the cache holds it",
            cause=CHOICE,
        )


def narrow(rows: Callable[[int, int], Tensor], quick: bool) -> Iterator[Case]:
    b, n = (200, 20_000) if quick else (2_000, 100_000)
    queries, bank = rows(b, 128), rows(n, 128)
    common: dict[str, Any] = {"ours": ours(queries, bank), "same": agree}
    whole: dict[str, Any] = {
        "peer": lambda: by_torch(queries, bank),
        "peer_name": "torch.topk, whole matrix",
    }
    yield Case(
        name="kernels/nearest/torch/time",
        at_least=0.95,
        why="the same product; maxima of blocks against a choice among 100,000",
        cause=CHOICE,
        **common,
        **whole,
    )
    yield Case(
        name="kernels/nearest/torch/memory",
        at_least=5.0,
        why="16 million scores at a time",
        measure=peak_mib,
        unit="MiB",
        **common,
        **whole,
    )
    yield Case(
        name="kernels/nearest/numpy/time",
        peer=lambda: by_numpy(queries.numpy(), bank.numpy()),
        peer_name="NumPy argpartition",
        at_least=2.0,
        why="argpartition works on one thread and moves 8-byte indices",
        cause=CHOICE,
        **common,
    )


def clusters(rows: Callable[[int, int], Tensor], quick: bool) -> Iterator[Case]:
    n, k = (5_000, 32) if quick else (100_000, CLUSTERS)
    # Clusters that overlap: no side comes to rest early, and where a point belongs is no matter of
    # rounding, as it is among points without any.
    points = rows(n, 128) + 0.5 * rows(k, 128)[torch.arange(n) % k]
    start = points[:k].clone()

    def mine() -> Clusters:
        found = kmeans(points, k, init=start, iterations=STEPS, tolerance=0)
        return found.assignment, found.inertia

    def by_sklearn() -> Clusters:
        from sklearn.cluster import KMeans

        found = KMeans(k, init=start.numpy(), n_init=1, max_iter=STEPS, tol=0, algorithm="lloyd")
        found.fit(points.numpy())
        return torch.from_numpy(found.labels_).long(), float(found.inertia_)

    def same(ours: Clusters, peer: Clusters) -> None:
        if abs(ours[1] - peer[1]) > 1e-4 * peer[1]:
            raise WrongResult(f"the inertia differs: {ours[1]:.6g} and {peer[1]:.6g}")
        alike = float((ours[0] == peer[0]).float().mean())
        if alike < 0.95:
            raise WrongResult(f"only {alike:.1%} of the assignments are the same")

    common: dict[str, Any] = {"ours": mine, "same": same, "at_least": 0.9, "cause": CHOICE}
    yield Case(
        name="kernels/kmeans/sklearn/time",
        peer=by_sklearn,
        peer_name="scikit-learn, Lloyd",
        why="the same product for each iteration, a maximum instead of a fused loop",
        **common,
    )
    if installed("faiss"):
        import faiss

        def by_faiss() -> Clusters:
            faiss.omp_set_num_threads(torch.get_num_threads())
            found = faiss.Kmeans(128, k, niter=STEPS, max_points_per_centroid=n)
            found.train(points.numpy(), init_centroids=start.numpy())
            distances, labels = found.index.search(points.numpy(), 1)
            return torch.from_numpy(labels[:, 0]), float(distances.astype(np.float64).sum())

        yield Case(
            name="kernels/kmeans/faiss/time",
            peer=by_faiss,
            peer_name="faiss.Kmeans",
            why="the same product for each iteration",
            **common,
        )
