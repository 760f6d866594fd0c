"""Ranking objectives for gradient boosting: gradient and Hessian bound over all pairs of the training set.

A booster wants a gradient and a positive Hessian entry of each sample of a *sum* over samples. The all-pairs loss is a
mean over pairs, and its Hessian is not diagonal. With the exact kernel (`core.pairs.loss`) of weights w⁺, w⁻ we give

    g = c ∂L/∂s          h = 2 c ∂²L/∂s²          c = 2 W⁺ W⁻ / (W⁺ + W⁻),  W± the weight (number) of each class

**The factor 2.** The Hessian is Σ_ij w_i v_j ℓ''(s_i − s_j)(e_i − e_j)(e_i − e_j)ᵀ, a graph Laplacian, and since
(x_i − x_j)² ≤ 2 x_i² + 2 x_j², xᵀ H x ≤ Σ_i 2 H_ii x_i²: with less than 2 a leaf could step too far where the leaves
of a tree move against each other, as those of positives and negatives do.

**The scale c.** At equal scores the logistic surrogate then has the very gradient of log loss at the class prior p,
p − 1 for a positive and p for a negative; so learning rates, leaf penalties and least Hessian sums mean what they mean
for log loss, and rare positives do not blow them up.

**The hinge** has no curvature. Its kink is spread over one margin: every pair counts with curvature 1/γ, so that a leaf
whose pairs are all wrong steps half a margin.

Partial AUC selects or weighs the pairs by the current scores of the *whole* training set, which a mini-batch cannot do.
Boosted scores are full of ties (all are equal at the start): samples tied at the boundary of a selection share the
weight that is left there, instead of an arbitrary part of them being picked. Weights are constants in the derivative.

Yang et al., "Learning with Multiclass AUC", TPAMI 2021, and "When All We Need is a Piece of the Pie", ICML 2021, for
the objectives. Their use for boosting, the scale and the bound are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.pairs.loss import pairwise_derivatives
from equipoise.core.pairs.surrogates import Surrogate, resolve_surrogate
from equipoise.core.validate import check_choice, check_fraction, check_positive
from equipoise.ranking.criteria import Criterion
from equipoise.ranking.partial.weighted_partial_auc import Scheme, calibrated_weight

# What the boosters do by themselves, and what they are given.
OWN_LOSSES = ("cross_entropy", "weighted_cross_entropy")
RANKING_OBJECTIVES = ("auc", "partial_auc", "two_way_partial_auc", "weighted_partial_auc")
_LEAST_HESSIAN = 1e-16

Array = NDArray[Any]


@dataclass(frozen=True)
class RankingObjective:
    """A pairwise objective as boosters want it.

    Attributes:
        objective: "auc": all pairs; for scores (n, C) the one-vs-one multiclass AUC. "partial_auc": the highest-scored
            negatives, a share `max_fpr` of them, with all positives. "two_way_partial_auc": the same with the
            lowest-scored positives, a share 1 − `min_tpr`. "weighted_partial_auc": all pairs, hard samples weighing
            more by the calibrated weight of their sigmoid; of both classes if `min_tpr` is given, else of the
            negatives.
        surrogate: the loss of a pair, by name or as a `Surrogate`; see `core.pairs.loss` for what each costs.
        margin: margin or rate γ of the surrogate, in units of the raw score.
        max_fpr: in (0, 1]; for the two selecting objectives.
        min_tpr: in [0, 1); for "two_way_partial_auc", and as a switch for "weighted_partial_auc".
        scheme: weighting of "weighted_partial_auc"; see `ranking.calibrated_weight`.
        gamma: shape of that weighting.

    Raises:
        ValueError: if a setting is unknown, out of range, or missing.

    >>> import numpy as np
    >>> objective = RankingObjective("auc")
    >>> gradient, hessian = objective.gradient_hessian(np.zeros(4), np.array([1, 0, 0, 0]))
    >>> gradient, hessian
    (array([-0.75,  0.25,  0.25,  0.25]), array([0.75, 0.25, 0.25, 0.25]))
    """

    objective: str = "auc"
    surrogate: str | Surrogate = "logistic"
    margin: float = 1.0
    max_fpr: float | None = None
    min_tpr: float | None = None
    scheme: Scheme = "exp"
    gamma: float = 8.0

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, RANKING_OBJECTIVES)
        resolve_surrogate(self.surrogate)
        check_positive("margin", self.margin)
        for name, value, needed in (
            ("max_fpr", self.max_fpr, self.objective in ("partial_auc", "two_way_partial_auc")),
            ("min_tpr", self.min_tpr, self.objective == "two_way_partial_auc"),
        ):
            if needed and value is None:
                example = "0.05" if name == "max_fpr" else "0.5"
                raise ValueError(f"objective {self.objective!r} needs {name}, for example {name}={example}")
            if value is not None:
                check_fraction(name, value, zero=name == "min_tpr", one=name == "max_fpr")
        calibrated_weight(torch.ones(1), self.scheme, self.gamma)

    def gradient_hessian(self, scores: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
        """Gradient and positive Hessian bound of every score, over the whole training set.

        Args:
            scores: (n,) raw scores, or (n, C) for the multiclass AUC.
            target: (n,) in {0, 1}, or class indices.
            weight: (n,) non-negative sample weights.

        Returns:
            Two arrays of the shape and dtype of the scores.

        Raises:
            ValueError: if shapes differ, scores are not finite, weights are negative, a class is missing, or a partial
                objective meets several columns.
        """
        _, gradient, hessian = self._derivatives(scores, target, weight)
        return gradient, hessian

    def value(self, scores: Array, target: Array, weight: Array | None = None) -> float:
        """The objective c · L whose derivatives `gradient_hessian` gives (the selection taken as it is)."""
        return self._derivatives(scores, target, weight)[0]

    def _derivatives(self, scores: Array, target: Array, weight: Array | None) -> tuple[float, Array, Array]:
        if target.shape != scores.shape[:1] or (weight is not None and weight.shape != target.shape):
            raise ValueError(
                f"scores {scores.shape}, target {target.shape} and weight "
                f"{None if weight is None else weight.shape} must agree in the number of samples"
            )
        if scores.ndim == 1 or scores.shape[1] == 1:
            value, gradient, hessian = self._one_column(scores.reshape(-1), target == 1, weight)
            return value, gradient.reshape(scores.shape), hessian.reshape(scores.shape)
        if self.objective != "auc":
            raise ValueError(
                f"objective {self.objective!r} is for two classes; with more, use 'auc' or a cross-entropy"
            )
        # One-vs-one is one weighted binary problem a column, each negative weighing 1 / (total weight of its class).
        own = np.ones(len(target)) if weight is None else np.asarray(weight, dtype=np.float64)
        totals = np.bincount(target.astype(np.int64), own, minlength=scores.shape[1])
        share = own / totals[target.astype(np.int64)]
        gradient, hessian = np.empty_like(scores), np.empty_like(scores)
        value = 0.0
        for k in range(scores.shape[1]):
            is_k = target == k
            column, gradient[:, k], hessian[:, k] = self._one_column(
                np.ascontiguousarray(scores[:, k]), is_k, weight, np.where(is_k, own, share)
            )
            value += column
        return value, gradient, hessian

    def _one_column(
        self, scores: Array, positive: Array, weight: Array | None, pair_weight: Array | None = None
    ) -> tuple[float, Array, Array]:
        """Derivatives of one column; `pair_weight` weighs within the pairs where it differs from the sample's own."""
        sides = [np.flatnonzero(positive), np.flatnonzero(~positive)]
        own = weight if pair_weight is None else pair_weight
        totals = [float(len(k) if weight is None else weight[k].sum(dtype=np.float64)) for k in sides]
        if not (totals[0] > 0 and totals[1] > 0):
            raise ValueError(
                f"a ranking objective compares two classes, got total weights {totals[0]:g} (positive) and "
                f"{totals[1]:g} (negative); both must be greater than 0"
            )
        scale = 2 / (1 / totals[0] + 1 / totals[1])
        weights: list[Array | None] = [None if own is None else own[k] for k in sides]
        factors = self._hardness_weights(scores[sides[0]], scores[sides[1]], weights)
        for k, factor in enumerate(factors):
            if factor is not None:
                kept = np.flatnonzero(factor)
                sides[k], factor = sides[k][kept], factor[kept]
                before = weights[k]
                weights[k] = factor if before is None else factor * before[kept]
        pos, neg = (torch.from_numpy(scores[k]) for k in sides)
        pos_weight, neg_weight = (None if w is None else torch.from_numpy(w.astype(scores.dtype)) for w in weights)
        found = pairwise_derivatives(pos, neg, self.surrogate, self.margin, pos_weight, neg_weight)
        gradient, hessian = np.zeros_like(scores), np.full_like(scores, _LEAST_HESSIAN)
        curvatures = [found.pos_curvature, found.neg_curvature]
        if resolve_surrogate(self.surrogate).name == "hinge":
            curvatures = [_share(x, w) / self.margin for x, w in ((pos, pos_weight), (neg, neg_weight))]
        for index, slope, curvature in zip(sides, (found.pos_gradient, found.neg_gradient), curvatures, strict=True):
            gradient[index] = scale * slope.numpy()
            hessian[index] = np.maximum(2 * scale * curvature.numpy(), _LEAST_HESSIAN)
        return scale * float(found.value), gradient, hessian

    def _hardness_weights(
        self, pos: Array, neg: Array, weights: list[Array | None]
    ) -> tuple[Array | None, Array | None]:
        if self.objective == "auc":
            return None, None
        two_way = self.min_tpr is not None and self.objective != "partial_auc"
        if self.objective == "weighted_partial_auc":
            of_neg = calibrated_weight(torch.from_numpy(neg).sigmoid(), self.scheme, self.gamma)
            of_pos = calibrated_weight(torch.from_numpy(-pos).sigmoid(), self.scheme, self.gamma) if two_way else None
            return None if of_pos is None else of_pos.numpy(), of_neg.numpy()
        kept_pos = hardest_share(-pos, 1 - (self.min_tpr or 0.0), weights[0]) if two_way else None
        return kept_pos, hardest_share(neg, self.max_fpr or 1.0, weights[1])


def _share(scores: Tensor, weight: Tensor | None) -> Tensor:
    return torch.full_like(scores, 1 / len(scores)) if weight is None else weight / weight.sum()


def hardest_share(hardness: Array, fraction: float, weight: Array | None = None) -> Array:
    """How much of each sample belongs to the hardest fraction of the total weight; ties share what is left for them.

    Args:
        hardness: (n,) numbers, the hardest being the highest.
        fraction: in (0, 1].
        weight: (n,) non-negative sample weights.

    Returns:
        Shares in [0, 1] such that Σ share · weight = fraction · Σ weight.

    >>> import numpy as np
    >>> hardest_share(np.array([3.0, 1.0, 1.0, 0.0]), 0.5)
    array([1. , 0.5, 0.5, 0. ])
    """
    n = len(hardness)
    wanted = fraction * (n if weight is None else float(weight.sum(dtype=np.float64)))
    if weight is None:
        place = min(n - 1, max(0, math.ceil(wanted - 1e-9) - 1))
        boundary = np.partition(hardness, n - 1 - place)[n - 1 - place]
    else:
        order = np.argsort(-hardness)
        place = int(np.searchsorted(np.cumsum(weight[order], dtype=np.float64), wanted * (1 - 1e-9)))
        boundary = hardness[order[min(place, n - 1)]]
    above, tied = hardness > boundary, hardness == boundary
    inside = above.sum() if weight is None else weight[above].sum(dtype=np.float64)
    at_boundary = tied.sum() if weight is None else weight[tied].sum(dtype=np.float64)
    share = above.astype(hardness.dtype)
    share[tied] = min(1.0, max(0.0, (wanted - inside) / at_boundary)) if at_boundary > 0 else 1.0
    return share


def judge(criterion: Criterion, scores: Array, target: Array, weight: Array | None = None) -> float:
    """The criterion of raw scores (n,) or (n, C) by targets (n,), weighted by (n,), for a booster's evaluation."""
    truth = torch.from_numpy(np.asarray(target).astype(np.int64))
    count = None if weight is None else torch.from_numpy(np.asarray(weight, dtype=np.float64))
    return float(criterion(torch.from_numpy(np.ascontiguousarray(scores)), truth, count))


@dataclass
class Watch:
    """The course of the criterion on the validation set, and when to stop.

    Attributes:
        patience: rounds without a new best before training stops; None never stops.
        least_rounds: rounds that are trained in any case, before patience begins to count.
        history: the value after each round.

    >>> watch = Watch(patience=2)
    >>> [watch.stop(value) for value in (0.5, 0.7, 0.6, 0.6)], watch.best_round
    ([False, False, False, True], 2)
    """

    patience: int | None = None
    least_rounds: int = 0
    history: list[float] = field(default_factory=list)

    def stop(self, value: float) -> bool:
        """Note the value of one more round, and say whether to stop after it."""
        self.history.append(-math.inf if math.isnan(value) else value)
        waited = len(self.history) - max(self.best_round, self.least_rounds)
        return self.patience is not None and waited >= self.patience

    @property
    def is_best(self) -> bool:
        """Whether the last round is the best so far."""
        return self.best_round == len(self.history)

    @property
    def best_round(self) -> int:
        """How many rounds give the best value, the first of equals; 0 before the first."""
        return int(np.argmax(self.history)) + 1 if self.history else 0


def parameters(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    aliases: Callable[[str], Set[str]],
    ours: Mapping[str, str],
) -> dict[str, Any]:
    """The parameters of a booster: those that are given, and the defaults that no alias of theirs overrides.

    Args:
        defaults: by one of their names.
        given: by any of their names.
        aliases: all names of a parameter.
        ours: parameters that are refused → what sets them.

    Raises:
        ValueError: if one of `ours` is given.

    >>> parameters({"eta": 0.1}, {"learning_rate": 0.5}, lambda name: {"eta", "learning_rate"}, {})
    {'learning_rate': 0.5}
    """
    for name, setter in ours.items():
        for alias in given.keys() & aliases(name):
            raise ValueError(f"the booster's parameter {alias!r} is set by {setter}; leave it out")
    return {**{name: value for name, value in defaults.items() if not given.keys() & aliases(name)}, **given}


def phases(
    objective_function: Callable[..., Any] | None, rounds: int, warm_start_rounds: int
) -> list[tuple[int, Callable[..., Any] | None]]:
    """Rounds of the booster's own loss (None), then rounds of ours.

    Raises:
        ValueError: if a number is negative or the warm start leaves no rounds for the objective.

    >>> phases(None, 100, 0)
    [(100, None)]
    """
    if rounds < 1 or warm_start_rounds < 0:
        raise ValueError(
            f"num_boost_round={rounds} must be at least 1 and warm_start_rounds={warm_start_rounds} at least 0"
        )
    if objective_function is None:
        return [(rounds, None)]
    if warm_start_rounds >= rounds:
        raise ValueError(
            f"warm_start_rounds={warm_start_rounds} must be less than num_boost_round={rounds}, "
            "or no round is left for the ranking objective"
        )
    plan = [(warm_start_rounds, None), (rounds - warm_start_rounds, objective_function)]
    return [(count, function) for count, function in plan if count > 0]
