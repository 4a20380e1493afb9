"""Exact neighbours under cosine, and k-NN classification (Wu et al. 2018, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rhyme.errors import ConfigError, DataError
from rhyme.kernels import top_k
from rhyme.tasks.table import Float, Integer, normalise

__all__ = ["Neighbours", "knn_classify", "nearest_rows"]


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The ``k`` nearest bank rows of each query, best first.

    Attributes:
        rows: ``int64 [q, k]`` rows of the bank; -1 where fewer than ``k`` were allowed.
        scores: ``float32 [q, k]`` cosine; -inf at those places.
    """

    rows: Integer
    scores: Float


def nearest_rows(
    bank: NDArray[np.floating],
    queries: NDArray[np.floating],
    k: int,
    *,
    bank_groups: Integer | None = None,
    query_groups: Integer | None = None,
) -> Neighbours:
    """Exact nearest rows under cosine, equal scores in the order of the bank.

    Args:
        bank: ``[n, d]``.
        queries: ``[q, d]``.
        k: neighbours a query, at most ``n`` are found.
        bank_groups: ``[n]``; with ``query_groups``, bank rows of the query's group are left out
            (codes below 0 are nobody's and match nothing).
        query_groups: ``[q]``.

    Returns:
        Rows and scores.

    Raises:
        ConfigError: for ``k`` below 1, or groups given for one side only.
        DataError: without a bank row, or for another width.
    """
    if k < 1:
        raise ConfigError("k must be at least 1", stage="neighbours", value=k)
    if (bank_groups is None) != (query_groups is None):
        raise ConfigError("give the groups of both bank and queries", stage="neighbours")
    if len(bank) == 0:
        raise DataError("the bank is empty", stage="neighbours")
    if bank.shape[1] != queries.shape[1]:
        raise DataError(
            "bank and queries have different widths",
            stage="neighbours",
            value=(bank.shape[1], queries.shape[1]),
        )
    found = top_k(
        torch.from_numpy(normalise(queries)),
        torch.from_numpy(normalise(bank)),
        min(k, len(bank)),
        query_groups=_codes(query_groups),
        bank_groups=_codes(bank_groups),
    )
    return Neighbours(rows=found.indices.numpy(), scores=found.scores.float().numpy())


def _codes(groups: Integer | None) -> Tensor | None:
    return None if groups is None else torch.from_numpy(np.ascontiguousarray(groups, np.int64))


def knn_classify(
    bank: NDArray[np.floating],
    bank_labels: Integer,
    queries: NDArray[np.floating],
    k: int = 10,
    *,
    weights: Literal["majority", "softmax"] = "majority",
    temperature: float = 0.07,
    bank_groups: Integer | None = None,
    query_groups: Integer | None = None,
) -> Integer:
    """Class of each query by a vote of its ``k`` nearest bank rows under cosine.

    Args:
        bank: ``[n, d]``.
        bank_labels: ``int64 [n]`` class codes from 0.
        queries: ``[q, d]``.
        k: voters.
        weights: ``"majority"``: one voice each, a tie goes to the class of the larger summed
            similarity, then to the lower code; ``"softmax"``: voice ``exp(cosine / temperature)``.
        temperature: of the softmax.
        bank_groups: ``[n]``; with ``query_groups``, rows of the query's group have no voice.
        query_groups: ``[q]``.

    Returns:
        ``int64 [q]`` predicted codes; -1 where no bank row was allowed to vote.

    Raises:
        DataError: fewer than two classes in the bank, or a label below 0.
        ConfigError: for an unknown weighting, ``k`` < 1, or a temperature that is not positive.
    """
    if weights not in ("majority", "softmax"):
        raise ConfigError(
            "unknown weighting", stage="knn", value=weights, remedy="majority or softmax"
        )
    if temperature <= 0:
        raise ConfigError("the temperature must be positive", stage="knn", value=temperature)
    check_classes(bank_labels, len(bank), stage="knn")
    near = nearest_rows(bank, queries, k, bank_groups=bank_groups, query_groups=query_groups)
    voting = near.rows >= 0
    voters = bank_labels[np.maximum(near.rows, 0)]
    similarity = np.where(voting, near.scores, 0.0).astype(np.float64)
    classes = int(bank_labels.max()) + 1
    row = np.broadcast_to(np.arange(len(queries))[:, None], voters.shape)
    summed = np.zeros((len(queries), classes))
    np.add.at(summed, (row, voters), similarity)
    votes = np.zeros((len(queries), classes))
    if weights == "majority":
        np.add.at(votes, (row, voters), voting.astype(np.float64))
        # similarity only decides among the classes of most voices; none voted = no candidate
        leading = votes == votes.max(axis=1, keepdims=True)
        decision = np.where(leading & (votes > 0), summed, -np.inf)
    else:
        top = np.where(voting, near.scores, -np.inf).max(axis=1, keepdims=True)
        shifted = np.where(voting, near.scores - np.where(np.isfinite(top), top, 0.0), -np.inf)
        np.add.at(votes, (row, voters), np.exp(shifted.astype(np.float64) / temperature))
        decision = np.where(votes > 0, votes, -np.inf)
    predicted = decision.argmax(axis=1).astype(np.int64)
    predicted[~voting.any(axis=1)] = -1
    return predicted


def check_classes(labels: Integer, rows: int, *, stage: str) -> None:
    """Refuse labels that no classifier can be made of.

    Args:
        labels: ``int64 [n]``.
        rows: number of feature rows they must match.
        stage: named in the error.

    Raises:
        DataError: another length, a code below 0, or fewer than two classes.
    """
    if len(labels) != rows:
        raise DataError("labels and features differ in length", stage=stage, value=len(labels))
    if len(labels) and int(labels.min()) < 0:
        raise DataError(
            "unlabelled rows among the training rows",
            stage=stage,
            remedy="leave out rows whose label code is below 0",
        )
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"a classifier needs two classes, the training rows have {len(present)}",
            stage=stage,
            value=present.tolist(),
            remedy="choose another label column or split",
        )
