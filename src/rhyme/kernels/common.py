"""Precision and masks shared by all kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from rhyme.errors import ConfigError, DataError

Temperature = float | Tensor


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one type to compute in: float64 if any is, else float32."""
    wide = any(t.dtype is torch.float64 for t in tensors)
    dtype = torch.float64 if wide else torch.float32
    return tuple(t.to(dtype) for t in tensors)


def no_autocast(device: torch.device) -> torch.autocast:
    """Switches autocast off, under which a matrix product would fall back to half precision."""
    return torch.autocast(device.type, enabled=False)


def check_temperature(temperature: Temperature) -> None:
    """Refuse a temperature that is no positive number.

    Raises:
        ConfigError: as said. A tensor is learned and not looked at: that would stall a GPU.
    """
    if not isinstance(temperature, Tensor) and not 0 < temperature < float("inf"):
        raise ConfigError(
            "a temperature must be positive and finite", value=temperature, remedy="try 0.07"
        )


def check_rows(queries: Tensor, keys: Tensor) -> None:
    """Refuse anything but ``[b, d]`` against ``[n, d]``.

    Raises:
        DataError: as said.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise DataError(
            "expected queries [b, d] and keys [n, d] of one dimension d",
            value=(tuple(queries.shape), tuple(keys.shape)),
        )


def excluded_pairs(
    queries: Tensor,
    keys: Tensor,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    mask: Tensor | None,
) -> Tensor | None:
    """The pairs that must not meet: same group, or masked by hand.

    Args:
        queries: ``[b, d]``, for its number of rows.
        keys: ``[n, d]``, for its number of rows.
        query_groups: int64 ``[b]`` or None.
        key_groups: int64 ``[n]`` or None; both or neither.
        mask: bool ``[b, n]``, True to exclude, or None.

    Returns:
        bool ``[b, n]`` or None if every pair may meet.

    Raises:
        DataError: shapes do not fit, or only one side has groups.
    """
    b, n = len(queries), len(keys)
    if (query_groups is None) != (key_groups is None):
        raise DataError("groups are needed on both sides, or on neither")
    excluded = None
    if query_groups is not None and key_groups is not None:
        if query_groups.shape != (b,) or key_groups.shape != (n,):
            raise DataError(
                "groups must give one id for each row",
                value=(tuple(query_groups.shape), (b,), tuple(key_groups.shape), (n,)),
            )
        # -2 on one side: "nobody's" does not match "nobody's"
        known = torch.where(query_groups < 0, -2, query_groups)
        excluded = known[:, None] == torch.where(key_groups < 0, -1, key_groups)[None]
    if mask is not None:
        if mask.shape != (b, n):
            raise DataError("the mask must be [b, n]", value=(tuple(mask.shape), (b, n)))
        excluded = mask if excluded is None else excluded | mask
    return excluded
