r"""Robust linear scores from pairwise answers, to the minimum.

    min_v  Σ_e w_e ℓ(y_e, v·(x_i − x_j)) + λ₂ ‖v‖²

with ℓ the profiled loss of `outliers`: Huber regression on differences of features for "squared" (URLR), the logistic
loss of bounded slope for "logistic". Without features every item has a score of its own: HodgeRank with a LASSO on
outliers. Newton's method with bisection; what lies beyond the turning point has no curvature. The matrix of a step
is Xᵀ L X with L the Laplacian of the edges that curve, so that its cost follows items, not edges.

Xu et al., CVPR 2019; that URLR is this problem is from memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from equipoise.core.settings import HasSettings
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive
from equipoise.core.validate import warn_once
from equipoise.crowd.laplacian import EdgeGraph, Evaluation, Minimum, Vector, minimised
from equipoise.crowd.robust_pairs.graph import ComparisonGraph, as_edges
from equipoise.crowd.robust_pairs.loss import Strength
from equipoise.crowd.robust_pairs.outlier_table import OutlierTable
from equipoise.crowd.robust_pairs.outliers import (
    Answers,
    OutlierModel,
    outlier_gamma,
    turning_point,
    warn_of_no_outliers,
)


class RobustLinearFit(NamedTuple):
    """What `robust_linear_ranker` returns.

    Attributes:
        weight: (d,) of the features; without features, the score of each item.
        objective: the least value.
        gamma: (n,) outlier term of each answer.
        is_outlier: (n,) whether it needs that term, as in `outlier_gamma`.
        steps: Newton steps taken.
    """

    weight: Tensor
    objective: float
    gamma: Tensor
    is_outlier: Tensor
    steps: int


@checked
def robust_linear_ranker(
    features: Float[Tensor, "items d"] | None,
    item_i: Integer[Tensor, " n"],
    item_j: Integer[Tensor, " n"],
    y: Answers,
    strength: Strength | None = None,
    *,
    lambda1: Positive = 0.5,
    lambda2: NonNegative = 1e-3,
    model: OutlierModel = "logistic",
    num_items: Count | None = None,
    binary: bool = False,
) -> RobustLinearFit:
    """The linear scorer of least robust loss, in float64.

    Args:
        features: (items, d); None gives every item a free score.
        item_i: (n,) left items.
        item_j: (n,) right items.
        y: (n,) 1 where left was preferred, −1 where right was.
        strength: (n,) how often each answer was given, above 0; 1 by default.
        lambda1: price of an outlier term of 1, above 0.
        lambda2: of the squared norm of the weights. At 0 there may be many minima, or none: weights then grow until
            rounding stops them.
        model: "squared" or "logistic".
        num_items: items there are, where there are no features; one more than the largest index by default.
        binary: whether y holds 0 for right instead of −1.

    Raises:
        ValueError: on a bad argument, by name; if `lambda2` is too small for there to be a minimum.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> i, j = torch.tensor([1, 2, 2, 0]), torch.tensor([0, 1, 0, 2])
    >>> found = robust_linear_ranker(x, i, j, torch.tensor([1, 1, 1, 1]), lambda1=0.3)
    >>> found.is_outlier.tolist()
    [False, False, False, True]
    """
    size = len(features) if features is not None else num_items
    said = as_edges(item_i, item_j, y, strength, size, binary)
    warn_of_no_outliers(lambda1, model)
    x = None if features is None else features.detach().double().numpy()
    edges = EdgeGraph(said.left.numpy(), said.right.numpy(), said.num_items)
    sign, weight = said.label.double().numpy(), said.weight.numpy()
    try:
        found = _Problem(edges, sign, weight, x, lambda1, lambda2, model).solved()
    except RuntimeError as error:
        raise ValueError(f"lambda2={lambda2:g} leaves no minimum that could be found; raise it") from error
    scores = found.x if x is None else x @ found.x
    flagged = outlier_gamma(torch.from_numpy(edges.difference(scores)), said.label, lambda1, model)
    return RobustLinearFit(torch.from_numpy(found.x), found.value, flagged.gamma, flagged.is_outlier, found.steps)


class RobustLinearRanker(HasSettings):
    """`robust_linear_ranker` as an estimator, for one or several attributes.

    Args:
        lambda1: price of an outlier term of 1, above 0. On standardised features .2 to .3 served "logistic" and .5
            "squared" in the claim's small worlds.
        lambda2: of the squared norm of the weights, beside the sum over answers.
        model: "squared" or "logistic".

    Attributes:
        coef_: (attributes, d) weights of the features; without features, (attributes, items) scores.
        scores_: (items, attributes) of the items it was fitted on.
        outliers_: an `OutlierTable` of the graph; not saved.
        steps_: Newton steps of each attribute; not saved.

    >>> graph = ComparisonGraph.from_edges(torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2]), torch.tensor([1, 1, 1]))
    >>> RobustLinearRanker(lambda2=0.1).fit(graph).scores_.squeeze(1).argsort().tolist()
    [2, 1, 0]
    """

    coef_: Float[Tensor, "attributes d"]
    scores_: Float[Tensor, "items attributes"]
    outliers_: OutlierTable
    steps_: tuple[int, ...]

    @checked
    def __init__(self, lambda1: Positive = 0.3, lambda2: Positive = 1e-2, model: OutlierModel = "logistic") -> None:
        self.lambda1, self.lambda2, self.model = lambda1, lambda2, model
        self._free = True

    @checked
    def fit(self, graph: ComparisonGraph, features: Float[Tensor, "items d"] | None = None) -> RobustLinearRanker:
        """Fit every attribute by itself.

        Args:
            graph: the answers.
            features: (items, d) of all items; None gives every item a free score.

        Raises:
            ValueError: if there are not as many rows of features as items.
        """
        if features is not None and len(features) != graph.num_items:
            raise ValueError(f"features have {len(features)} rows, the graph has {graph.num_items} items")
        coefficients, steps = [], []
        width = graph.num_items if features is None else features.shape[1]
        for number in range(graph.num_attributes):
            rows = graph.attribute == number
            if not bool(rows.any()):
                warn_once(f"attribute {number} has no edges; its scores are 0")
                coefficients.append(torch.zeros(width, dtype=torch.float64))
                steps.append(0)
                continue
            found = robust_linear_ranker(
                features,
                graph.item_i[rows],
                graph.item_j[rows],
                graph.y[rows],
                graph.strength[rows],
                num_items=graph.num_items,
                **self.get_params(),
            )
            coefficients.append(found.weight)
            steps.append(found.steps)
        self.coef_, self.steps_, self._free = torch.stack(coefficients), tuple(steps), features is None
        self.scores_ = self.coef_.T if features is None else self.predict(features)
        self.outliers_ = OutlierTable.at(graph, self.scores_, self.lambda1, self.model)
        return self

    @checked
    def predict(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n attributes"]:
        """Scores (n, attributes) of items by their features, in float64.

        Raises:
            RuntimeError: before `fit`.
            ValueError: if it was fitted without features, or features of another width.
        """
        if not hasattr(self, "coef_"):
            raise RuntimeError("the ranker is not fitted; call fit(graph) first")
        if self._free:
            raise ValueError("features cannot be scored: the ranker was fitted without them, see scores_")
        if features.shape[1] != self.coef_.shape[1]:
            raise ValueError(f"features must have {self.coef_.shape[1]} columns, got {features.shape[1]}")
        return features.double() @ self.coef_.T

    @checked
    def compare(
        self, features: Float[Tensor, "items d"], item_i: Integer[Tensor, " n"], item_j: Integer[Tensor, " n"]
    ) -> Int[Tensor, "n attributes"]:
        """Which of two items scores higher: 1 for item_i, −1 for item_j, 0 where they are equal."""
        scores = self.predict(features)
        return (scores[item_i.long()] - scores[item_j.long()]).sign().long()

    def save(self, path: str | Path) -> None:
        """Write settings and weights as JSON."""
        if not hasattr(self, "coef_"):
            raise RuntimeError("the ranker is not fitted; call fit(graph) first")
        about = {"settings": self.get_params(), "free": self._free}
        state = {"coef": self.coef_.tolist(), "scores": self.scores_.tolist()}
        Path(path).write_text(json.dumps({"kind": "RobustLinearRanker", **about, **state}), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> RobustLinearRanker:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file does not hold a ranker.
        """
        try:
            about = json.loads(Path(path).read_text(encoding="utf-8"))
            found = cls(**about["settings"])
            found._free = about["free"]
            found.coef_, found.scores_ = (torch.tensor(about[name], dtype=torch.float64) for name in ("coef", "scores"))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold a robust linear ranker: {error}") from error
        return found


class _Problem:
    """The objective over weights or free scores, with its Newton step."""

    def __init__(
        self,
        edges: EdgeGraph,
        sign: Vector,
        strength: Vector,
        x: Vector | None,
        lambda1: float,
        lambda2: float,
        model: OutlierModel,
    ) -> None:
        self.edges, self.sign, self.strength, self.x = edges, sign, strength, x
        self.lambda1, self.lambda2, self.model = lambda1, lambda2, model

    def solved(self) -> Minimum:
        """The minimum; from that without outliers, where every answer has curvature."""
        start = np.zeros(self.edges.size if self.x is None else self.x.shape[1])
        lambda1, self.lambda1 = self.lambda1, np.inf
        plain = self._loosely(start)
        self.lambda1 = lambda1
        return minimised(self._evaluated, self._direction, plain)

    def _loosely(self, start: Vector) -> Vector:
        at = self._evaluated(start)
        for _ in range(8):
            move = self._direction(at.curvature, at.gradient)
            after = self._evaluated(start + move)
            if not after.value < at.value:
                break
            start, at = start + move, after
        return start

    def _evaluated(self, v: Vector) -> Evaluation:
        difference = self.edges.difference(v if self.x is None else self.x @ v)
        limit = self.lambda1
        if self.model == "squared":
            residual = self.sign - difference
            kept = np.clip(residual, -limit, limit)
            losses, slope, curve = kept * (residual - kept / 2), -kept, (np.abs(residual) <= limit).astype(float)
        else:
            margin = self.sign * difference
            kept = np.maximum(margin, turning_point(limit))
            tail = np.exp(-np.logaddexp(0.0, kept))
            beyond = np.where(margin < kept, kept - margin, 0.0)
            losses = np.logaddexp(0.0, -kept) + (limit * beyond if np.isfinite(limit) else 0.0)
            slope, curve = -self.sign * tail, np.where(margin < kept, 0.0, tail * (1 - tail))
        value = float(self.strength @ losses) + self.lambda2 * float(v @ v)
        flow = self.edges.gathered(self.strength * slope)
        return Evaluation(
            value, (flow if self.x is None else self.x.T @ flow) + 2 * self.lambda2 * v, self.strength * curve
        )

    def _direction(self, curvature: Vector, gradient: Vector) -> Vector:
        from scipy.linalg import solve

        # Without a penalty, where no answer curves, a step would have no length.
        least = 1e-8 * float(self.strength.sum()) / self.edges.size
        if self.x is None:
            return -self.edges.solve(curvature, gradient, 2 * self.lambda2 or least)
        matrix = self.x.T @ (self.edges.laplacian(curvature) @ self.x)
        # The last term is below rounding of the matrix, and keeps it positive where features repeat.
        ridge = (2 * self.lambda2 or least * float(np.square(self.x).mean())) + 1e-15 * float(np.trace(matrix))
        matrix[np.arange(len(matrix)), np.arange(len(matrix))] += ridge
        return -np.asarray(solve(matrix, gradient, assume_a="pos", check_finite=False))
