r"""Hinges of an observed item against unobserved ones, sampled or all of them.

    L = mean over pairs  max(0, λ + s(u, j) − s(u, k))              j observed, k not

Which k are counted decides what is optimised. Of S candidates drawn uniformly, the K nearest are kept: K = S is the
area under the ROC curve, K = 1 the hardest candidate. A candidate at quantile q of the negatives (0 the hardest) then
weighs

    w(q) = S/K · P(Binomial(S − 1, q) ≤ K − 1),

which for S → ∞ at K/S = β is 1/β on [0, β]: the one-way partial AUC at the false-positive rate β. So the range is K/S,
and more candidates at K = 1 shrink it towards the single hardest item, often one that the user would have liked.

`full_pairwise_hinge` counts every unobserved item, or exactly those of the range, without sampling.

Bao et al., "The Minority Matters", NeurIPS 2022, eq. 5-6 and the samplers of its code; K of S is our reading of
"differentiable hardness-aware sampling" in the 2024 version, reconstructed from its abstract; w(q) is derived here.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.pairs import columnwise_pairwise_loss
from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, NonNegative, Range, Values
from equipoise.recsys.metric_learning.distance import UserVectors, VectorCounts, multi_vector_distance

_OBSERVED = Values(((0, "not observed"), (1, "observed")))


@checked
def topk_negative_loss(
    pos_distance: Float[Tensor, " n"],
    neg_distance: Float[Tensor, "n candidates"],
    k: Count,
    margin: NonNegative = 1.0,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Hinge of each observed item against the K nearest of its candidates.

    Args:
        pos_distance: (n,) distance of an observed item.
        neg_distance: (n, S) distances of candidates of the same user that were not observed.
        k: K, from 1 (the hardest alone) to S (all).
        margin: λ.
        reduction: "mean" over all n·K terms, "sum" of them, or "none" for the mean of each observed item, (n,).

    Raises:
        ValueError: on a bad argument, by name.

    >>> topk_negative_loss(torch.tensor([1.0]), torch.tensor([[1.5, 0.5, 4.0]]), k=2)
    tensor(1.)
    """
    if k > neg_distance.shape[1]:
        raise ValueError(f"k={k} must lie in [1, {neg_distance.shape[1]}], the number of negatives")
    near = neg_distance if k == neg_distance.shape[1] else neg_distance.topk(k, dim=1, largest=False).values
    terms = (margin + pos_distance[:, None] - near).relu()
    return terms.mean(1) if reduction == "none" else reduce_losses(terms, reduction)


@checked
def dpcml_triplet_loss(
    user: UserVectors,
    pos: Float[Tensor, "users dim"],
    neg: Float[Tensor, "users candidates dim"],
    margin: NonNegative = 1.0,
    mining: Literal["uniform", "hard"] = "uniform",
    *,
    reduction: Reduction = "mean",
    num_vectors: VectorCounts | None = None,
) -> Float[Tensor, ""] | Float[Tensor, " users"]:
    """Hinge over triplets of a user with several vectors, an observed item and candidates.

    Args:
        user: (n, C, d) vectors of the user of each observed item.
        pos: (n, d) vector of the observed item.
        neg: (n, S, d) vectors of candidates. That none of them was observed cannot be seen here.
        margin: λ.
        mining: "uniform": every candidate counts; "hard": the nearest alone.
        reduction: as in `topk_negative_loss`; the authors sum.
        num_vectors: as in `multi_vector_distance`.

    Raises:
        ValueError: on a bad argument, by name.

    >>> user = torch.tensor([[[0.0], [3.0]]])
    >>> dpcml_triplet_loss(user, torch.tensor([[1.0]]), torch.tensor([[[2.5], [9.0]]]), mining="hard")
    tensor(1.7500)
    """
    near = multi_vector_distance(user, pos[:, None], num_vectors)[:, 0]
    far = multi_vector_distance(user, neg, num_vectors)
    return topk_negative_loss(near, far, far.shape[1] if mining == "uniform" else 1, margin, reduction=reduction)


@checked
def full_pairwise_hinge(
    distance: Float[Tensor, "users items"],
    positive: Annotated[
        Integer[Tensor, "users items"] | Bool[Tensor, "users items"] | Float[Tensor, "users items"], _OBSERVED
    ],
    margin: NonNegative = 1.0,
    *,
    max_fpr: Fraction = 1.0,
) -> Float[Tensor, ""]:
    """Hinge over all pairs of an observed and an unobserved item of each user, exact, in O(items log items) per user.

    Args:
        distance: (users, items).
        positive: (users, items) of 0 and 1.
        margin: λ.
        max_fpr: β: only the ⌊β · unobserved⌋ nearest unobserved items count, at least one, the surrogate of the one-way
            partial AUC; 1 counts all.

    Returns:
        The mean over users of their mean over pairs. A user with no item of one kind is left out.

    Raises:
        ValueError: on a bad argument, by name, or if no user has both kinds of items.

    >>> full_pairwise_hinge(torch.tensor([[0.0, 0.5, 2.0]]), torch.tensor([[1, 0, 0]]))
    tensor(0.2500)
    """
    observed = positive == 1
    counted = observed.any(1) & ~observed.all(1)
    if not bool(counted.any()):
        raise ValueError("no user has both observed and unobserved items")
    distance, observed = distance[counted], observed[counted]
    others = ~observed
    if max_fpr < 1:
        others = _nearest(distance.detach(), others, max_fpr)
    as_pos, as_neg = (mask.T.to(distance.dtype) for mask in (observed, others))
    return columnwise_pairwise_loss(-distance.T, as_pos, as_neg, "hinge", margin).mean()


@checked
def sampling_quantile_weight(
    quantile: Annotated[Float[Tensor, " n"], Range(0, 1)], num_candidates: Count, k: Count
) -> Float[Tensor, " n"]:
    """How much a negative at each quantile weighs when the K hardest of S uniform candidates are kept: w(q).

    Args:
        quantile: (n,) q, 0 for the hardest of all negatives, 1 for the easiest.
        num_candidates: S.
        k: K.

    Returns:
        (n,) weights with mean 1 over [0, 1], which do not increase; the part of the ROC curve that a sampler trains.

    Raises:
        ValueError: on a bad argument, by name.

    >>> sampling_quantile_weight(torch.tensor([0.0, 0.5]), num_candidates=10, k=1)
    tensor([10.0000,  0.0195])
    """
    if k > num_candidates:
        raise ValueError(f"k={k} must lie in [1, {num_candidates}], the number of candidates")
    q, draws = quantile.double()[:, None], num_candidates - 1
    hits = torch.arange(k, dtype=torch.float64, device=quantile.device)
    ways = math.lgamma(draws + 1) - torch.lgamma(hits + 1) - torch.lgamma(draws - hits + 1)
    chance = (ways + torch.xlogy(hits, q) + torch.special.xlog1py(draws - hits, -q)).exp().sum(1)
    return (num_candidates / k * chance).to(quantile.dtype)


def _nearest(distance: Tensor, others: Tensor, share: float) -> Tensor:
    """The mask of each user's nearest unobserved items."""
    # 0.3 · 10 must be 3 and not 2.9999.
    kept = (share * others.sum(1) + 1e-9).floor().clamp_min(1).long()
    ordered = distance.masked_fill(~others, torch.inf).sort(stable=True, dim=1).indices
    places = torch.arange(distance.shape[1], device=distance.device).expand_as(ordered)
    return others & (torch.empty_like(ordered).scatter_(1, ordered, places) < kept[:, None])
