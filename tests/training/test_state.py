from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from rhyme.errors import CheckpointError
from rhyme.training.state import decode, encode


def through_json(tree):
    tensors: dict[str, torch.Tensor] = {}
    encoded = json.loads(json.dumps(encode(tree, "part/x", tensors), allow_nan=False))
    return decode(encoded, tensors), tensors


@pytest.mark.parametrize(
    "tree",
    [
        None,
        True,
        2**70,
        -0.1,
        5e-324,
        "text\x00é",
        b"\x00\xff",
        [1, (2, [3.5], "x"), {}],
        {"a": {"b": ()}},
        {3: "three", "3": "text"},
        {"$tensor": "not a reference"},
        (1 << 63) - 1,
    ],
)
def test_plain_values_come_back_as_they_were(tree):
    back, tensors = through_json(tree)
    assert back == tree
    assert type(back) is type(tree)
    assert tensors == {}


def test_floats_that_json_does_not_know():
    back, _ = through_json([math.inf, -math.inf, math.nan])
    assert back[:2] == [math.inf, -math.inf]
    assert math.isnan(back[2])


def test_tensors_and_arrays_keep_dtype_and_get_names():
    tree = {
        "t": torch.arange(3, dtype=torch.int16),
        "a": [np.array([[1.5, 2.5]]), np.uint64(2**64 - 1), np.array([], dtype=np.int32)],
    }
    back, tensors = through_json(tree)
    assert set(tensors) == {"part/x/t", "part/x/a/0", "part/x/a/1", "part/x/a/2"}
    assert back["t"].dtype == torch.int16
    assert torch.equal(back["t"], tree["t"])
    for now, before in zip(back["a"], tree["a"], strict=True):
        assert now.dtype == before.dtype
        np.testing.assert_array_equal(now, before)
    assert isinstance(back["a"][1], np.uint64)
    back["a"][0][0, 0] = 9.0  # a loaded array can be written to


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["a"]), {(1, 2): 3}, 1j])
def test_what_only_a_pickle_could_hold_is_refused_by_name(value):
    with pytest.raises(CheckpointError, match="part/x/inner"):
        encode({"inner": value}, "part/x", {})
