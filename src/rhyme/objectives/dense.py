r"""Contrast of cells: each cell of a view has to find its counterpart in another view.

DenseCL (arXiv 2011.09157, section 3.2 and 3.3). The counterpart is the cell of the other view with
the most similar feature,

    c_i = argmax_j  f_i · f'_j / (‖f_i‖ ‖f'_j‖),

and the contrast is InfoNCE between dense embeddings r_i and t_{c_i}, against a queue that holds one
pooled dense key of each earlier picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rhyme.errors import DataError
from rhyme.kernels import Kernel
from rhyme.kernels.common import Temperature, full_precision, no_autocast
from rhyme.objectives.contrast import info_nce
from rhyme.objectives.output import ObjectiveOutput


@torch.no_grad()
def nearest_cells(queries: Tensor, keys: Tensor) -> Tensor:
    """For each cell of a view the most similar cell of the other view of the same item.

    Every cell gets a match; there is no threshold and no check in the other direction.

    Args:
        queries: ``[b, n, c]`` features of cells, of any length.
        keys: ``[b, m, c]`` features of the cells of the other view.

    Returns:
        ``int64 [b, n]``, indices of ``keys``; the first of equals. No gradient.

    Raises:
        DataError: shapes do not fit.
    """
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[::2] != keys.shape[::2]:
        raise DataError(
            "cells must be [b, n, c] and [b, m, c]",
            stage="match",
            value=(tuple(queries.shape), tuple(keys.shape)),
        )
    with no_autocast(queries.device):
        queries, keys = full_precision(queries, keys)
        # The length of a query's feature does not change which key is nearest to it.
        return (queries @ functional.normalize(keys, dim=2).mT).argmax(dim=2)


def dense_info_nce(
    queries: Tensor,
    keys: Tensor,
    match: Tensor,
    negatives: Tensor,
    *,
    temperature: Temperature,
    valid: Tensor | None = None,
    anchor_groups: Tensor | None = None,
    negative_groups: Tensor | None = None,
    kernel: Kernel = "auto",
) -> ObjectiveOutput:
    """Each cell of a view has to find its counterpart among keys of other pictures.

    Args:
        queries: ``[b, n, d]`` unit embeddings of the cells of a view.
        keys: ``[b, m, d]`` unit embeddings of the cells of the other view.
        match: int64 ``[b, n]``, the counterpart of each cell among the other view's.
        negatives: ``[k, d]`` unit rows.
        temperature: τ > 0, a number or a learned scalar.
        valid: bool ``[b, n]``; False leaves out cells that have no counterpart.
        anchor_groups: int64 ``[b]``: negatives of the item's own group are left out.
        negative_groups: int64 ``[k]``; negative ids are nobody's and never left out.
        kernel: implementation, see :mod:`rhyme.kernels`.

    Returns:
        One value for each cell, ``[b * n]`` item by item; else as :func:`info_nce`.

    Raises:
        DataError: shapes do not fit.
        ConfigError: the temperature is not positive.
    """
    if match.shape != queries.shape[:2] or (valid is not None and valid.shape != match.shape):
        raise DataError(
            "match and valid must give one entry for each cell",
            value=(tuple(queries.shape), tuple(match.shape)),
        )
    positives = keys.gather(1, match[..., None].expand(-1, -1, keys.shape[2]))
    return info_nce(
        queries.flatten(0, 1),
        positives.flatten(0, 1),
        negatives,
        temperature=temperature,
        valid=None if valid is None else valid.flatten(),
        anchor_groups=None
        if anchor_groups is None
        else anchor_groups.repeat_interleave(match.shape[1]),
        negative_groups=negative_groups,
        kernel=kernel,
    )
