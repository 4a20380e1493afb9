"""Retrieval against slow rankings, and its exact chance against drawn orders."""

from __future__ import annotations

import numpy as np
import pytest

from rhyme.errors import ConfigError, DataError
from rhyme.tasks import group_retrieval, normalise, retrieval


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    return {
        "queries": rng.normal(size=(20, 6)).astype(np.float32),
        "gallery": rng.normal(size=(31, 6)).astype(np.float32),
        "query_labels": rng.integers(0, 4, 20),
        "gallery_labels": rng.integers(0, 4, 31),
        "query_groups": rng.integers(0, 6, 20),
        "gallery_groups": rng.integers(0, 6, 31),
    }


def ranked(world, i, order=None):
    """Right or wrong along the ranking of query i."""
    scores = normalise(world["gallery"]) @ normalise(world["queries"])[i]
    order = np.argsort(-scores, kind="stable") if order is None else order
    return [
        bool(world["gallery_labels"][j] == world["query_labels"][i])
        for j in order
        if world["gallery_groups"][j] != world["query_groups"][i]
    ]


def precision(hits):
    found, total = 0, 0.0
    for place, hit in enumerate(hits, 1):
        if hit:
            found += 1
            total += found / place
    return total / found


def test_matches_a_slow_ranking(world):
    found = retrieval(**world, ks=(1, 3, 10))
    lists = [ranked(world, i) for i in range(20)]
    for k in (1, 3, 10):
        assert found.recall[k] == pytest.approx(np.mean([any(hits[:k]) for hits in lists]))
    assert found.mean_average_precision == pytest.approx(np.mean([precision(h) for h in lists]))
    assert (found.queries, found.gallery, found.left_out) == (20, 31, 0)


def test_chance_is_what_random_orders_give(world):
    found = retrieval(**world, ks=(1, 5))
    rng = np.random.default_rng(1)
    draws = [ranked(world, i, rng.permutation(31)) for _ in range(400) for i in range(20)]
    for k in (1, 5):
        drawn = np.mean([any(h[:k]) for h in draws])
        assert found.chance_recall[k] == pytest.approx(drawn, abs=0.012)
    drawn = np.mean([precision(h) for h in draws])
    assert found.chance_average_precision == pytest.approx(drawn, abs=0.008)


def test_gallery_items_of_the_own_group_are_no_answer(world):
    # the very query, with its label, in the gallery under its own group: no use
    world["gallery"] = np.concatenate([world["gallery"], world["queries"]])
    world["gallery_labels"] = np.concatenate([world["gallery_labels"], world["query_labels"]])
    own = np.concatenate([world["gallery_groups"], world["query_groups"]])
    other = np.concatenate([world["gallery_groups"], world["query_groups"] + 100])
    masked = retrieval(**{**world, "gallery_groups": own})
    assert retrieval(**{**world, "gallery_groups": other}).recall[1] == 1.0
    assert masked.recall[1] < 0.8


def test_queries_without_an_answer_are_left_out_and_counted(world):
    world["query_labels"] = np.where(np.arange(20) < 5, 9, world["query_labels"])
    found = retrieval(**world)
    assert (found.queries, found.left_out) == (15, 5)
    with pytest.raises(DataError, match="no query shares"):
        retrieval(**{**world, "query_labels": np.full(20, 9)})


def test_group_retrieval_matches_a_loop():
    rng = np.random.default_rng(2)
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
    frames = rng.normal(size=(4, 5))[groups] + 0.8 * rng.normal(size=(9, 5))
    found = group_retrieval(frames.astype(np.float32), groups, ks=(1, 2))
    unit = normalise(frames)
    hits = {1: [], 2: []}
    for i in range(8):
        order = [j for j in np.argsort(-(unit @ unit[i]), kind="stable") if j != i]
        for k in (1, 2):
            hits[k].append(any(groups[j] == groups[i] for j in order[:k]))
    assert found.recall == {k: pytest.approx(np.mean(v)) for k, v in hits.items()}
    assert (found.queries, found.left_out) == (8, 1)
    others = np.array([2, 2, 2, 1, 1, 2, 2, 2])
    assert found.chance_recall[1] == pytest.approx((others / 8).mean())
    missed = (8 - others) / 8 * (7 - others) / 7
    assert found.chance_recall[2] == pytest.approx((1 - missed).mean())


def test_refusals(world):
    with pytest.raises(ConfigError, match="k must"):
        retrieval(**world, ks=(0,))
    with pytest.raises(DataError, match="empty"):
        retrieval(**{**world, "gallery": world["gallery"][:0]})
    frames = world["queries"]
    with pytest.raises(DataError, match="two groups"):
        group_retrieval(frames, np.zeros(20, np.int64))
    with pytest.raises(DataError, match="two frames"):
        group_retrieval(frames, np.arange(20))


@pytest.mark.parametrize(
    ("classes", "gallery", "percent"),
    [
        (101, 95, (1.0, 4.9, 9.5, 18.0, 39.2)),
        (51, 70, (2.0, 9.4, 18.0, 32.7, 62.9)),
    ],
)
def test_chance_of_ucf101_and_hmdb51(classes, gallery, percent):
    """Classes of equal size, as many items as split 1 has; guesses are drawn without repeats."""
    rng = np.random.default_rng(0)
    held = np.repeat(np.arange(classes), gallery)
    asked = np.arange(classes)
    found = retrieval(
        rng.normal(size=(len(asked), 2)).astype(np.float32),
        rng.normal(size=(len(held), 2)).astype(np.float32),
        asked,
        held,
        np.full(len(asked), -1),
        np.arange(len(held)),
        ks=(1, 5, 10, 20, 50),
    )
    got = [100 * found.chance_recall[k] for k in (1, 5, 10, 20, 50)]
    assert got == pytest.approx(percent, abs=0.25)
    drawn = [100 * (1 - (1 - 1 / classes) ** k) for k in (1, 5, 10, 20, 50)]
    assert drawn == pytest.approx(percent, abs=0.06), "the published table draws with repeats"
