"""What a guess would score."""

from __future__ import annotations

import numpy as np

from rhyme.tasks.table import Integer

__all__ = ["majority_share"]


def majority_share(train: Integer, test: Integer) -> float:
    """Accuracy of always naming the most frequent training class: the guess to beat.

    Among several classes that are equally frequent it is the mean over them.

    Args:
        train: ``int64 [n]`` codes from 0.
        test: ``int64 [t]`` codes.
    """
    counts = np.bincount(train)
    frequent = np.flatnonzero(counts == counts.max())
    return float(np.isin(test, frequent).mean() / len(frequent))
