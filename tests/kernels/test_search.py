from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rhyme.errors import ConfigError, DataError
from rhyme.kernels import search, top_k


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


@pytest.mark.parametrize("route", ["cpu", "gpu"])
@pytest.mark.parametrize("levels", [2, 40, 0])
@pytest.mark.parametrize("grouped", [False, True])
def test_both_routes_give_the_stable_sort_over_many_chunks(
    route: str, levels: int, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(levels)
    if levels:  # exact products: few levels tie often, and each chunk improves on the last
        queries = torch.randint(-levels, levels + 1, (40, 4), generator=generator).float()
        bank = torch.randint(-levels, levels + 1, (3000, 4), generator=generator).float()
    else:  # the worst order: all of each chunk is better than all before
        queries = torch.rand(40, 4, generator=generator).mul(16).ceil()
        bank = torch.arange(3000.0)[:, None].expand(-1, 4) / 64
    gq = torch.randint(-1, 5, (40,), generator=generator)
    gb = torch.randint(-1, 5, (3000,), generator=generator)
    took = {"few": 0}

    def few(*args: Any) -> bool:
        took["few"] += inserted if (inserted := insert_few(*args)) else 0
        return inserted

    insert_few = search._insert_few if route == "cpu" else lambda *_: False
    monkeypatch.setattr(search, "_insert_few", few)
    if route == "gpu":
        monkeypatch.setattr(search, "largest", search.largest_by_key)
    groups = {"query_groups": gq, "bank_groups": gb} if grouped else {}
    found = top_k(queries, bank, 2, bank_rows=640, **groups)
    scores = queries @ bank.T
    if grouped:
        scores[(gq[:, None] == gb) & (gq[:, None] >= 0)] = -torch.inf
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    assert torch.equal(found.scores, values[:, :2])
    assert torch.equal(found.indices, indices[:, :2])
    if route == "cpu" and levels == 40:
        assert took["few"] >= 2  # the quick way was taken, or nothing was tested


def test_keys_of_scores_order_zeros_and_infinities_by_position() -> None:
    values = [0.0, -0.0, torch.inf, -torch.inf, 1e-45, -1e-45, 3.0, -3.0, torch.inf, -torch.inf]
    scores = torch.tensor([values, values[::-1]])
    found = search.largest_by_key(scores, 10)
    assert torch.equal(found[1], torch.sort(scores, dim=1, descending=True, stable=True)[1])
    assert torch.equal(found[0], scores.gather(1, found[1]))


def test_memory_is_bounded_by_the_chunks() -> None:
    queries, bank = torch.randn(300, 8), torch.randn(20_000, 8)
    top_k(queries, bank, 5)
    with torch.profiler.profile(profile_memory=True) as profile:
        top_k(queries, bank, 5, bank_rows=1024)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 300 * 1024 * 4  # the scores of one chunk


def test_nan_is_refused_and_infinity_ranked() -> None:
    bank = torch.eye(4)
    bank[2, 2] = torch.inf
    queries = torch.ones(1, 4)
    with pytest.raises(DataError, match="NaN"):
        top_k(torch.tensor([[0.0, 1, 0, 0]]), bank, 2)  # 0 times infinity
    assert top_k(queries, bank, 1).indices.tolist() == [[2]]
    bank[2, 2] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        top_k(queries, bank, 1)


def test_half_precision_equals_its_values_in_float32() -> None:
    queries, bank = torch.randn(5, 16).bfloat16(), torch.randn(200, 16).half()
    found, exact = top_k(queries, bank, 6), top_k(queries.float(), bank.float(), 6)
    assert torch.equal(found.indices, exact.indices)
    assert torch.equal(found.scores, exact.scores)


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
