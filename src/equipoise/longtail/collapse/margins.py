"""Margins of a classifier, and the terms of the bound by which they explain what training does after it has fitted.

    m_i = (w_y − w_j) · h_i + b_y − b_j,  j the best wrong class          p_min = min_i m_i
    γ̂_{a,c} = min over samples of class a of (w_a − w_c) · h + b_a − b_c

After 100 % training accuracy, cross-entropy goes on widening the smallest margin. A margin by itself grows with the
norms of weights and features, so the normalised one is given too. The terms of the bound are diagnostics, not a
certificate: constants are dropped.

"Towards Demystifying the Generalization Behaviors When Neural Collapse Emerges", 2023, by way of its public reviews;
the expression of the bound is reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.distributed import gather_states
from equipoise.core.metrics import WholeMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Count, NonNegative, NumClasses, OpenFraction, Positive, Whole
from equipoise.core.validate import warn_once
from equipoise.longtail.collapse.grassmannian import simplex_etf


class SVMOptimum(NamedTuple):
    """The optimum of the multi-class SVM whose features are free.

    Attributes:
        objective: √n (C − 1).
        classifier: (C, C − 1) rows M.
        features: (C n, C − 1) rows z, n of each class in turn; every margin is 1.
    """

    objective: float
    classifier: Float[Tensor, "c d"]
    features: Float[Tensor, "n d"]


_NAMES = ("p_min", "mean", "q01", "q05", "q50", "gamma_min", "gamma_max", "gamma_cv", "largest_loss")


@checked
def classification_margins(logits: ClassScores, target: ClassTarget) -> Float[Tensor, " n"]:
    """The true class's logit less the best other; negative where the sample is misclassified.

    >>> classification_margins(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([1.])
    """
    own = logits.gather(1, target[:, None]).squeeze(1)
    top = logits.topk(2, dim=1)
    best_other = torch.where(top.indices[:, 0] == target, top.values[:, 1], top.values[:, 0])
    return own - best_other


@checked
def pairwise_min_margin(
    logits: ClassScores, target: ClassTarget, num_classes: NumClasses
) -> Float[Tensor, "classes classes"]:
    """γ̂: the smallest margin of class a (rows) against class c (columns), 0 on the diagonal.

    Rows of classes without samples are NaN.

    Raises:
        ValueError: if logits have not `num_classes` columns.

    >>> pairwise_min_margin(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 1]), 2)
    tensor([[0., 2.],
            [2., 0.]])
    """
    if logits.shape[1] != num_classes:
        raise ValueError(f"logits must have {num_classes} columns, one per class, got {tuple(logits.shape)}")
    gaps = logits.gather(1, target[:, None]) - logits
    found = gaps.new_full((num_classes, num_classes), torch.inf)
    found = found.scatter_reduce(0, target[:, None].expand_as(gaps), gaps, "amin")
    return found.masked_fill(found.isinf() & (found > 0), torch.nan)


class MarginMetric(WholeMetric):
    """Margins over all samples seen: the smallest, their mean and quantiles, and the smallest of every pair of classes.

    Args:
        num_classes: C, at least 2.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = MarginMetric(2)
    >>> metric.update(torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> float(metric.compute()["p_min"])
    1.0
    """

    is_differentiable = False
    higher_is_better = True

    margins: list[Tensor]
    pairs: Tensor
    longest: Tensor
    largest_loss: Tensor

    @checked
    def __init__(self, num_classes: NumClasses, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_states, **kwargs})
        self.num_classes = num_classes
        self.add_state("margins", default=[], dist_reduce_fx="cat")
        infinite = torch.full((num_classes, num_classes), torch.inf, dtype=torch.float64)
        self.add_state("pairs", default=infinite, dist_reduce_fx="min")
        self.add_state("longest", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")
        self.add_state("largest_loss", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    @checked
    def update(self, logits: ClassScores, target: ClassTarget, features: Float[Tensor, "n d"] | None = None) -> None:
        """Take a batch of logits (n, C), classes (n,), and features (n, d) for the normalised margin."""
        wide = logits.detach().double()
        pairs = pairwise_min_margin(wide, target, self.num_classes)
        self.margins.append(classification_margins(wide, target))
        self.pairs = torch.fmin(self.pairs, pairs)
        loss = torch.nn.functional.cross_entropy(wide, target, reduction="none").max()
        self.largest_loss = torch.maximum(self.largest_loss, loss)
        if features is not None:
            self.longest = torch.maximum(self.longest, features.detach().double().norm(dim=1).max())

    def nothing(self) -> Any:
        """NaN by name."""
        return {**nan_by_name(_NAMES, self.device), "pairwise": torch.full_like(self.pairs, torch.nan)}

    def compute(self, weight: Tensor | None = None) -> dict[str, Tensor]:
        """float64: p_min, mean, q01, q05, q50, gamma_min, gamma_max, gamma_cv (the coefficient of variation of the
        pairs, 0 at a perfect simplex), largest_loss, pairwise (C, C); with `weight` (C, d) and features also
        normalized_p_min = p_min / (‖W‖ max ‖h‖).
        """
        margins = dim_zero_cat(self.margins)
        pairs = self.pairs.masked_fill(self.pairs == torch.inf, torch.nan)
        off = pairs[~torch.eye(self.num_classes, dtype=torch.bool, device=pairs.device)]
        off = off[~off.isnan()]
        quantiles = margins.quantile(torch.tensor([0.01, 0.05, 0.5], dtype=torch.float64, device=margins.device))
        found = {
            "p_min": margins.min(),
            "mean": margins.mean(),
            "q01": quantiles[0],
            "q05": quantiles[1],
            "q50": quantiles[2],
            "gamma_min": off.min(),
            "gamma_max": off.max(),
            "gamma_cv": off.std(correction=0) / off.mean(),
            "largest_loss": self.largest_loss,
            "pairwise": pairs,
        }
        if weight is not None and float(self.longest) > 0:
            found["normalized_p_min"] = margins.min() / (weight.detach().double().norm() * self.longest)
        return found


@checked
def loss_margin_bounds(max_loss: NonNegative, num_classes: NumClasses) -> tuple[float, float]:
    """Between what p_min must lie, given the largest cross-entropy of a sample.

    >>> low, high = loss_margin_bounds(0.1, 3)
    >>> round(low, 4), round(high, 4)
    (2.2522, 2.9453)
    """
    if max_loss == 0:
        return math.inf, math.inf
    low = -math.log(math.expm1(max_loss)) if max_loss < 700 else -max_loss
    return low, low + math.log(num_classes - 1)


@checked
def ufm_svm_optimum(num_classes: NumClasses, per_class: Count = 1) -> SVMOptimum:
    """min ½‖M‖² + ½‖Z‖² with all margins at least 1, features free: a simplex for both, with value √n (C − 1).

    >>> ufm_svm_optimum(3).objective
    2.0
    """
    frame = simplex_etf(num_classes, num_classes - 1)
    root = math.sqrt(per_class)
    share = (num_classes - 1) / num_classes
    classifier = frame * math.sqrt(root * share)
    features = (frame * math.sqrt(share / root)).repeat_interleave(per_class, 0)
    return SVMOptimum(root * (num_classes - 1), classifier, features)


@checked
def multiclass_margin_bound(
    pair_margins: Sequence[Float[Tensor, "_ c"]],
    gamma: Float[Tensor, "c c"],
    complexity: Float[Tensor, " c"],
    K: Positive,
    delta: OpenFraction = 0.05,
) -> dict[str, float]:
    """The four terms of the margin bound and their sum.

    Args:
        pair_margins: of every class a the matrix (n_a, C) of (w_a − w_c) · h; its column a is not looked at.
        gamma: (C, C) margins to judge at, above 0 off the diagonal; γ̂ itself makes the empirical term vanish.
        complexity: (C,) Rademacher complexity of the score differences on the samples of every class.
        K: bound on |score differences|, above 0.
        delta: the bound fails with at most this probability, in (0, 1).

    Returns:
        "complexity", "margin_log", "empirical", "confidence" and "total"; each Σ_a p_a Σ_{c≠a} of its term.

    Raises:
        ValueError: on wrong shapes or values out of range; the pair or the class is named.
    """
    c = len(pair_margins)
    if gamma.shape != (c, c) or complexity.shape != (c,) or any(m.ndim != 2 or m.shape[1] != c for m in pair_margins):
        raise ValueError(f"gamma and complexity must be ({c}, {c}) and ({c},) for {c} matrices (n_a, {c})")
    counts = [len(m) for m in pair_margins]
    terms = dict.fromkeys(("complexity", "margin_log", "empirical", "confidence"), 0.0)
    for a in range(c):
        if not counts[a] or float(complexity[a]) < 0:
            raise ValueError(f"class {a} needs samples and a complexity that is not negative")
        for b in range(c):
            if a == b:
                continue
            g = float(gamma[a, b])
            if not g > 0:
                raise ValueError(f"gamma[{a}, {b}]={g:g} must be above 0")
            share = counts[a] / sum(counts)
            doubled = math.log(max(1.0, math.log2(max(1.0, 4 * K / g))))
            terms["complexity"] += share * float(complexity[a]) / g
            terms["margin_log"] += share * math.sqrt(doubled / counts[a])
            terms["empirical"] += share * float((pair_margins[a][:, b] <= g).double().mean())
            terms["confidence"] += share * math.sqrt(math.log(c * (c - 1) / delta) / counts[a])
    return {**terms, "total": sum(terms.values())}


@checked
def greedy_cover_number(points: Float[Tensor, "n d"], eps: NonNegative) -> int:
    """How many balls of radius `eps` a scan needs: each point not yet covered becomes a centre.

    An upper bound of the covering number; it depends on the order of the points.

    >>> greedy_cover_number(torch.tensor([[0.0], [0.4], [1.0]]), 0.5)
    2
    """
    left, number = points.detach().double(), 0
    while len(left):
        left = left[(left - left[0]).square().sum(1).sqrt() > eps]
        number += 1
    return number


@checked
def estimate_lipschitz(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "n ..."], pairs: Count = 10_000, seed: Whole = 0
) -> float:
    """The largest ratio ‖f(x) − f(x')‖ / ‖x − x'‖ of random pairs: a lower estimate of the Lipschitz constant.

    Raises:
        ValueError: if there are fewer than two points.
    """
    if len(points) < 2:
        raise ValueError("a Lipschitz constant needs at least two points")
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randint(len(points), (pairs,), generator=generator) for _ in range(2))
    with torch.no_grad():
        values = function(points).flatten(1).double()
    flat = points.detach().flatten(1).double()
    apart = (flat[one] - flat[other]).norm(dim=1)
    ratios = (values[one] - values[other]).norm(dim=1) / apart
    return float(ratios[apart > 0].max())


@checked
def covering_bound(
    inputs: Float[Tensor, "n ..."],
    target: ClassTarget,
    gamma_hat: Float[Tensor, "classes classes"],
    weight: Float[Tensor, "classes d"],
    lipschitz: Positive,
) -> float:
    """(1 / 2N) Σ_a max_c of the cover number of class a's inputs at radius γ̂_{a,c} / (L ‖w_a − w_c‖). A heuristic.

    An estimate of L from samples is too small, so the radius is too large and the value too small. Infinite (warned
    once) where a margin is not positive: the bound needs classes that are separated.
    """
    flat, total = inputs.detach().flatten(1), 0.0
    for a in range(len(weight)):
        members = flat[target == a]
        if not len(members):
            continue
        radii = []
        for c in range(len(weight)):
            if c != a:
                gap = float(gamma_hat[a, c])
                if gap <= 0:
                    warn_once("the covering bound is infinite: a margin is not positive")
                    return math.inf
                radii.append(gap / (lipschitz * float((weight[a] - weight[c]).norm())))
        total += greedy_cover_number(members, min(radii))
    return total / (2 * len(flat))
