"""What all rows of an evaluation say of data and encoder."""

from __future__ import annotations

from types import SimpleNamespace

from rhyme.encoders import InferencePlan
from rhyme.evaluation import Metric, load_protocol, make_splits
from rhyme.evaluation.record import Record


def row_of(catalog, *, name="trained", card=None, extra=None, seed=0, protocol="knn", **settings):
    """A row of a made-up figure of an encoder with this card."""
    package = SimpleNamespace(
        card={"system": "moco", **(card or {})},
        extra=extra or {},
        hash="abc",
        kind="encoder",
        plan=InferencePlan(size=8, resize=8),
    )
    record = Record.of(
        package,
        catalog,
        make_splits(catalog, seed=seed),
        None,
        base={"data": "clips"},
        common={"split_seed": seed},
    )
    chosen = load_protocol(protocol)
    figure = Metric(name="top1", value=0.5, items=9)
    return record.row(chosen, chosen.settings(**settings), name, figure)


def test_rows_count_the_groups_that_are_judged(rows_catalog):
    """Nine segments of three videos are three sources, whatever their number."""
    groups = ["a"] * 4 + ["b"] * 2 + ["c"] * 5 + ["d"] * 3 + ["e"]
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 9
    row = row_of(rows_catalog(groups, splits=splits))
    assert (row.details["test_items"], row.details["test_groups"]) == (9, 3)


def test_rows_say_where_the_encoder_has_no_seed_of_its_own(rows_catalog):
    catalog = rows_catalog([*"abcd"], splits=["train", "train", "val", "test"])
    trained = row_of(catalog, card={"seed": 3}, seed=7)
    assert (trained.seed, trained.measured.trained) == (3, True)
    assert not row_of(catalog, name="untrained/3", card={"seed": 3}).measured.trained
    for extra in ({}, {"weights": {"sha256": "ab"}}):
        given = row_of(catalog, extra=extra, seed=7)
        assert (given.seed, given.measured.trained) == (7, False)


def test_rows_have_the_seed_that_a_protocol_split_by(rows_catalog):
    """One that was given to the protocol stands above the evaluation's, which the pair key has."""
    catalog = rows_catalog([*"abcd"], splits=["train", "train", "val", "test"])
    own = row_of(catalog, seed=7, protocol="cycle", split_seed=5)
    assert (own.settings["split_seed"], own.pair.split("/")[2]) == (5, "7")
    for protocol in ("cycle", "knn"):
        assert row_of(catalog, seed=7, protocol=protocol).settings["split_seed"] == 7
