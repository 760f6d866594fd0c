"""1:N matching: of N candidates, one of which is of the query's identity, is that one the nearest?

Benchmarks draw lists of N − 1 negatives for every query. The accuracy over *all* such lists needs no list: a positive
with `a` of its G negatives above it and t tied, so that L = G − a − t are below, is on top of a random list with
probability

    P = C(L, N−1) / C(G, N−1)                                           ties lost      "pessimistic"
    P = C(L + t, N−1) / C(G, N−1)                                       ties won       "optimistic"
    P = [C(L + t + 1, N) − C(L, N)] / [(t + 1) C(G, N−1)]               1 / number tied, "fractional"

of which the last is Σ_k C(t, k) C(L, N−1−k) / (k + 1) by Vandermonde's identity. The mean is over queries, of the mean
over each one's positives; queries with no positive, or with fewer than N − 1 negatives, are left out. Chance is 1/N.

The protocol is that of Nagrani et al., CVPR 2018, and of Wen et al., "Seeking the Shape of Sound", CVPR 2021, whose
code counts every tie as won; the formula for all lists is derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.contrastive import inverse_norms
from equipoise.core.metrics import nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import Range
from equipoise.multimodal.association.metric import AssociationMetric, GalleryIndex, QueryIndex
from equipoise.multimodal.association.pairs import PositivePairs, on_grid, positive_pairs, sides

Ties: TypeAlias = Literal["fractional", "optimistic", "pessimistic"]
ListLength: TypeAlias = Annotated[int, Range(2)]


@checked
def matching_accuracy(
    query: Float[Tensor, "q d"],
    candidates: Float[Tensor, "q listed d"],
    n_way: ListLength | None = None,
    ties: Ties = "fractional",
) -> Float[Tensor, ""]:
    """The share of queries whose candidate 0 is the nearest of the first `n_way` listed for it.

    Args:
        query: (q, d) embeddings; scores are cosines.
        candidates: (q, N, d) listed for each query, the one of its identity first.
        n_way: how many of them are used; all by default.
        ties: what a positive wins that ties with others for the first place: "fractional" 1 / number tied,
            "optimistic" all, "pessimistic" nothing.

    Returns:
        A float64 scalar.

    Raises:
        ValueError: if fewer than two, or fewer than `n_way`, are listed.

    >>> query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> listed = torch.tensor([[[2.0, 0.1], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    >>> matching_accuracy(query, listed)
    tensor(0.7500, dtype=torch.float64)
    """
    listed = candidates.shape[1]
    if listed < 2 or (n_way is not None and listed < n_way):
        raise ValueError(f"candidates lists {listed} for each query, wanted {n_way or 2} or more")
    used = candidates[:, : n_way or listed].double()
    units = [x * inverse_norms(x.flatten(0, -2)).view(*x.shape[:-1], 1) for x in (query.double(), used)]
    # Rounded once, and summed alike for every candidate, so that equal ones tie.
    scores = on_grid((units[0][:, None] * units[1]).sum(-1))
    own, others = scores[:, :1], scores[:, 1:]
    best = (others <= own).all(1)
    tied = (others == own).sum(1)
    credit = {"fractional": 1 / (1 + tied).double(), "optimistic": best.double(), "pessimistic": (tied == 0).double()}
    return (best * credit[ties]).mean()


@checked
def gallery_matching_accuracy(
    query: Float[Tensor, "q d"],
    gallery: Float[Tensor, "g d"],
    query_identity: QueryIndex,
    gallery_identity: GalleryIndex,
    query_group: QueryIndex | None = None,
    gallery_group: GalleryIndex | None = None,
    *,
    n_way: Sequence[ListLength] = (2,),
    ties: Ties = "fractional",
) -> dict[str, Float[Tensor, ""]]:
    """The accuracy over all lists that could be drawn from a gallery, for every N.

    Args:
        query: (q, d) embeddings of one modality; scores are cosines.
        gallery: (g, d) of the other.
        query_identity: (q,) whole numbers.
        gallery_identity: (g,).
        query_group: (q,) whose negatives are drawn from the same group only; a group belongs to an identity.
        gallery_group: (g,).
        n_way: the list lengths N.
        ties: as in `matching_accuracy`.

    Returns:
        {"1:N": float64 scalar}.

    Raises:
        ValueError: if no query has a positive and N − 1 negatives, or an identity has two groups.

    >>> face, voice = torch.eye(3), torch.eye(3) + 0.1
    >>> gallery_matching_accuracy(face, voice, torch.arange(3), torch.arange(3), n_way=(2, 3))
    {'1:2': tensor(1., dtype=torch.float64), '1:3': tensor(1., dtype=torch.float64)}
    """
    pairs = positive_pairs(sides(query, gallery, query_identity, gallery_identity, query_group, gallery_group))
    return {f"1:{n}": accuracy_of_pairs(pairs, n, ties) for n in n_way}


def accuracy_of_pairs(pairs: PositivePairs, n_way: int, ties: Ties = "fractional") -> Float[Tensor, ""]:
    """The mean over queries that have a positive and N − 1 negatives.

    Raises:
        ValueError: if there is none.
    """
    kept = pairs.negatives >= n_way - 1
    if not bool(kept.any()):
        most = int(pairs.negatives.max())
        raise ValueError(f"n_way={n_way} needs {n_way - 1} negatives for a query, the most that one has are {most}")
    return pairs.mean_of_queries(chance_on_top(pairs.above, pairs.tied, pairs.negatives, n_way, ties), kept)


def chance_on_top(above: Tensor, tied: Tensor, negatives: Tensor, n_way: int, ties: Ties = "fractional") -> Tensor:
    """The probability that a positive is on top of a random list with N − 1 of its negatives.

    Args:
        above: negatives that score higher, any shape.
        tied: negatives that score the same.
        negatives: all negatives; 0 to N − 2 of them give no meaningful number.
        n_way: N.
        ties: as in `matching_accuracy`.

    >>> chance_on_top(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([4, 4]), 2)
    tensor([0.7500, 0.8750], dtype=torch.float64)
    """
    above, tied, negatives = (each.double() for each in (above, tied, negatives))
    below = negatives - above - tied
    if ties == "optimistic":
        return _choices(below + tied, negatives, n_way - 1)
    lost = _choices(below, negatives, n_way - 1)
    if ties == "pessimistic":
        return lost

    def of_n(size: Tensor) -> Tensor:  # C(size, N) / C(G, N − 1)
        return _choices(size, negatives, n_way - 1) * (size - n_way + 1).clamp_min(0) / n_way

    return torch.where(tied > 0, (of_n(below + tied + 1) - of_n(below)) / (tied + 1), lost)


def _choices(few: Tensor, many: Tensor, k: int) -> Tensor:
    """C(few, k) / C(many, k), as a product of k ratios that are all in reach of a float."""
    ratio = torch.ones_like(few)
    for step in range(k):
        ratio = ratio * (few - step).clamp_min(0) / (many - step).clamp_min(1)
    return ratio


class MatchingAccuracy(AssociationMetric):
    """The accuracy of 1:N matching over all lists; see `equipoise.multimodal.gallery_matching_accuracy`.

    Args:
        n_way: as in `gallery_matching_accuracy`.
        ties: as in `gallery_matching_accuracy`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = MatchingAccuracy(n_way=(2,))
    >>> metric.update(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3))
    >>> metric.compute()
    {'1:2': tensor(1., dtype=torch.float64)}
    """

    @checked
    def __init__(self, n_way: Sequence[ListLength] = (2,), *, ties: Ties = "fractional", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_way, self.ties = tuple(n_way), ties

    def nothing(self) -> Any:
        """NaN by name."""
        return nan_by_name((f"1:{n}" for n in self.n_way), self.device)

    def compute(self) -> dict[str, Tensor]:
        """The accuracies of all that was seen."""
        return gallery_matching_accuracy(*self.samples(), n_way=self.n_way, ties=self.ties)
