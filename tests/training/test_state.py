from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from rhyme.errors import CheckpointError
from rhyme.systems.base import ParameterGroup
from rhyme.training import OptimizerConfig, build_optimizers
from rhyme.training.state import decode, encode, load_optimizer, optimizer_state


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


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_the_optimiser_s_state_of_a_scalar_lies_where_the_scalar_does(name):
    """A learned temperature, say: its state goes to its device, the count of steps stays."""

    def made(device):
        parameter = nn.Parameter(torch.tensor(2.0, device=device))
        group = ParameterGroup(name="all", parameters=(("scale", parameter),))
        return parameter, group, build_optimizers([group], OptimizerConfig(name=name))["all"]

    parameter, group, optimizer = made("cpu")
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    there, other, loaded = made("meta")
    load_optimizer(loaded, other, optimizer_state(optimizer, group))
    places = {key: value.device.type for key, value in loaded.state[there].items()}
    assert places.pop("step", "cpu") == "cpu"
    assert set(places.values()) == {"meta"}
