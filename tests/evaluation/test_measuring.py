"""Encoder after encoder: rows are kept as they come, and one that diverges costs only its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rhyme.errors import Diverged
from rhyme.evaluation import cycle, evaluate


def whose(kept):
    return [{(row.protocol, row.encoder) for row in rows} for rows in kept]


def broken_from(call, error):
    """The protocol cycle, which fails from one of its calls on."""
    calls = []

    def run(split, settings):
        calls.append(split)
        if len(calls) >= call:
            raise error
        return cycle.run(split, settings)

    return replace(cycle.PROTOCOL, run=run)


def test_rows_are_kept_encoder_by_encoder(world, monkeypatch):
    catalog, encoder = world
    kept = []
    asked = {"protocols": ["knn", "cycle"], "untrained_seeds": (0,), "keep": kept.append}
    done = evaluate(encoder, catalog, **asked)
    names = ("trained", "untrained")
    assert whose(kept) == [{(p, name)} for p in ("knn", "cycle") for name in names]
    written = [row for rows in kept for row in rows]
    assert len(written) == len(done.results)
    assert all(row in written for row in done.results)
    kept.clear()
    monkeypatch.setattr(cycle, "PROTOCOL", broken_from(2, RuntimeError("the machine is gone")))
    with pytest.raises(RuntimeError):
        evaluate(encoder, catalog, **asked)
    assert whose(kept) == [{("knn", name)} for name in names] + [{("cycle", "trained")}]


def test_an_untrained_encoder_that_diverges_costs_the_others_nothing(world, monkeypatch):
    catalog, encoder = world
    asked = {"protocols": ["cycle"], "untrained_seeds": (0, 1)}
    whole = evaluate(encoder, catalog, **asked)
    diverged = Diverged("the training diverged at lr 30")
    monkeypatch.setattr(cycle, "PROTOCOL", broken_from(3, diverged))
    done = evaluate(encoder, catalog, **asked)
    assert not done.skipped
    assert {(row.encoder, row.seed) for row in done.results} == {("trained", 1), ("untrained", 0)}
    values = {(r.metric, r.encoder, r.seed): r.value for r in whole.results}
    assert all(values[r.metric, r.encoder, r.seed] == r.value for r in done.results)
    told = "cycle: untrained/1 has no figure: the training diverged at lr 30; lower its lr"
    assert told in done.notes


def test_a_trained_encoder_that_diverges_skips_the_protocol(world, monkeypatch):
    catalog, encoder = world
    kept = []
    monkeypatch.setattr(cycle, "PROTOCOL", broken_from(1, Diverged("it diverged")))
    done = evaluate(encoder, catalog, protocols=["cycle"], untrained_seeds=(0,), keep=kept.append)
    assert done.skipped == {"cycle": "it diverged; lower its lr"}
    assert (kept, done.results) == ([], ())
