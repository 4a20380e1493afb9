from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rhyme.errors import ConfigError, DataError
from rhyme.kernels import top_k


def by_sorting(
    scores: np.ndarray, k: int, keep: np.ndarray
) -> tuple[list[list[float]], list[list[int]]]:
    """Sort every row by (score falling, index rising); pad what is missing."""
    values, indices = [], []
    for i in range(len(scores)):
        order = sorted(
            (j for j in range(scores.shape[1]) if keep[i, j]), key=lambda j: (-scores[i, j], j)
        )[:k]
        values.append([float(scores[i, j]) for j in order] + [-np.inf] * (k - len(order)))
        indices.append(order + [-1] * (k - len(order)))
    return values, indices


@settings(max_examples=150, deadline=None)
@given(
    b=st.integers(0, 6), n=st.integers(0, 30), d=st.integers(1, 3), k=st.integers(1, 12),
    grouped=st.booleans(), query_rows=st.integers(1, 7), bank_rows=st.integers(1, 31),
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_top_k_is_a_stable_sort_whatever_the_chunks(
    b: int, n: int, d: int, k: int, grouped: bool, query_rows: int, bank_rows: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # small integers: exact products, and many ties
    queries = torch.randint(-1, 2, (b, d), generator=generator).float()
    bank = torch.randint(-1, 2, (n, d), generator=generator).float()
    gq = torch.randint(-1, 3, (b,), generator=generator)
    gb = torch.randint(-1, 3, (n,), generator=generator)
    found = top_k(
        queries, bank, k, query_rows=query_rows, bank_rows=bank_rows,
        query_groups=gq if grouped else None, bank_groups=gb if grouped else None,
    )  # fmt: skip
    keep = np.ones((b, n), dtype=bool)
    if grouped:
        keep = ~((gq[:, None] == gb[None]) & (gq[:, None] >= 0)).numpy()
    values, indices = by_sorting((queries @ bank.T).numpy(), k, keep)
    assert found.scores.tolist() == values
    assert found.indices.tolist() == indices
    assert found.indices.dtype == torch.int64


def test_top_k_of_unit_rows_finds_the_row_itself_first() -> None:
    bank = torch.nn.functional.normalize(torch.randn(3000, 16), dim=1)
    found = top_k(bank[100:110], bank, 5, bank_rows=256)
    assert found.indices[:, 0].tolist() == list(range(100, 110))
    assert torch.allclose(found.scores[:, 0], torch.ones(10))
    whole = bank[100:110] @ bank.T
    assert torch.equal(found.indices, whole.topk(5).indices)
    assert not top_k(bank[:2].requires_grad_(), bank, 1).scores.requires_grad


def test_precision_follows_the_wider_input() -> None:
    half = torch.randn(4, 8).half()
    assert top_k(half, half, 2).scores.dtype == torch.float32
    assert top_k(half, half.double(), 2).scores.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = top_k(half.float(), half.float(), 1).scores[:, 0]
    norms = (half.float() ** 2).sum(1)
    assert (scores >= norms - 1e-4).all()


def test_what_does_not_fit_is_refused() -> None:
    q, bank = torch.zeros(2, 3), torch.zeros(5, 3)
    with pytest.raises(ConfigError):
        top_k(q, bank, 0)
    with pytest.raises(DataError):
        top_k(q, torch.zeros(5, 4), 1)
    with pytest.raises(DataError, match="both sides"):
        top_k(q, bank, 1, query_groups=torch.zeros(2, dtype=torch.int64))
