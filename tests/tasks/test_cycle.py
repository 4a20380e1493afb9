"""Cycle return and attention mass: known answers, slow loops, chance."""

from __future__ import annotations

import numpy as np
import pytest

from rhyme.errors import ConfigError, DataError
from rhyme.tasks import cycle_return, normalise, rhymes, split_groups


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def slow(frames, groups, labels, temperature, seed):
    """The definition, one query at a time, in float64."""
    unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    asking, supporting = split_groups(groups, seed)
    q_rows = [i for i in range(len(groups)) if groups[i] in asking]
    s_rows = [i for i in range(len(groups)) if groups[i] in supporting]
    home, direct, flat, mass, expected, effective, chance = [], [], [], [], [], [], []
    for i in q_rows:
        candidates = [j for j in q_rows if j != i]
        own = [j for j in candidates if groups[j] == groups[i]]
        if not own:
            continue
        alpha = softmax(np.array([unit[i] @ unit[j] / temperature for j in s_rows]))
        back = sum(a * unit[j] for a, j in zip(alpha, s_rows, strict=True))
        mean = sum(unit[j] for j in s_rows)
        for start, out in ((back, home), (unit[i], direct), (mean, flat)):
            nearest = max(candidates, key=lambda j: start @ unit[j])
            out.append(groups[nearest] == groups[i])
        mass.append(sum(a for a, j in zip(alpha, s_rows, strict=True) if labels[j] == labels[i]))
        expected.append(np.mean([labels[j] == labels[i] for j in s_rows]))
        effective.append(np.exp(-(alpha * np.log(alpha)).sum()))
        chance.append(len(own) / len(candidates))
    return [np.mean(v) for v in (home, direct, flat, mass, expected, effective, chance)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matches_the_definition_one_query_at_a_time(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(13), 3)[:38]
    labels = groups % 3
    frames = rng.normal(size=(3, 8))[labels] + rng.normal(size=(13, 8))[groups]
    frames += 0.7 * rng.normal(size=frames.shape)
    found = cycle_return(frames, groups, labels, temperature=0.2, seed=seed)
    expected = slow(frames, groups, labels, 0.2, seed)
    got = [
        found.rate,
        found.rate_query,
        found.rate_uniform,
        found.mass,
        found.mass_chance,
        found.effective_neighbours,
        found.chance,
    ]
    assert got == pytest.approx(expected, abs=1e-4)
    asking, supporting = split_groups(groups, seed)
    assert (found.query_groups, found.support_groups) == (7, 6)
    assert found.support == np.isin(groups, supporting).sum()
    assert found.candidates == np.isin(groups, asking).sum() - 1
    assert found.queries == found.candidates + 1 - found.left_out == found.mass_queries


def test_split_is_by_group_and_by_seed():
    groups = np.repeat(np.arange(20), 4)
    a, b = split_groups(groups, 0)
    assert sorted([*a, *b]) == list(range(20))
    assert len(a) == len(b) == 10
    assert split_groups(groups, 0)[0].tolist() == a.tolist()
    assert split_groups(groups, 1)[0].tolist() != a.tolist()
    assert split_groups(groups[::-1].copy(), 0)[0].tolist() == a.tolist()


def rhyming(pairs, seed=0):
    """Groups that each have one look-alike: one of them in Q, the other in S."""
    groups = np.arange(2 * pairs)
    asking, supporting = split_groups(groups, seed)
    looks = np.empty(2 * pairs, dtype=int)
    looks[asking], looks[supporting] = np.arange(pairs), np.arange(pairs)
    frames = np.repeat(np.eye(pairs)[looks], 2, axis=0)
    return frames.astype(np.float32), np.repeat(groups, 2), np.repeat(looks, 2)


def test_frames_that_rhyme_come_home():
    frames, groups, labels = rhyming(10)
    found = cycle_return(frames, groups, labels, temperature=0.05)
    assert found.rate == 1.0
    assert found.rate_query == 1.0
    assert found.rate_uniform < 0.3
    assert found.chance == pytest.approx(1 / 19)
    # two of twenty support frames share the look: cosine 1 against 0
    expected = 2 * np.exp(20) / (2 * np.exp(20) + 18)
    assert found.mass == pytest.approx(expected, abs=1e-5)
    assert found.mass_chance == pytest.approx(0.1)
    assert found.nearest_same_class == 1.0
    assert found.effective_neighbours == pytest.approx(2.0, abs=1e-3)


def test_a_far_neighbour_leads_elsewhere_though_q_itself_would_return():
    # all of S looks like the second group of Q: q returns by itself, q̂ goes to that group
    groups = np.repeat(np.arange(4), 2)
    asking, _ = split_groups(groups, 0)
    frames = np.tile(np.array([0.2, 1.0]), (8, 1))
    frames[groups == asking[0]] = [1.0, 0.0]
    found = cycle_return(frames, groups)
    assert found.rate_query == 1.0
    assert found.rate == 0.5
    assert found.mass is None
    assert found.mass_queries == 0


def test_meaningless_features_return_by_chance():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(120), 4)
    labels = groups % 5
    found = cycle_return(rng.normal(size=(480, 64)), groups, labels)
    assert found.chance == pytest.approx(3 / 239)
    assert found.rate == pytest.approx(found.chance, abs=0.02)
    assert found.mass == pytest.approx(found.mass_chance, abs=0.02)


def test_frames_without_company_and_without_label():
    frames, groups, labels = rhyming(6)
    alone = np.flatnonzero(np.isin(groups, split_groups(groups, 0)[0]))[0]
    keep = np.arange(len(groups)) != alone
    found = cycle_return(frames[keep], groups[keep], labels[keep])
    assert (found.left_out, found.queries) == (1, 10)
    some = np.where(labels == 3, -1, labels)
    unlabelled = cycle_return(frames, groups, some)
    assert unlabelled.mass_queries == 10
    assert unlabelled.mass == pytest.approx(cycle_return(frames, groups, labels).mass, abs=1e-5)


def test_collapsed_features_do_not_break():
    groups = np.repeat(np.arange(10), 3)
    found = cycle_return(np.ones((30, 4)), groups, groups % 2)
    assert found.rate == pytest.approx(found.rate_uniform)
    assert found.effective_neighbours == pytest.approx(15, rel=1e-4)
    assert found.mass == pytest.approx(found.mass_chance, abs=1e-6)
    assert np.isfinite(cycle_return(np.zeros((30, 4)), groups).rate)


def test_refusals():
    frames = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(DataError, match="three groups"):
        cycle_return(frames, np.repeat([0, 1], 4))
    with pytest.raises(DataError, match="second frame"):
        cycle_return(frames, np.arange(8))
    with pytest.raises(ConfigError, match="temperature"):
        cycle_return(frames, np.repeat(np.arange(4), 2), temperature=0.0)
    with pytest.raises(DataError, match="length"):
        cycle_return(frames, np.arange(7))


def test_rhymes_tell_the_way_of_single_frames():
    frames, groups, _ = rhyming(10)
    frames = frames + 0.05 * np.random.default_rng(0).normal(size=frames.shape)
    found = rhymes(frames, groups, n=4, neighbours=3, returns=2, temperature=0.1)
    asking, supporting = split_groups(groups, 0)
    assert len(found) == 4
    assert len({int(groups[r.query]) for r in found}) == 4
    unit = normalise(frames)
    for r in found:
        assert groups[r.query] in asking
        assert all(groups[j] in supporting for j in r.neighbours)
        assert list(r.weights) == sorted(r.weights, reverse=True)
        rows = np.flatnonzero(np.isin(groups, supporting))
        alpha = softmax((unit[rows] @ unit[r.query]).astype(np.float64) / 0.1)
        order = np.argsort(-alpha)[:3]
        assert list(r.neighbours) == rows[order].tolist()
        assert r.weights == pytest.approx(alpha[order], abs=1e-5)
        assert r.query not in r.returns
        assert r.returned == (groups[r.returns[0]] == groups[r.query])
        assert r.returned
    again = rhymes(frames, groups, n=4, neighbours=3, returns=2, temperature=0.1)
    assert again == found
    asked = rhymes(frames, groups, queries=[found[2].query], neighbours=3, returns=2)
    assert (asked[0].query, asked[0].neighbours, asked[0].returns) == (
        found[2].query,
        found[2].neighbours,
        found[2].returns,
    )
    support_row = found[0].neighbours[0]
    with pytest.raises(ConfigError, match="support"):
        rhymes(frames, groups, queries=[support_row])
