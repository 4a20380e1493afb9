"""What kernels refuse, in the words of the project and whatever implements them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rhyme.errors import ConfigError, DataError
from rhyme.kernels import (
    in_batch_log_sum_exp,
    neighbour_weights,
    queue_log_sum_exp,
    self_log_sum_exp,
    soft_neighbour,
    symmetric_log_sum_exp,
)
from rhyme.objectives import info_nce_in_batch

Q, K = torch.eye(4, 6), torch.eye(5, 6)
CALLS: dict[str, Callable[..., Any]] = {
    "queue": lambda q, k, **given: queue_log_sum_exp(q, k, **given),
    "neighbour": lambda q, k, **given: soft_neighbour(q, k, **given),
    "batch": lambda q, k, **given: in_batch_log_sum_exp(q, k, **given),
    "symmetric": lambda q, k, **given: symmetric_log_sum_exp(q, k, **given),
    "self": lambda q, k, **given: self_log_sum_exp(q, **given),
}
everywhere = pytest.mark.parametrize("name", CALLS)
both = pytest.mark.parametrize("kernel", ["auto", "eager"])


@everywhere
@both
@pytest.mark.parametrize(
    "temperature",
    [0.0, -0.1, float("nan"), torch.tensor(0.0), torch.tensor(-0.1), torch.tensor(float("nan")),
     torch.full((4,), 0.1)],
)  # fmt: skip
def test_a_temperature_is_one_positive_number(
    name: str, kernel: str, temperature: float | Tensor
) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        CALLS[name](Q, K, temperature=temperature, kernel=kernel)


@everywhere
@both
def test_a_learned_temperature_may_have_any_shape_of_one_number(name: str, kernel: str) -> None:
    for learned in (torch.tensor(0.1), torch.tensor([0.1])):
        CALLS[name](Q, K, temperature=learned.requires_grad_(), kernel=kernel)


@everywhere
@both
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_rows_are_real_numbers(name: str, kernel: str, dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match="real numbers"):
        CALLS[name](Q.to(dtype), K.to(dtype), temperature=0.1, kernel=kernel)


@both
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_a_mask_is_of_type_bool(kernel: str, dtype: torch.dtype) -> None:
    mask = torch.zeros(4, 5, dtype=dtype)
    for name in ("queue", "neighbour", "batch", "symmetric"):
        with pytest.raises(DataError, match="type bool"):
            CALLS[name](Q, K, temperature=0.1, mask=mask, kernel=kernel)


SKIPPING = ("queue", "batch", "symmetric", "self")


@pytest.mark.parametrize("kernel", ["auto", "eager", "streaming"])
@pytest.mark.parametrize("name", SKIPPING)
def test_a_key_left_out_by_index_is_there(name: str, kernel: str) -> None:
    keys = len(Q) if name == "self" else len(K)
    for beyond in (keys, keys + 1, 2**40):
        skip = torch.full((4, 2), -1)
        skip[2, 1] = beyond
        with pytest.raises(DataError, match="skip names a key that is not there"):
            CALLS[name](Q, K, temperature=0.1, skip=skip, kernel=kernel)
    with pytest.raises(DataError, match="not there"):
        queue_log_sum_exp(Q, K[:0], temperature=0.1, skip=torch.zeros(4, 1).long(), kernel=kernel)
    skip[2, 1] = keys - 1
    CALLS[name](Q, K, temperature=0.1, skip=skip, kernel=kernel)
    queue_log_sum_exp(Q, K[:0], temperature=0.1, skip=torch.full((4, 1), -1), kernel=kernel)


@pytest.mark.parametrize("rows", [1, 5])
def test_each_query_brings_its_own_slot(rows: int) -> None:
    """One row for all would be spread over the batch in silence."""
    for function in (soft_neighbour, neighbour_weights):
        with pytest.raises(DataError, match="self_key must have the queries' shape"):
            function(Q, K, temperature=0.1, self_key=torch.ones(rows, 6))


@pytest.mark.parametrize("index", [-1, 5])
def test_every_anchor_has_a_positive(index: int) -> None:
    """−1 leaves none out as ``skip``, and would be the last key as a place."""
    positives = torch.tensor([0, 1, index, 3])
    with pytest.raises(DataError, match="positive_index names a key that is not there"):
        info_nce_in_batch(Q, K, positives, temperature=0.1)
    with pytest.raises(DataError, match="not there"):
        info_nce_in_batch(Q, K, torch.arange(4), temperature=0.1, self_index=torch.full((4,), 5))
    itself = torch.tensor([-1, 0, -1, 0])
    found = info_nce_in_batch(Q, K, torch.arange(4), temperature=0.1, self_index=itself)
    assert found.valid.all()


@both
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_groups_and_places_are_integers(kernel: str, dtype: torch.dtype) -> None:
    rows, columns = torch.zeros(4, dtype=dtype), torch.zeros(5, dtype=dtype)
    with pytest.raises(DataError, match="query_groups must be integers"):
        CALLS["queue"](Q, K, temperature=0.1, query_groups=rows, key_groups=columns, kernel=kernel)
    with pytest.raises(DataError, match="skip must be integers"):
        CALLS["batch"](Q, K, temperature=0.1, skip=rows[:, None], kernel=kernel)
