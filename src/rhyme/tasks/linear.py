"""Linear probe: multinomial logistic regression on cached features.

The strength of the L2 penalty is chosen on validation data alone (SimCLR, appendix B.8, uses the
same L-BFGS probe for its transfer tables). The test set is read once, after the choice.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rhyme.errors import ConfigError, DataError
from rhyme.tasks.neighbours import check_classes
from rhyme.tasks.table import Integer, standardise

__all__ = ["L2_GRID", "LinearProbe", "linear_probe"]

L2_GRID: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """What a linear probe found.

    Attributes:
        accuracy: share of test rows whose class is right, in [0, 1].
        l2: the chosen penalty, ``lambda`` in ``mean loss + lambda / 2 * ||W||^2``.
        validation: accuracy on the validation rows by penalty.
        per_class: accuracy by class code, over the classes of the test rows.
        predictions: ``int64 [t]`` predicted codes of the test rows.
        refit: rows the final classifier was fitted on.
        converged: whether every fit reached its optimum within the iterations allowed.
        at_edge: whether the chosen penalty is the smallest or largest that was offered.
    """

    accuracy: float
    l2: float
    validation: dict[float, float]
    per_class: dict[int, float]
    predictions: Integer
    refit: Literal["train", "train+val"]
    converged: bool
    at_edge: bool


def linear_probe(
    train: NDArray[np.floating],
    train_labels: Integer,
    val: NDArray[np.floating],
    val_labels: Integer,
    test: NDArray[np.floating],
    test_labels: Integer,
    *,
    l2: Sequence[float] = L2_GRID,
    refit: Literal["train", "train+val"] = "train",
    iterations: int = 1000,
) -> LinearProbe:
    """Fit on the training rows, choose the penalty on the validation rows, score the test rows.

    Features are standardised with the statistics of the training rows. Among penalties of equal
    validation accuracy the strongest is taken. L-BFGS starts from zero for the strongest penalty
    and from the last solution for the next, so the outcome depends on no seed.

    Args:
        train: ``[n, d]`` features.
        train_labels: ``int64 [n]`` codes from 0.
        val: ``[v, d]``.
        val_labels: ``int64 [v]``.
        test: ``[t, d]``.
        test_labels: ``int64 [t]``.
        l2: penalties to choose from, each positive.
        refit: ``"train"`` keeps the classifier that was validated; ``"train+val"`` fits it anew
            on both with the chosen penalty (statistics stay those of the training rows).
        iterations: most steps of L-BFGS a fit.

    Returns:
        Accuracy and all choices.

    Raises:
        DataError: fewer than two classes among the training rows, or no row to validate or test.
        ConfigError: a penalty that is not positive, or an unknown ``refit``.
    """
    if refit not in ("train", "train+val"):
        raise ConfigError("unknown refit", stage="linear", value=refit, remedy="train or train+val")
    if not l2 or min(l2) <= 0:
        raise ConfigError("penalties must be positive", stage="linear", value=tuple(l2))
    check_classes(train_labels, len(train), stage="linear")
    for name, rows, labels in (("val", val, val_labels), ("test", test, test_labels)):
        if len(rows) == 0 or len(rows) != len(labels):
            raise DataError(
                f"the {name} rows are empty or differ in length from their labels",
                stage="linear",
                value=(len(rows), len(labels)),
            )
    scale = standardise(train)
    x, x_val, x_test = (scale.apply(part) for part in (train, val, test))

    solver = _Solver(iterations)
    scores: dict[float, float] = {}
    chosen, model = 0.0, None
    for penalty in sorted(set(l2), reverse=True):
        fitted = solver.fit(x, train_labels, penalty)
        scores[penalty] = float((fitted.predict(x_val) == val_labels).mean())
        if model is None or scores[penalty] > scores[chosen]:
            chosen, model = penalty, fitted
    if refit == "train+val":
        both, labels = np.concatenate([x, x_val]), np.concatenate([train_labels, val_labels])
        known = labels >= 0
        model = _Solver(iterations, watch=solver).fit(both[known], labels[known], chosen)
    assert model is not None
    predictions = np.asarray(model.predict(x_test), dtype=np.int64)
    right = predictions == test_labels
    return LinearProbe(
        accuracy=float(right.mean()),
        l2=chosen,
        validation=dict(sorted(scores.items())),
        per_class={
            int(code): float(right[test_labels == code].mean()) for code in np.unique(test_labels)
        },
        predictions=predictions,
        refit=refit,
        converged=solver.converged,
        at_edge=len(scores) > 1 and chosen in (min(scores), max(scores)),
    )


class _Solver:
    """L-BFGS along a path of penalties, each started from the solution of the one before."""

    def __init__(self, iterations: int, watch: _Solver | None = None) -> None:
        self.iterations = iterations
        self.converged = True
        self._watch = watch
        self._last: Any = None

    def fit(self, features: NDArray[np.floating], labels: Integer, penalty: float) -> Any:
        """A classifier of its own for this penalty."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        # scikit-learn weighs the summed loss by C against half the squared norm
        model = LogisticRegression(
            C=1.0 / (penalty * len(features)), max_iter=self.iterations, tol=1e-4, warm_start=True
        )
        if self._last is not None:
            model.coef_, model.intercept_ = self._last.coef_.copy(), self._last.intercept_.copy()
            model.classes_ = self._last.classes_
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(features.astype(np.float64), labels)
        if any(issubclass(w.category, ConvergenceWarning) for w in caught):
            self.converged = False
            if self._watch is not None:
                self._watch.converged = False
        self._last = model
        return model
