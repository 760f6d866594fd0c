"""Partial AUC by hard selection: rank only the negatives that spend the budget, and the positives that are missed.

    L = Σ_{i ∈ lowest a n₊} Σ_{j ∈ highest b n₋}  w_i v_j ℓ(s_i − s_j) / Σ_i w_i Σ_j v_j       a = 1 − min_tpr, b =
    max_fpr

The selection is made by the scores of the batch, and the selected pairs all count. a n₊ and b n₋ are seldom whole: with
the fractional boundary the last selected sample counts by its fraction, so that a small batch still has the wanted
share (b n₋ = 0.6 gives the highest negative weight 0.6 rather than none).

The loss depends on the batch: the highest 5 % of a small batch's negatives are not those of the data, so use batches of
several times 1 / max_fpr negatives, or the smooth weights of `weighted_partial_auc`.

Yang et al., "When All We Need is a Piece of the Pie", ICML 2021, for the objective.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equipoise.core.curves.selection import BOUNDARIES, hardest
from equipoise.core.distributed import gather_batch
from equipoise.core.pairs.loss import SurrogateLike, pairwise_loss, split_classes
from equipoise.core.validate import check_binary, check_choice, check_fraction, check_positive, warn_once
from equipoise.ranking.pairwise_auc import warn_of_one_class

BinaryTarget = Int[Tensor, " n"] | Bool[Tensor, " n"]


class Selection(NamedTuple):
    """The hardest samples of both classes.

    Attributes:
        pos: indices into the positives.
        pos_weight: weight of each, in (0, 1].
        neg: indices into the negatives.
        neg_weight: weight of each, in (0, 1].
    """

    pos: Tensor
    pos_weight: Tensor
    neg: Tensor
    neg_weight: Tensor


def select_partial(
    pos: Float[Tensor, " n_pos"],
    neg: Float[Tensor, " n_neg"],
    max_fpr: float,
    min_tpr: float = 0.0,
    boundary: str = "fractional",
) -> Selection:
    """Select the highest max_fpr of the negatives and the lowest 1 − min_tpr of the positives.

    >>> select_partial(torch.tensor([0.9, 0.1]), torch.tensor([0.3, 0.8, 0.2]), max_fpr=0.5).neg
    tensor([1, 0])
    """
    return Selection(
        *hardest(pos, 1 - min_tpr, largest=False, boundary=boundary),
        *hardest(neg, max_fpr, largest=True, boundary=boundary),
    )


def partial_auc_loss(
    scores: Float[Tensor, " n"],
    target: BinaryTarget,
    *,
    max_fpr: float,
    min_tpr: float = 0.0,
    surrogate: SurrogateLike = "squared_hinge",
    margin: float = 1.0,
    boundary: str = "fractional",
) -> Float[Tensor, ""]:
    """Mean surrogate loss over the pairs of the hardest positives and negatives.

    Args:
        scores: (n,) raw scores.
        target: (n,) in {0, 1}.
        max_fpr: share of the negatives that counts, the highest-scored, in (0, 1]; the papers' β.
        min_tpr: 1 − the share of the positives that counts, the lowest-scored, in [0, 1); the papers' 1 − α. 0 is the
            one-way partial AUC.
        surrogate: as in `pairwise_auc_loss`.
        margin: as in `pairwise_auc_loss`.
        boundary: "fractional" weighs the last selected sample by its fraction; "floor" drops it, as the papers'
            metric does.

    Returns:
        The loss; zero, still attached to the graph, when a class is absent or nothing is selected (warned once).

    Raises:
        ValueError: as `pairwise_auc_loss`; if a bound is out of range or the boundary unknown.

    >>> scores, target = torch.tensor([2.0, 0.0, 1.5, -3.0]), torch.tensor([1, 1, 0, 0])
    >>> partial_auc_loss(scores, target, max_fpr=0.5)
    tensor(3.2500)
    """
    check_binary(scores, target)
    _check_region(max_fpr, min_tpr)
    pos, neg = split_classes(scores, target == 1)
    warn_of_one_class(pos, neg, "the partial AUC loss")
    chosen = select_partial(pos, neg, max_fpr, min_tpr, boundary)
    if pos.shape[0] and neg.shape[0] and not (len(chosen.pos) and len(chosen.neg)):
        warn_once(
            f"the partial AUC loss is zero: max_fpr={max_fpr:g} of {neg.shape[0]} negatives or {1 - min_tpr:g} of "
            f"{pos.shape[0]} positives is less than one sample; use larger batches or boundary='fractional'"
        )
    if not (len(chosen.pos) and len(chosen.neg)):
        return scores.sum() * 0
    return pairwise_loss(pos[chosen.pos], neg[chosen.neg], surrogate, margin, chosen.pos_weight, chosen.neg_weight)


class PartialAUCLoss(nn.Module):
    """`partial_auc_loss` as a module.

    Args:
        max_fpr: as in `partial_auc_loss`.
        min_tpr: as in `partial_auc_loss`.
        surrogate: as in `partial_auc_loss`.
        margin: as in `partial_auc_loss`.
        boundary: as in `partial_auc_loss`.
        gather: select and rank over all processes of torch.distributed; see `core.distributed`.

    >>> x, y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400) < 40
    >>> x = x + y[:, None]
    >>> model, loss = torch.nn.Linear(2, 1), PartialAUCLoss(max_fpr=0.1)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x).squeeze(1), y).item()
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     loss(model(x).squeeze(1), y).backward()
    ...     optimizer.step()
    >>> loss(model(x).squeeze(1), y).item() < start
    True
    """

    def __init__(
        self,
        max_fpr: float,
        min_tpr: float = 0.0,
        surrogate: SurrogateLike = "squared_hinge",
        margin: float = 1.0,
        boundary: str = "fractional",
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        _check_region(max_fpr, min_tpr)
        check_positive("margin", margin)
        check_choice("boundary", boundary, BOUNDARIES)
        self.max_fpr, self.min_tpr = max_fpr, min_tpr
        self.surrogate, self.margin, self.boundary, self.gather = surrogate, margin, boundary, gather

    def forward(self, scores: Float[Tensor, " n"], target: BinaryTarget) -> Float[Tensor, ""]:
        """The loss of scores (n,) by targets (n,)."""
        if self.gather:
            scores, target, _ = gather_batch(scores, target)
        return partial_auc_loss(
            scores,
            target,
            max_fpr=self.max_fpr,
            min_tpr=self.min_tpr,
            surrogate=self.surrogate,
            margin=self.margin,
            boundary=self.boundary,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        name = getattr(self.surrogate, "name", self.surrogate)
        return f"max_fpr={self.max_fpr}, min_tpr={self.min_tpr}, surrogate={name}, margin={self.margin}"


def _check_region(max_fpr: float, min_tpr: float) -> None:
    check_fraction("max_fpr", max_fpr)
    check_fraction("min_tpr", min_tpr, zero=True, one=False)
