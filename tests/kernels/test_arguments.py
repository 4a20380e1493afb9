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
    queue_log_sum_exp,
    self_log_sum_exp,
    soft_neighbour,
    symmetric_log_sum_exp,
)

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


@both
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_groups_and_places_are_integers(kernel: str, dtype: torch.dtype) -> None:
    rows, columns = torch.zeros(4, dtype=dtype), torch.zeros(5, dtype=dtype)
    with pytest.raises(DataError, match="query_groups must be integers"):
        CALLS["queue"](Q, K, temperature=0.1, query_groups=rows, key_groups=columns, kernel=kernel)
    with pytest.raises(DataError, match="skip must be integers"):
        CALLS["batch"](Q, K, temperature=0.1, skip=rows[:, None], kernel=kernel)
