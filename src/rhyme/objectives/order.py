r"""One more negative for each anchor, of its own item: what the same parts give in another order.

A value of InfoNCE is v = log(1 + Σ_n exp((s_n − a·p)/τ)), where s_n is the similarity of negative
*n* to *a*, or to *p* where *p* asked and *a* answered. With a negative *w* of the anchor's own

    v' = log(exp v + exp((a·w − a·p)/τ)),

exactly, however v was computed; an anchor without other negatives has v = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rhyme.errors import DataError
from rhyme.kernels.common import Temperature, full_precision, no_autocast
from rhyme.objectives.output import ObjectiveOutput, masked_mean

__all__ = ["with_own_negative"]


def with_own_negative(
    out: ObjectiveOutput,
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: Temperature,
) -> ObjectiveOutput:
    """InfoNCE with one further negative for each anchor.

    Args:
        out: what an InfoNCE objective gave for these pairs, whichever of the two it asked with.
        anchors: ``[b, d]`` unit rows.
        positives: ``[b, d]`` unit rows.
        negatives: ``[b, d]`` unit rows, each compared with one anchor.
        temperature: τ of ``out``.

    Returns:
        The values with it; every row is valid. Diagnostics: ``own_negative_accuracy``, the share of
        anchors that are nearer to the positive than to it, and ``masked_rows``, 0; the others are
        those of ``out``, over the rows that are valid there.

    Raises:
        DataError: shapes do not fit.
    """
    if not anchors.shape == positives.shape == negatives.shape or out.values.shape != (
        len(anchors),
    ):
        raise DataError(
            "each anchor needs a value, a positive and a negative",
            value=tuple(tuple(x.shape) for x in (out.values, anchors, positives, negatives)),
        )
    with no_autocast(anchors.device):
        a, p, w = full_precision(anchors, positives, negatives)
        gap = (a * w).sum(1) - (a * p).sum(1)
        values = torch.logaddexp(out.values, gap / temperature)
    valid = torch.ones_like(out.valid)
    told = {
        **out.diagnostics,
        "own_negative_accuracy": masked_mean((gap.detach() < 0).to(gap), valid),
        "masked_rows": torch.zeros_like(gap.detach().sum()),
    }
    return ObjectiveOutput(values, valid, told)
