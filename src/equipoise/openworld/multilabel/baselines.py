"""Multi-label losses that TKPR is compared with: pairs of labels, their log-sum-exp, a top-K hinge, and pointwise ones.

With the relevant labels P and the irrelevant ones Q of a sample:

    PairwiseRankingLoss        mean over P × Q of ℓ(s_i − s_j)
    LSEPLoss                   log(1 + Σ_{P × Q} exp(s_j − s_i))                   (Li et al., CVPR 2017)
    MultilabelTopKHingeLoss    max(0, 1 + s_[K+1] − min_{i ∈ P} s_i)               s_[K+1]: of all labels
    AsymmetricLoss             focal weights of their own for P and Q, and a shifted probability for Q
                               (Ridnik et al., ICCV 2021); γ₊ = γ₋ and no shift is the focal loss, γ = 0 cross-entropy

Labels are unknown where the target is NaN or `ignore_index`, or outside a mask. Samples for which a loss is undefined
are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from equipoise.core.labels import LabelMask, LabelMatrix, check_ignore_index, read_labels
from equipoise.core.pairs.loss import columnwise_pairwise_loss
from equipoise.core.pairs.surrogates import SurrogateLike, resolve_surrogate
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import Count, LabelScores, NonNegative, ProperFraction, Scalar
from equipoise.core.validate import warn_once
from equipoise.openworld.topk.metrics import check_list_length


class PairwiseRankingLoss(nn.Module):
    """The mean surrogate loss over all pairs of a relevant and an irrelevant label, averaged over samples.

    Exact without a list of pairs: O(C log C) per sample for the hinges, O(C) for square and exponential.

    Args:
        surrogate: the loss of one pair as a function of s_i − s_j, see `core.pairs.surrogates`; with margin 1.
        ignore_index: what marks unknown labels in the target, such as −1.

    >>> PairwiseRankingLoss("hinge")(torch.tensor([[2.0, 0.5, 0.0]]), torch.tensor([[0, 1, 0]]))
    tensor(1.5000)
    """

    @checked
    def __init__(self, surrogate: SurrogateLike = "logistic", *, ignore_index: int | None = None) -> None:
        super().__init__()
        resolve_surrogate(surrogate)
        check_ignore_index(ignore_index)
        self.surrogate, self.ignore_index = surrogate, ignore_index

    @checked
    def forward(self, logits: LabelScores, target: LabelMatrix, mask: LabelMask | None = None) -> Scalar:
        """The mean over samples with both kinds of label; zero, attached to the graph, without any (warned once)."""
        labels = read_labels(target, mask, self.ignore_index)
        both = labels.relevant.any(1) & labels.irrelevant.any(1)
        relevant, irrelevant = (side[both].T.to(logits.dtype) for side in labels)
        losses = columnwise_pairwise_loss(logits[both].T, relevant, irrelevant, self.surrogate)
        return _mean(losses, logits, "the pairwise ranking loss")


class LSEPLoss(nn.Module):
    """A smooth maximum over all pairs of a relevant and an irrelevant label, averaged over samples.

    Args:
        ignore_index: as in `PairwiseRankingLoss`.

    >>> LSEPLoss()(torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor(0.3133)
    """

    @checked
    def __init__(self, *, ignore_index: int | None = None) -> None:
        super().__init__()
        check_ignore_index(ignore_index)
        self.ignore_index = ignore_index

    @checked
    def forward(self, logits: LabelScores, target: LabelMatrix, mask: LabelMask | None = None) -> Scalar:
        """The mean over samples with both kinds of label; zero, attached to the graph, without any (warned once)."""
        labels = read_labels(target, mask, self.ignore_index)
        both = labels.relevant.any(1) & labels.irrelevant.any(1)
        rows = logits[both]
        # The double sum of exponentials is a product of two.
        low = (-rows).masked_fill(~labels.relevant[both], -torch.inf).logsumexp(1)
        high = rows.masked_fill(~labels.irrelevant[both], -torch.inf).logsumexp(1)
        return _mean(softplus(low + high), logits, "the LSEP loss")


class MultilabelTopKHingeLoss(nn.Module):
    """How far the lowest relevant label falls short of the top K by a margin of 1, averaged over samples.

    Args:
        k: K, below the number of labels.
        ignore_index: as in `PairwiseRankingLoss`.

    >>> MultilabelTopKHingeLoss(k=1)(torch.tensor([[2.0, 0.5, 0.0]]), torch.tensor([[0, 1, 0]]))
    tensor(1.)
    """

    @checked
    def __init__(self, k: Count = 3, *, ignore_index: int | None = None) -> None:
        super().__init__()
        check_ignore_index(ignore_index)
        self.k, self.ignore_index = k, ignore_index

    @checked
    def forward(self, logits: LabelScores, target: LabelMatrix, mask: LabelMask | None = None) -> Scalar:
        """The mean over samples with a relevant label and more than K known ones; zero with a graph without any.

        Raises:
            ValueError: on a bad argument, by name; K must be below the number of labels.
        """
        labels = read_labels(target, mask, self.ignore_index)
        check_list_length(self.k, logits.shape[1] - 1)
        known = labels.relevant | labels.irrelevant
        counts = labels.relevant.any(1) & (known.sum(1) > self.k)
        rows = logits[counts]
        beyond = rows.masked_fill(~known[counts], -torch.inf).topk(self.k + 1, dim=1).values[:, -1]
        # One of several lowest gets the gradient, as one of several K + 1-th does.
        lowest = rows.masked_fill(~labels.relevant[counts], torch.inf).min(1).values
        return _mean((1 + beyond - lowest).clamp_min(0), logits, "the top-K hinge loss")


class AsymmetricLoss(nn.Module):
    """Cross-entropy of every label with focal weights, milder for relevant labels, and easy irrelevant ones dropped.

        −(1 − p)^γ₊ log p  for a relevant label;  −q^γ₋ log(1 − q), q = max(p − clip, 0), for an irrelevant one

    The mean over known labels; the authors' code sums them.

    Args:
        gamma_pos: γ₊, 0 or at least 1, where its slope is finite.
        gamma_neg: γ₋, likewise.
        clip: shift of an irrelevant label's probability, in [0, 1).
        ignore_index: as in `PairwiseRankingLoss`.

    Raises:
        ValueError: if a setting is out of range.

    >>> AsymmetricLoss(0, 0, 0)(torch.tensor([[0.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor(0.6931)
    """

    @checked
    def __init__(
        self,
        gamma_pos: NonNegative = 1.0,
        gamma_neg: NonNegative = 4.0,
        clip: ProperFraction = 0.05,
        *,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        for name, gamma in (("gamma_pos", gamma_pos), ("gamma_neg", gamma_neg)):
            if 0 < gamma < 1:
                raise ValueError(f"{name}={gamma!r} must be 0 or at least 1: its slope at 0 is infinite")
        check_ignore_index(ignore_index)
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip
        self.ignore_index = ignore_index

    @checked
    def forward(self, logits: LabelScores, target: LabelMatrix, mask: LabelMask | None = None) -> Scalar:
        """The mean over known labels; zero, attached to the graph, without any (warned once)."""
        labels = read_labels(target, mask, self.ignore_index)
        pos, neg = logits[labels.relevant], logits[labels.irrelevant]
        relevant = -((-pos).sigmoid() ** self.gamma_pos) * logsigmoid(pos)
        shifted = (neg.sigmoid() - self.clip).clamp_min(0)
        # log(1 − q) loses its digits only where nothing is shifted.
        rest = logsigmoid(-neg) if self.clip == 0 else ((-neg).sigmoid() + self.clip).clamp_max(1).log()
        irrelevant = -(shifted**self.gamma_neg) * rest
        return _mean(torch.cat([relevant, irrelevant]), logits, "the asymmetric loss")


def _mean(losses: Tensor, logits: Tensor, name: str) -> Tensor:
    if not losses.numel():
        warn_once(f"{name} is zero: no sample has the labels that it compares")
        return attached_zero(logits)
    return losses.mean()
