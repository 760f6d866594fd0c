"""The solver and the estimator of multi-task AUC; `ranking.multitask.multitask_auc` has the problem and the formulas.

Yang et al., "Learning Personalized Attribute Preference via Multi-task AUC Optimization", AAAI 2019, arXiv 1906.07341.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equipoise.core.pairs.quadratic import pairwise_square_rows
from equipoise.core.settings import HasSettings
from equipoise.core.signature import as_whole, checked
from equipoise.core.solvers.least_squares import GroupedLeastSquares
from equipoise.core.solvers.proximal import (
    Point,
    prox_group_columns,
    prox_squared_l2,
    prox_tail_spectrum,
    proximal_gradient,
)
from equipoise.core.types import NonNegative, Positive, Whole
from equipoise.core.validate import check_choice, check_finite, check_nonnegative, warn_once
from equipoise.ranking.metrics.binary_areas import auroc
from equipoise.ranking.multitask.multitask_auc import OwnTarget, multitask_penalty

LIPSCHITZ = ("auto", "backtracking")


class MultiTaskAUC(HasSettings):
    """Linear rankings of many users at once, with the estimator interface of scikit-learn (`clone` works on it).

    Args:
        lambda_theta: λ₁, pull of the shared part to zero.
        lambda_group: λ₂, pull of the group part to rank `kappa`.
        lambda_personal: λ₃, price of a personal part; the larger, the fewer users have one.
        kappa: κ, groups of users. From min(d, users) on, the group part is free and `lambda_group` without effect
            (warned).
        max_iter: steps at most.
        tol: stop where the objective falls by less than this share.
        lipschitz: "backtracking" to find the length of the steps, "auto" for the safe and shorter ones of the bound
            (users + 2) · max_u λ_max(A_u) (reconstructed: θ couples all users, G and P each).
        accelerate: momentum with restarts; the objective never rises either way.
        warm_start: begin where the last fit ended, for a path of settings over the same users.

    Attributes:
        users_: the users, in order of first appearance.
        theta_: (d,) the shared part, with which users without labels are ranked.
        G_: (d, users) the group part.
        P_: (d, users) the personal part, zero for users without one.
        W_: (d, users) θ + G + P.
        objective_history_: at the start and after every step.
        skipped_users_: users with labels of one class, who have θ only.
        n_iter_: steps taken.

    >>> generator = np.random.default_rng(0)
    >>> x, user = generator.normal(size=(200, 3)), np.repeat(["ann", "bob"], 100)
    >>> y = np.where(user == "ann", x[:, 0], x[:, 1]) > 0.5
    >>> model = MultiTaskAUC(kappa=1, lambda_theta=0.1, lambda_group=0.1).fit(x, y, user)
    >>> bool(model.score(x, y, user) > 0.95)
    True
    """

    def __init__(
        self,
        lambda_theta: float = 1.0,
        lambda_group: float = 10.0,
        lambda_personal: float = 0.3,
        kappa: int = 4,
        max_iter: int = 1000,
        tol: float = 1e-6,
        lipschitz: str = "backtracking",
        accelerate: bool = False,
        warm_start: bool = False,
    ) -> None:
        self.lambda_theta = lambda_theta
        self.lambda_group = lambda_group
        self.lambda_personal = lambda_personal
        self.kappa = kappa
        self.max_iter = max_iter
        self.tol = tol
        self.lipschitz = lipschitz
        self.accelerate = accelerate
        self.warm_start = warm_start
        self.theta_: NDArray[np.float64]
        self.G_: NDArray[np.float64]
        self.P_: NDArray[np.float64]

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        user: Sequence[Hashable] | NDArray[Any],
        sample_weight: ArrayLike | None = None,
    ) -> MultiTaskAUC:
        """Fit features (n, d), labels (n,) in {0, 1}, {−1, 1} or booleans, and the user (n,) of each label.

        Args:
            X: (n, d) features.
            y: (n,) labels.
            user: (n,) users.
            sample_weight: (n,) non-negative, how often each row counts: a pair weighs the product of its rows' weights,
                and a row of weight 0 is as if it were not there. Users count alike, however much their rows weigh.

        Raises:
            ValueError: on shapes that do not fit, features that are not finite, other labels, negative weights,
                settings out of range, or where no user has both classes.
        """
        self._check_settings()
        features, target, names = _checked(X, y, user)
        weight = None if sample_weight is None else _checked_weight(sample_weight, len(names))
        if weight is not None:
            counted = weight > 0
            features, target, weight = features[counted], target[counted], weight[counted]
            names = list(compress(names, counted.tolist()))
        before = getattr(self, "users_", None)
        self.users_ = list(dict.fromkeys(names))
        place = {name: k for k, name in enumerate(self.users_)}
        owner = torch.tensor([place[name] for name in names])
        dimension, users = features.shape[1], len(self.users_)
        loss = _UserLosses(features, target, owner, users, weight)
        self.skipped_users_ = [self.users_[k] for k in (~loss.both).nonzero().squeeze(1).tolist()]
        if not bool(loss.both.any()):
            raise ValueError("no user has both classes, so that there is nothing to rank")
        if self.kappa >= min(dimension, users):
            warn_once(
                f"kappa={self.kappa} leaves the whole spectrum of a {dimension} x {users} matrix free, so that "
                "lambda_group has no effect"
            )
        start: Point = tuple(features.new_zeros(shape) for shape in ((dimension,), *[(dimension, users)] * 2))
        if self.warm_start and before == self.users_ and len(self.theta_) == dimension:
            start = tuple(torch.from_numpy(part) for part in (self.theta_, self.G_, self.P_))
        strengths = (self.lambda_theta, self.lambda_group, self.lambda_personal, self.kappa)
        found = proximal_gradient(
            start,
            loss.of_point,
            lambda point: float(multitask_penalty(point, *strengths)),
            lambda point, step: _prox(point, step, *strengths),
            lipschitz=loss.curvature() * (users + 2 if self.lipschitz == "auto" else 1),
            backtrack=self.lipschitz == "backtracking",
            accelerate=self.accelerate,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        theta, group, personal = found.point
        self.theta_, self.G_, self.P_ = theta.numpy(), group.numpy(), personal.numpy()
        self.W_ = (theta[:, None] + group + personal).numpy()
        self.objective_history_ = found.objective
        self.n_iter_ = len(found.objective) - 1
        if not found.converged:
            warn_once(
                f"MultiTaskAUC stopped after max_iter={self.max_iter} steps before the objective settled; raise "
                "max_iter or tol, or set accelerate=True"
            )
        return self

    def decision_function(
        self,
        X: ArrayLike,
        user: Sequence[Hashable] | NDArray[Any],
        *,
        cold_start: bool = False,
    ) -> NDArray[np.float64]:
        """Scores (n,) of items (n, d), each for the user beside it.

        Args:
            X: (n, d) features.
            user: (n,) users.
            cold_start: rank for unknown users by the shared part instead of raising.

        Raises:
            KeyError: if a user is unknown and `cold_start` false.
            ValueError: if the features do not fit.
        """
        features = np.asarray(X, dtype=np.float64)
        names = list(user)
        if features.ndim != 2 or features.shape[1] != len(self.theta_) or len(names) != len(features):
            raise ValueError(
                f"X must have shape (n, {len(self.theta_)}) and user n entries, got {features.shape} and {len(names)}"
            )
        place = {name: k for k, name in enumerate(self.users_)}
        unknown = [name for name in names if name not in place]
        if unknown and not cold_start:
            raise KeyError(f"user {unknown[0]!r} was not fitted; cold_start=True ranks by what all users share")
        weights = np.column_stack([self.W_, self.theta_])
        return np.einsum("nd,dn->n", features, weights[:, [place.get(name, -1) for name in names]])

    def score(self, X: ArrayLike, y: ArrayLike, user: Sequence[Hashable] | NDArray[Any]) -> float:
        """The mean over users of their AUROC, users with one class left out; NaN where nobody is left."""
        _, target, names = _checked(X, y, user)
        scores, owner = torch.from_numpy(self.decision_function(X, names)), np.asarray(_codes(names))
        values = []
        for k in range(int(owner.max()) + 1):
            rows = torch.from_numpy(np.flatnonzero(owner == k))
            if 0 < int(target[rows].sum()) < len(rows):
                values.append(float(auroc(scores[rows], target[rows])))
        return sum(values) / len(values) if values else math.nan

    def _check_settings(self) -> None:
        for name in ("lambda_theta", "lambda_group", "lambda_personal"):
            check_nonnegative(name, getattr(self, name))
        check_nonnegative("kappa", as_whole("kappa", self.kappa))
        check_choice("lipschitz", self.lipschitz, LIPSCHITZ)


@checked
def multitask_auc_step(
    features: Sequence[Float[Tensor, "_ d"]],
    targets: Sequence[OwnTarget],
    theta: Float[Tensor, " d"],
    G: Float[Tensor, "d users"],
    P: Float[Tensor, "d users"],
    *,
    lipschitz: Positive,
    lambda_theta: NonNegative,
    lambda_group: NonNegative,
    lambda_personal: NonNegative,
    kappa: Whole,
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d users"], Float[Tensor, "d users"]]:
    """One plain proximal gradient step 1/L on the multi-task objective: what `MultiTaskAUC` repeats.

    Args:
        features: (n_u, d) of each user.
        targets: (n_u,) of each user, in {0, 1}; users with one class add no loss.
        theta: (d,) the shared part.
        G: (d, users) the group part.
        P: (d, users) the personal part.
        lipschitz: L > 0.
        lambda_theta: λ₁.
        lambda_group: λ₂.
        lambda_personal: λ₃.
        kappa: singular values of G that are free.

    Returns:
        θ, G and P after the step, in float64.

    >>> zero = torch.zeros(2, 1)
    >>> options = dict(lipschitz=3.0, lambda_theta=0.0, lambda_group=0.0, lambda_personal=0.0, kappa=1)
    >>> multitask_auc_step([torch.eye(2)], [torch.tensor([1, 0])], zero[:, 0], zero, zero, **options)[0]
    tensor([ 0.3333, -0.3333], dtype=torch.float64)
    """
    owner = torch.repeat_interleave(torch.tensor([len(x) for x in features]))
    target = torch.cat([y == 1 for y in targets]).long()
    loss = _UserLosses(torch.cat([x.double() for x in features]), target, owner, len(features))
    point: Point = (theta.double(), G.double(), P.double())
    _, gradient = loss.of_point(point)
    moved = tuple(p - g / lipschitz for p, g in zip(point, gradient, strict=True))
    return _prox(moved, 1 / lipschitz, lambda_theta, lambda_group, lambda_personal, kappa)


class _UserLosses(GroupedLeastSquares):
    """Σ_u L_u and its gradient."""

    def __init__(
        self, features: Tensor, target: Tensor, owner: Tensor, users: int, weight: Tensor | None = None
    ) -> None:
        rows, response, whose, self.both = pairwise_square_rows(features, target, owner, users, weight)
        super().__init__(rows, response, whose, users)

    def of_point(self, point: Point) -> tuple[float, Point]:
        """Of (θ, G, P)."""
        theta, group, personal = point
        value, gradient = self.value_and_gradient(theta[:, None] + group + personal)
        return value, (gradient.sum(1), gradient, gradient)


def _prox(
    point: Point, step: float, lambda_theta: float, lambda_group: float, lambda_personal: float, kappa: int
) -> tuple[Tensor, Tensor, Tensor]:
    theta, group, personal = point
    return (
        prox_squared_l2(theta, step * lambda_theta),
        prox_tail_spectrum(group, step * lambda_group, kappa),
        prox_group_columns(personal, step * lambda_personal),
    )


def _checked_weight(sample_weight: ArrayLike, rows: int) -> Tensor:
    weight = torch.from_numpy(np.array(sample_weight, dtype=np.float64, order="C"))
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight must have shape ({rows},), got {tuple(weight.shape)}")
    check_finite("sample_weight", weight)
    if bool((weight < 0).any()):
        raise ValueError(f"sample_weight must be at least 0, got {float(weight.min()):g}")
    if not bool((weight > 0).any()):
        raise ValueError("sample_weight is zero for every row, so that none counts; at least one weight must not be")
    return weight


def _codes(names: Sequence[Hashable]) -> list[int]:
    place: dict[Hashable, int] = {}
    return [place.setdefault(name, len(place)) for name in names]


def _checked(X: ArrayLike, y: ArrayLike, user: Sequence[Hashable] | NDArray[Any]) -> tuple[Tensor, Tensor, list[Any]]:
    # Torch shares no memory that is read backwards or only.
    features, labels, names = np.array(X, dtype=np.float64, order="C"), np.asarray(y), list(user)
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(names) != len(features):
        raise ValueError(
            f"X, y and user must have shapes (n, d), (n,) and (n,), got {features.shape}, {labels.shape} and "
            f"({len(names)},)"
        )
    if not features.size:
        raise ValueError(f"X is empty, its shape is {features.shape}")
    values = set(np.unique(labels).tolist())
    if not (values <= {0, 1} or values <= {-1, 1}):
        raise ValueError(f"y must hold 0 and 1, -1 and 1, or booleans, got the values {sorted(values)[:5]}")
    tensor = torch.from_numpy(features)
    check_finite("X", tensor)
    return tensor, torch.from_numpy((labels == 1).astype(np.int64)), names
