"""All-pairs AUC: push every positive above every negative.

    L(s, y) = 1 / (n₊ n₋)  Σ_{y_i = 1} Σ_{y_j = 0}  ℓ(s_i − s_j)

ℓ is a convex surrogate of the ranking error 1[s_i < s_j]. All pairs are counted exactly; `core.pairs.loss` says how
this costs O(n log n) and less.

Yang et al., "Learning with Multiclass AUC: Theory and Algorithms", TPAMI 2021, for its fast evaluation.
"""

from __future__ import annotations

from torch import nn

from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.pairs.sides import binary_sides
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate
from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, NonNegative, SampleWeight, Scalar, Scores


@checked
def pairwise_auc_loss(
    scores: Scores,
    target: BinaryTarget,
    *,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """Mean surrogate loss over all (positive, negative) pairs.

    Args:
        scores: (n,) raw scores, higher means more positive.
        target: (n,) 1 for positive, 0 for negative.
        surrogate: the loss of one pair as a function of s_i − s_j; a name of `core.pairs.surrogates` or a function.
        margin: margin of the surrogate, at least 0, or its rate, greater than 0, in units of the score.
        sample_weight: (n,) non-negative; a pair weighs the product of its two samples' weights.

    Returns:
        The loss; zero, still attached to the graph, when one class is absent (warned once).

    >>> pairwise_auc_loss(torch.tensor([2.0, 0.5, 0.0]), torch.tensor([1, 0, 0]))
    tensor(0.)
    """
    pos, neg, pos_weight, neg_weight = binary_sides(scores, target, sample_weight, objective="the AUC loss")
    return pairwise_loss(pos, neg, surrogate, margin, pos_weight, neg_weight)


class PairwiseAUCLoss(nn.Module):
    """`pairwise_auc_loss` as a module.

    Args:
        surrogate: as in `pairwise_auc_loss`.
        margin: as in `pairwise_auc_loss`.
        gather: rank the pairs of all processes of torch.distributed; see `core.distributed`.

    >>> from equipoise.ranking import auroc
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(200, 2, generator=generator), torch.arange(200) < 20
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), PairwiseAUCLoss()
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> for _ in range(60):
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> bool(auroc(model(x).squeeze(1), y) > 0.8)
    True
    """

    @checked
    def __init__(
        self, surrogate: SurrogateLike = "squared_hinge", margin: NonNegative = 1.0, *, gather: bool = False
    ) -> None:
        super().__init__()
        resolve_surrogate(surrogate, margin)
        self.surrogate, self.margin, self.gather = surrogate, margin, gather

    def forward(self, scores: Scores, target: BinaryTarget, sample_weight: SampleWeight | None = None) -> Scalar:
        """The loss of scores (n,) by targets (n,)."""
        if self.gather:
            scores, target, sample_weight = gather_batch(scores, target, sample_weight)
        return pairwise_auc_loss(
            scores, target, surrogate=self.surrogate, margin=self.margin, sample_weight=sample_weight
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"surrogate={getattr(self.surrogate, 'name', self.surrogate)}, margin={self.margin}"
