"""Selections and hashes of large catalogs: equal to the obvious way, without its cost."""

from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhyme.catalog import Catalog
from rhyme.catalog.content import ROWS, json_blocks
from rhyme.catalog.schema import VERSION, build_table, encode_words, stable_id

COUNT = 5000


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    found = []
    for number in range(COUNT):
        path, start = f"clips/{number // 3}.mp4", float(number % 3) * 10
        found.append(
            {
                "id": stable_id(path, start), "path": path, "kind": "video", "start": start,
                "stop": start + 7 + number / 7, "fps": 25.0, "frames": number, "width": 320,
                "height": 240, "audio": number % 2 == 0, "group": path, "bytes": 10,
                "split": (None, "train", "val")[number // 3 % 3], "mtime_ns": 5,
                "status": "partial" if number == 7 else "ok", "label:class": f"c{number % 5}",
            }
        )  # fmt: skip
    return found


@pytest.fixture
def catalog(rows, tmp_path) -> Catalog:
    table = build_table(rows, ["class"], [], {"version": VERSION, "root": str(tmp_path)})
    return Catalog(table).save(tmp_path / "catalog.arrow")


def dumped(column: pa.ChunkedArray) -> bytes:
    return b"".join(json_blocks(column))


odd = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.none() | odd, max_size=30),
    st.lists(st.floats(), min_size=1, max_size=30),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=30),
    st.lists(st.none() | st.booleans(), max_size=30),
)
def test_blocks_are_what_json_makes_of_the_values(words, floats, integers, flags):
    for array in (
        pa.array(words, pa.string()),
        encode_words(words),
        pa.array(floats, pa.float64()),
        pa.array(floats * 200, pa.float64()),
        pa.array([*floats, None], pa.float64()),
        pa.array(integers, pa.int64()),
        pa.array(flags, pa.bool_()),
    ):
        column = pa.chunked_array([array, array])
        assert dumped(column) == json.dumps(column.to_pylist()).encode()


def test_blocks_of_long_columns_join():
    column = pa.chunked_array([pa.array(np.arange(2 * ROWS + 3))])
    assert json.loads(dumped(column)) == list(range(2 * ROWS + 3))


def test_the_fingerprint_is_that_of_the_values(catalog):
    digest = hashlib.sha256()
    names = ("id", "path", "kind", "start", "stop", "fps", "frames", "width", "height", "audio")
    for name in (*names, "group", "split", "bytes", "label:class"):
        digest.update(f"{name}\n{json.dumps(catalog.table.column(name).to_pylist())}".encode())
    assert catalog.fingerprint == digest.hexdigest()


def test_a_selection_is_the_obvious_one_and_travels_as_row_numbers(catalog, rows):
    chosen = catalog.select(split="train").select(np.arange(10, 500)[::-1])
    wanted = [row for row in rows if row["split"] == "train"][10:500][::-1]
    there = pickle.loads(pickle.dumps(chosen, protocol=5))
    assert there._columns._table is None  # nothing was copied out of the file
    assert len(pickle.dumps(chosen, protocol=5)) < 16 * len(chosen) + 1000
    for selection in (chosen, there):
        assert len(selection) == len(wanted)
        facts, some = selection.facts(), selection.facts(np.array([3, 400, 3]))
        for name in ("start", "stop", "fps", "frames", "width", "height", "id"):
            values = np.array([row[name] for row in wanted])
            assert np.array_equal(getattr(facts, name), values)
            assert np.array_equal(getattr(some, name), values[[3, 400, 3]])
        groups = list(dict.fromkeys(row["group"] for row in wanted))
        codes = [groups.index(row["group"]) for row in wanted]
        assert selection.group_codes.tolist() == codes
        assert some.group.tolist() == [codes[3], codes[400], codes[3]]
        assert selection.distinct_groups == groups
        assert selection.item(7).path == wanted[7]["path"]
        assert selection.item(-1).labels == {"class": wanted[-1]["label:class"]}
        assert selection.labels("class")[0].tolist() == [
            int(row["label:class"][1:]) for row in wanted
        ]
        assert selection.fingerprint == chosen.fingerprint
        assert selection.partial == []
    assert catalog.split_names == ["train", "val"]
    assert catalog.partial == ["clips/2.mp4"]


def test_facts_of_a_mapped_catalog_are_views_of_the_file(catalog):
    assert not catalog.facts().start.flags.owndata
    assert not pickle.loads(pickle.dumps(catalog)).facts().frames.flags.owndata
