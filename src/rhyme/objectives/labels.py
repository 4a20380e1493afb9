"""Objectives of pretext labels: cross-entropy a row, and how well they are told."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rhyme.errors import DataError
from rhyme.kernels.common import full_precision, no_autocast
from rhyme.objectives.output import ObjectiveOutput, masked_mean


def label_cross_entropy(logits: Tensor, labels: Tensor) -> ObjectiveOutput:
    """``−log softmax(logits)[label]``; ``ln c`` where all ``c`` logits are equal.

    Args:
        logits: ``[..., c]``.
        labels: int64 ``[...]`` in 0 .. c-1.

    Returns:
        One value for each label, ``[...]``, all valid; diagnostic ``accuracy``.

    Raises:
        DataError: shapes do not fit.
    """
    if logits.ndim < 1 or logits.shape[:-1] != labels.shape:
        raise DataError(
            "expected logits [..., c] and labels [...]",
            stage="labels",
            value=(tuple(logits.shape), tuple(labels.shape)),
        )
    with no_autocast(logits.device):
        (logits,) = full_precision(logits)
        flat = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    valid = torch.ones_like(labels, dtype=torch.bool)
    right = (logits.detach().argmax(dim=-1) == labels).to(logits)
    return ObjectiveOutput(
        flat.unflatten(0, labels.shape), valid, {"accuracy": masked_mean(right, valid)}
    )


@torch.no_grad()
def balanced_accuracy(told: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean over classes of the share of a class's rows that are told right.

    Whatever the classes' shares are, answering always the same, or anything that has nothing to do
    with the labels, scores one over the number of classes that occur.

    Args:
        told: int64 ``[n]`` answers.
        labels: int64 ``[n]`` truth; classes without a row do not count.
        classes: number of classes.

    Returns:
        A scalar in [0, 1]; NaN without rows.
    """
    rows = functional.one_hot(labels, classes).float()
    right = rows * (told == labels)[:, None]
    occurs = rows.sum(dim=0) > 0
    recall = right.sum(dim=0) / rows.sum(dim=0).clamp(min=1.0)
    return recall[occurs].mean()
