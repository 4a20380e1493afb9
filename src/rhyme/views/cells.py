"""Cells of feature maps as places in pictures: where two views of a frame see the same spot."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rhyme.errors import DataError
from rhyme.views.geometry import apply_points, invert

__all__ = ["cell_centres", "cells_apart", "true_matches"]


def cell_centres(
    size: int, stride: float, offset: float, grid: int | None = None, cells: int | None = None
) -> Tensor:
    """View pixels at the centres of the cells of one side of a feature map.

    Args:
        size: side of the view in pixels.
        stride: view pixels between neighbouring cells of the map.
        offset: view pixel at the centre of its first cell.
        grid: cells after adaptive average pooling; None without pooling.
        cells: cells that the map has; None for ``size / stride``, rounded up. Layers without
            padding give fewer.

    Returns:
        ``float64 [n]``; n is ``cells``, or ``grid``.
    """
    count = cells or math.ceil(size / stride)
    centres = offset + stride * torch.arange(count, dtype=torch.float64)
    if grid is None:
        return centres
    # A pooled cell is the mean of cells floor(i n / g) to ceil((i + 1) n / g) - 1.
    windows = [slice(i * count // grid, -(-(i + 1) * count // grid)) for i in range(grid)]
    return torch.stack([centres[window].mean() for window in windows])


def true_matches(query: Tensor, key: Tensor, centres: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The cell of a key view that lies nearest to the place of each cell of a query view.

    Args:
        query: ``[b, 2, 3]`` maps from pixels of square query views to those of their frames.
        key: ``[b, 2, 3]`` the same of the key views.
        centres: ``[n]`` view pixels at the centres of the cells of either side.
        size: side of the views in pixels.

    Returns:
        Cells of the key view ``int64 [b, n * n]``, numbered row by row, for the cells of the query
        view in the same order; and ``bool [b, n * n]``, False where the place lies outside the key
        view.

    Raises:
        DataError: the maps are no ``[b, 2, 3]`` of equally many views.
    """
    if query.shape != key.shape or query.ndim != 3 or query.shape[1:] != (2, 3):
        raise DataError(
            "maps of both views must be [b, 2, 3]",
            stage="match",
            value=(tuple(query.shape), tuple(key.shape)),
        )
    centres = centres.to(query.device, torch.float64)
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([columns.flatten(), rows.flatten()], dim=1)
    there = apply_points(invert(key.double()), apply_points(query.double(), points))
    edge = 0.5 + 1e-4  # maps are kept in float32
    valid = ((there >= -edge) & (there <= size - 1 + edge)).all(dim=-1)
    nearest = (there[..., None] - centres).abs().argmin(dim=-1)
    return nearest[..., 1] * len(centres) + nearest[..., 0], valid


def cells_apart(one: Tensor, other: Tensor, side: int) -> Tensor:
    """Chebyshev distance in cells between cell numbers of a square map of ``side`` cells."""
    rows = (one // side - other // side).abs()
    return torch.maximum(rows, (one % side - other % side).abs())
