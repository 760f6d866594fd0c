"""The linear model of multiclass AUC, fitted to a whole table by the paper's solver.

    minimise over W    R(softmax(X W)) + λ ‖W‖²          R = Σ_{i ≠ j} of `multiclass_auc_loss`, the sum over pairs

by `core.solvers.monotone`: momentum, two candidates a step of which the lower is taken, step lengths of Barzilai and
Borwein with a line search. The objective is not convex through the softmax; it never rises. Every evaluation is exact
and takes O(n C (d + log n)).

Yang et al., "Learning with Multiclass AUC: Theory and Algorithms", TPAMI 2021, arXiv 2107.13171; the solver follows the
authors' code, whose square loss carries a factor 1/2 (λ = 0.001 there is 0.002 here), and whose penalty counts twice in
the value and half of that in the gradient.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equipoise.core.arrays import as_tensor
from equipoise.core.settings import HasSettings
from equipoise.core.solvers.monotone import monotone_accelerated_gradient
from equipoise.core.solvers.proximal import Point
from equipoise.core.validate import check_choice, check_finite, check_nonnegative, warn_once
from equipoise.ranking.metrics.multiclass import multiclass_auroc
from equipoise.ranking.multiclass_auc import multiclass_auc_loss

ACTIVATIONS = ("softmax", "none")


class LinearMulticlassAUC(HasSettings):
    """Linear scorers of all classes, with the estimator interface of scikit-learn (`clone` works on it).

    Standardise the features first; there is no intercept, as published, so add a column of ones where classes differ in
    how common they are at the origin.

    Args:
        penalty: λ ≥ 0, price of ‖W‖². The authors try 0.0001 to 0.009.
        surrogate: a name of `core.pairs.surrogates`: "square", "squared_hinge", "hinge", "exponential" or "logistic".
        margin: margin or rate of the surrogate, between what `activation` gives; the paper's γ, tried from 0.1 to 0.9.
        average: "ovo" for pairs of classes, "ovr" for one class against the rest.
        activation: "softmax" as published, or "none" for linear scores.
        step: length of a first step, and of those where points lie too near to learn one from; tried first, and made
            shorter. The authors try 0.1 and 0.5.
        max_iter: steps at most. The authors stop after 10 to 100 and tune that, too.
        tol: stop where the objective falls by less than this five times in a row.

    Attributes:
        classes_: the labels, sorted.
        coef_: (d, C) W.
        objective_history_: at the start, W = 0, and after every step.
        n_iter_: steps taken.

    >>> generator = np.random.default_rng(0)
    >>> y = np.repeat(["rare", "common", "often"], [10, 100, 90])
    >>> x = generator.normal(size=(200, 3)) + 2 * (y[:, None] == ["rare", "common", "often"])
    >>> bool(LinearMulticlassAUC(penalty=1e-3).fit(x, y).score(x, y) > 0.9)
    True
    """

    def __init__(
        self,
        penalty: float = 1e-3,
        surrogate: str = "square",
        margin: float = 1.0,
        average: Literal["ovo", "ovr"] = "ovo",
        activation: Literal["softmax", "none"] = "softmax",
        step: float = 0.5,
        max_iter: int = 1000,
        tol: float = 1e-5,
    ) -> None:
        self.penalty = penalty
        self.surrogate = surrogate
        self.margin = margin
        self.average = average
        self.activation = activation
        self.step = step
        self.max_iter = max_iter
        self.tol = tol
        self.coef_: NDArray[np.float64]

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> LinearMulticlassAUC:
        """Fit features (n, d) and labels (n,) of at least two classes; weights (n,) count samples.

        Raises:
            ValueError: on shapes that do not fit, features or weights that are not finite, one class only, or settings
                out of range.
        """
        check_nonnegative("penalty", self.penalty)
        check_choice("activation", self.activation, ACTIVATIONS)
        features, labels = _features(X), np.asarray(y)
        if labels.shape != features.shape[:1]:
            raise ValueError(
                f"X and y must have shapes (n, d) and (n,), got {tuple(features.shape)} and {labels.shape}"
            )
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds {len(self.classes_)} class, so that there is nothing to rank; at least two")
        target = torch.from_numpy(codes.astype(np.int64))
        weight = None if sample_weight is None else as_tensor(sample_weight, torch.float64)

        def smooth(point: Point) -> tuple[float, Point]:
            with torch.enable_grad():
                w = point[0].detach().requires_grad_()
                risk = multiclass_auc_loss(
                    self._scores(features, w),
                    target,
                    surrogate=self.surrogate,
                    margin=self.margin,
                    average=self.average,
                    reduction="sum",
                    sample_weight=weight,
                )
                value = risk + self.penalty * w.square().sum()
                return float(value.detach()), torch.autograd.grad(value, w)

        found = monotone_accelerated_gradient(
            (features.new_zeros(features.shape[1], len(self.classes_)),),
            smooth,
            step=self.step,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.coef_ = found.point[0].numpy()
        self.objective_history_ = found.objective
        self.n_iter_ = len(found.objective) - 1
        if not found.converged:
            warn_once(
                f"LinearMulticlassAUC stopped after max_iter={self.max_iter} steps before the objective settled; raise "
                "max_iter or tol"
            )
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Scores (n, C) of samples (n, d), column i to rank class i by; with "softmax" in [0, 1], not calibrated.

        Raises:
            ValueError: if the features do not fit.
        """
        features = _features(X)
        if features.shape[1] != len(self.coef_):
            raise ValueError(f"X must have shape (n, {len(self.coef_)}), got {tuple(features.shape)}")
        scores: NDArray[np.float64] = self._scores(features, torch.from_numpy(self.coef_)).numpy()
        return scores

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """The multiclass AUROC of the same average, over the classes that are present; NaN where there is one.

        Raises:
            ValueError: if a label was not fitted.
        """
        labels = np.asarray(y)
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y holds {unknown.tolist()[0]!r}, which was not fitted; there are {self.classes_.tolist()}"
            )
        target = torch.from_numpy(np.searchsorted(self.classes_, labels).astype(np.int64))
        return float(multiclass_auroc(torch.from_numpy(self.decision_function(X)), target, average=self.average))

    def _scores(self, features: Tensor, w: Tensor) -> Tensor:
        scores = features @ w
        return scores.softmax(1) if self.activation == "softmax" else scores


def _features(X: Any) -> Tensor:
    features = as_tensor(X, torch.float64)
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"X must have shape (n, d) and not be empty, got {tuple(features.shape)}")
    check_finite("X", features)
    return features
