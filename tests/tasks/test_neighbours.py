"""k-NN against slow loops; ties, exclusion of groups, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from rhyme.errors import ConfigError, DataError
from rhyme.tasks import knn_classify, nearest_rows


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def slow_neighbours(bank, queries, k, bank_groups=None, query_groups=None):
    out = []
    for i, q in enumerate(queries):
        allowed = [
            j for j in range(len(bank)) if bank_groups is None or bank_groups[j] != query_groups[i]
        ]
        out.append(sorted(allowed, key=lambda j: (-round(cosine(q, bank[j]), 6), j))[:k])
    return out


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return {
        "bank": rng.normal(size=(60, 7)).astype(np.float32),
        "labels": rng.integers(0, 4, 60),
        "groups": rng.integers(0, 15, 60),
        "queries": rng.normal(size=(25, 7)).astype(np.float32),
        "query_groups": rng.integers(0, 15, 25),
    }


@pytest.mark.parametrize("masked", [False, True])
def test_nearest_rows_match_a_slow_sort(data, masked):
    groups = {}
    if masked:
        groups = {"bank_groups": data["groups"], "query_groups": data["query_groups"]}
    near = nearest_rows(data["bank"], data["queries"], 9, **groups)
    expected = slow_neighbours(data["bank"], data["queries"], 9, *groups.values())
    assert near.rows.tolist() == expected
    for i, rows in enumerate(expected):
        for j, row in enumerate(rows):
            assert near.scores[i, j] == pytest.approx(
                cosine(data["queries"][i], data["bank"][row]), abs=1e-5
            )


def test_equal_scores_keep_the_order_of_the_bank():
    bank = np.tile(np.eye(2, dtype=np.float32)[[0]], (50, 1))
    near = nearest_rows(bank, bank[:3], 5)
    assert near.rows.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_rows_that_are_not_allowed_are_marked():
    bank = np.eye(3, dtype=np.float32)
    near = nearest_rows(
        bank, bank[:1], 3, bank_groups=np.array([0, 0, 1]), query_groups=np.array([0])
    )
    assert near.rows.tolist() == [[2, -1, -1]]
    assert near.scores[0, 1:].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("weights", ["majority", "softmax"])
@pytest.mark.parametrize("masked", [False, True])
def test_votes_match_a_slow_count(data, weights, masked):
    groups = {}
    if masked:
        groups = {"bank_groups": data["groups"], "query_groups": data["query_groups"]}
    predicted = knn_classify(
        data["bank"], data["labels"], data["queries"], 9, weights=weights, temperature=0.2, **groups
    )
    near = slow_neighbours(data["bank"], data["queries"], 9, *groups.values())
    for i, rows in enumerate(near):
        best = None
        for c in range(4):
            mine = [
                cosine(data["queries"][i], data["bank"][j]) for j in rows if data["labels"][j] == c
            ]
            if not mine:
                continue
            key = (
                (len(mine), sum(mine))
                if weights == "majority"
                else (sum(np.exp(np.array(mine) / 0.2)), 0)
            )
            if best is None or key > best[0]:
                best = (key, c)
        assert predicted[i] == best[1]


def test_a_tie_goes_to_the_larger_summed_similarity():
    bank = np.array([[1, 0.1], [1, 0.5], [1, -0.05], [1, -0.6]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    sums = [
        cosine(query[0], bank[0]) + cosine(query[0], bank[1]),
        cosine(query[0], bank[2]) + cosine(query[0], bank[3]),
    ]
    assert sums[0] > sums[1]
    assert knn_classify(bank, labels, query, 4)[0] == 0
    assert knn_classify(bank, 1 - labels, query, 4)[0] == 1
    # without a tie the number of voices decides, whatever the similarities
    assert knn_classify(bank, np.array([0, 1, 1, 1]), query, 4)[0] == 1


def test_k_larger_than_the_bank_and_queries_without_voters(data):
    all_of_them = knn_classify(data["bank"], data["labels"], data["queries"], 1000)
    assert (all_of_them == np.bincount(data["labels"]).argmax()).all()
    nobody = knn_classify(
        data["bank"],
        data["labels"],
        data["queries"],
        3,
        bank_groups=np.zeros(60, np.int64),
        query_groups=np.zeros(25, np.int64),
    )
    assert (nobody == -1).all()


def test_refusals(data):
    bank, queries = data["bank"], data["queries"]
    with pytest.raises(DataError, match="two classes"):
        knn_classify(bank, np.zeros(60, np.int64), queries)
    with pytest.raises(DataError, match="unlabelled"):
        knn_classify(bank, data["labels"] - 1, queries)
    with pytest.raises(DataError, match="length"):
        knn_classify(bank, data["labels"][:5], queries)
    with pytest.raises(ConfigError, match="weighting"):
        knn_classify(bank, data["labels"], queries, weights="mean")
    with pytest.raises(ConfigError, match="k must"):
        knn_classify(bank, data["labels"], queries, 0)
    with pytest.raises(DataError, match="widths"):
        nearest_rows(bank, queries[:, :3], 1)
    with pytest.raises(ConfigError, match="both"):
        nearest_rows(bank, queries, 1, bank_groups=data["groups"])
