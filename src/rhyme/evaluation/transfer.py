"""Transfer: L-BFGS logistic regression on frozen features over 45 penalties (SimCLR, B.8).

The penalty is chosen on the validation items, then the classifier is fitted once more on training
and validation items together, and the test items are read once. Features are standardised with the
training items, of which the paper says nothing: without it no grid of penalties suits encoders of
every scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rhyme.evaluation import linear
from rhyme.evaluation.protocol import Protocol

__all__ = ["L2_GRID", "PROTOCOL", "Settings"]

L2_GRID: tuple[float, ...] = tuple(float(f"{v:.6g}") for v in np.logspace(-6, 5, 45))
"""45 values from 1e-6 to 1e5, equally spaced in their logarithm."""


@dataclass(frozen=True, kw_only=True)
class Settings(linear.Settings):
    """Settings of the protocol: those of ``linear``, with the paper's grid.

    Attributes:
        l2: penalties to choose from.
        refit: rows of the final classifier.
    """

    l2: tuple[float, ...] = L2_GRID
    refit: Literal["train", "train+val"] = "train+val"


PROTOCOL = Protocol(
    id="transfer",
    title="logistic regression on frozen features, 45 penalties",
    settings=Settings,
    run=linear.run,
    needs_labels=True,
)
