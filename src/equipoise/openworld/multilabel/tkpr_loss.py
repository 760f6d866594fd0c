"""Train a multi-label ranking at its top: every relevant label against the K irrelevant labels that rank highest.

    L = mean over samples of  1/(α K)  Σ_{c ∈ P} Σ_{t ∈ T} ℓ(g(s_c) − t)          T: the K largest g(s_j), j irrelevant

P are the relevant labels and α is 1, |P|, or what a perfect ranking attains. The sum is convex in g(s), being one of
the K largest values of convex functions. It is found from sums: exponential in O(C + K), square and the hinges in
O(C + (n + K) log K) by running sums over the sorted T, logistic in O(C + n K) by a table taken in pieces. Memory is
linear in the logits.

A label is lifted above others only if its conditional probability exceeds about 1/(K + 1) of what competes with it:
with very noisy labels, or a teacher far from what the model can represent, binary cross-entropy or the full ranking
loss (`PairwiseRankingLoss`) can win, by up to .04 of average precision in our runs. Small K with
noisy labels is the bad case.

Wang et al., "Top-K Pairwise Ranking: Bridging the Gap Among Ranking-Based Measures for Multi-Label Classification",
IJCV 2024 (TKPR). The loss is reconstructed from the abstract and from the authors' AUTKC, there being no
public code; to compare with irrelevant labels alone is our choice, since with all labels the relevant ones push against
each other.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.labels import LabelMask, LabelMatrix, check_ignore_index, read_labels
from equipoise.core.pairs.autograd import FirstOrder
from equipoise.core.pairs.means import wide
from equipoise.core.pairs.surrogates import SURROGATES, Surrogate, SurrogateLike, resolve_surrogate
from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import Count, LabelScores
from equipoise.core.validate import warn_once
from equipoise.openworld.multilabel.labels import (
    Normalizer,
    normalizer_values,
    pack,
    row_counts,
)
from equipoise.openworld.topk.metrics import check_list_length

Comparators: TypeAlias = Literal["irrelevant", "all"]
Activation: TypeAlias = Literal["none", "sigmoid"]

# Entries of the table of pairs that are held at once.
_PIECE = 1 << 20
# exp of more than this is not far from the end of float32.
_STEEP = 80.0


@checked
def tkpr_loss(
    logits: LabelScores,
    target: LabelMatrix,
    *,
    k: Count = 3,
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
    surrogate: SurrogateLike = "logistic",
    comparators: Comparators = "irrelevant",
    normalizer: Normalizer = "num_relevant",
    activation: Activation = "none",
    reduction: Reduction = "mean",
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Surrogate loss of every relevant label against the K comparators that rank highest.

    Args:
        logits: (n, C) raw scores.
        target: (n, C) in {0, 1}, NaN where unknown.
        k: K, from 1 to C. Where fewer labels can be compared with, those present count and the divisor stays K.
        mask: (n, C), True where the label is known; other labels are neither relevant nor compared with (our rule; the
            paper's is not known to us).
        ignore_index: what marks unknown labels in the target, such as −1.
        surrogate: the loss of g(s_c) − t, see `core.pairs.surrogates`; with margin 1.
        comparators: "irrelevant", or "all" for the K highest of all labels, as the measure reads literally; a relevant
            label may then meet itself, a constant.
        normalizer: α: "one", "num_relevant" or "ideal"; see `tkpr`.
        activation: g, "none" or "sigmoid"; with the sigmoid the loss is convex in the probabilities only.
        reduction: "mean" over the samples that count, "sum", or "none" for (n,) with zeros for those that do not.

    Returns:
        The loss. A sample without a relevant label, or without an irrelevant one for "irrelevant", does not count;
        where none counts, zero attached to the graph (warned once). At equal scores any choice of the top K may be
        taken, and at a kink the slope is 0. Gradients are of first order only.

    Raises:
        ValueError: on a bad argument, by name; k may not exceed C.

    >>> logits, target = torch.tensor([[2.0, 0.0, 1.0, -1.0]]), torch.tensor([[1, 0, 0, 1]])
    >>> tkpr_loss(logits, target, k=1, surrogate="hinge")
    tensor(1.5000)
    """
    chosen = resolve_surrogate(surrogate)
    labels = read_labels(target, mask, ignore_index)
    check_list_length(k, logits.shape[1])
    compared = labels.irrelevant if comparators == "irrelevant" else labels.relevant | labels.irrelevant
    num_relevant, num_compared = row_counts(labels.relevant), row_counts(compared)
    counts = (num_relevant > 0) & (num_compared > 0)
    if not bool(counts.any()):
        warn_once("the TKPR loss is zero: no sample has both a relevant label and one to compare it with")
        return reduce_losses(logits.sum(1), reduction, mask=counts)

    relevant = pack(labels.relevant)
    top = logits.detach().masked_fill(~compared, -torch.inf).topk(k, dim=1).indices
    places = torch.arange(k, device=logits.device)
    # Only what was selected goes on, in full precision.
    pos, neg = (logits.gather(1, index).to(wide(logits)) for index in (relevant.columns, top))
    if activation == "sigmoid":
        pos, neg = pos.sigmoid(), neg.sigmoid()
    sums = _SelectedPairs.apply(pos, relevant.valid, neg, places < num_compared[:, None], chosen)
    losses = sums / (normalizer_values(num_relevant, k, normalizer) * k)
    return reduce_losses(losses, reduction, mask=counts).to(logits.dtype)


class TKPRLoss(nn.Module):
    """`tkpr_loss` as a module.

    Args:
        k: as in `tkpr_loss`.
        surrogate: as in `tkpr_loss`.
        comparators: as in `tkpr_loss`.
        normalizer: as in `tkpr_loss`.
        activation: as in `tkpr_loss`.
        reduction: as in `tkpr_loss`.
        ignore_index: as in `tkpr_loss`.

    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> y = (x @ torch.randn(4, 6, generator=torch.Generator().manual_seed(1)) > 1).long()
    >>> model, loss = torch.nn.Linear(4, 6), TKPRLoss(k=3)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> start = loss(model(x), y).item()
    >>> for _ in range(30):
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()
    ...     optimizer.step()
    >>> loss(model(x), y).item() < start
    True
    """

    @checked
    def __init__(
        self,
        k: Count = 3,
        surrogate: SurrogateLike = "logistic",
        comparators: Comparators = "irrelevant",
        normalizer: Normalizer = "num_relevant",
        activation: Activation = "none",
        reduction: Reduction = "mean",
        *,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        resolve_surrogate(surrogate)
        check_ignore_index(ignore_index)
        self.k, self.surrogate = k, surrogate
        self.comparators, self.normalizer = comparators, normalizer
        self.activation, self.reduction, self.ignore_index = activation, reduction, ignore_index

    def forward(
        self, logits: LabelScores, target: LabelMatrix, mask: LabelMask | None = None
    ) -> Float[Tensor, ""] | Float[Tensor, " n"]:
        """The loss of logits (n, C) by targets (n, C), of the labels that `mask` marks as known."""
        return tkpr_loss(
            logits,
            target,
            k=self.k,
            mask=mask,
            ignore_index=self.ignore_index,
            surrogate=self.surrogate,
            comparators=self.comparators,
            normalizer=self.normalizer,
            activation=self.activation,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return (
            f"k={self.k}, surrogate={resolve_surrogate(self.surrogate).name}, comparators={self.comparators}, "
            f"normalizer={self.normalizer}, activation={self.activation}"
        )


class _SelectedPairs(torch.autograd.Function):
    """Σ_i Σ_j ℓ(pos_i − neg_j) of every row, over the valid entries; the gradient is found with the value.

    `neg` descends along its rows and its valid entries come first.
    """

    @staticmethod
    def forward(
        ctx: Any, pos: Tensor, pos_valid: Tensor, neg: Tensor, neg_valid: Tensor, surrogate: Surrogate
    ) -> Tensor:
        if surrogate == SURROGATES["exponential"]:
            value, pos_slope, neg_slope = _exponential(pos, pos_valid, neg, neg_valid)
        elif surrogate.name in _POWERS and surrogate == SURROGATES[surrogate.name]:
            value, pos_slope, neg_slope = _truncated_power(pos, pos_valid, neg, neg_valid, surrogate.name)
        else:
            value, pos_slope, neg_slope = _table(pos, pos_valid, neg, neg_valid, surrogate)
        ctx.save_for_backward(pos, neg, pos_slope, neg_slope)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        pos, neg, pos_slope, neg_slope = ctx.saved_tensors

        def gradients(upstream: Tensor) -> tuple[Tensor, Tensor]:
            # A row that does not count has upstream 0, also where its slope overflowed.
            live = (upstream != 0)[:, None]
            scaled = (torch.where(live, slope * upstream[:, None], 0.0) for slope in (pos_slope, neg_slope))
            return next(scaled), next(scaled)

        by_pos, by_neg = FirstOrder.apply(gradients, upstream, pos, neg)
        return by_pos, None, by_neg, None, None


_Sums = tuple[Tensor, Tensor, Tensor]
# (1 − t)₊ to this power; the square has no kink.
_POWERS = {"hinge": 1, "squared_hinge": 2, "square": 2}


def _exponential(pos: Tensor, pos_valid: Tensor, neg: Tensor, neg_valid: Tensor) -> _Sums:
    u, t = (-pos).masked_fill(~pos_valid, -torch.inf), neg.masked_fill(~neg_valid, -torch.inf)
    both = u.logsumexp(1) + t.logsumexp(1)
    if both.numel() and float(both.max()) > _STEEP:
        warn_once(
            f"the exponential TKPR loss of a sample exceeds exp({_STEEP:g}); scale the logits, use "
            "activation='sigmoid' or another surrogate"
        )
    value = both.exp()
    # A row without valid entries has no softmax.
    shares = [torch.where(valid, x.softmax(1), 0.0) for x, valid in ((u, pos_valid), (t, neg_valid))]
    return value, -value[:, None] * shares[0], value[:, None] * shares[1]


def _truncated_power(pos: Tensor, pos_valid: Tensor, neg: Tensor, neg_valid: Tensor, name: str) -> _Sums:
    # Around the highest comparator nothing large cancels.
    centre = neg[:, :1]
    u = torch.where(pos_valid, 1 - (pos - centre), 0.0)
    t = torch.where(neg_valid, neg - centre, 0.0)
    if name == "square":
        active = neg_valid.sum(1, keepdim=True).expand_as(u)
    else:
        # u + t > 0 holds for the first `active` of the descending t.
        ascending = (-t).masked_fill(~neg_valid, torch.inf)
        active = torch.searchsorted(ascending.contiguous(), u.contiguous())
    active = active * pos_valid
    none = t.new_zeros(t.shape[0], 1)
    sum_t = torch.cat([none, t.cumsum(1)], 1).gather(1, active)

    def beyond(weight: Tensor) -> Tensor:
        """Σ of the weights of the entries for which t_k is active, for every k."""
        at = t.new_zeros(t.shape[0], t.shape[1] + 1).scatter_add_(1, active, weight)
        return at.flip(1).cumsum(1).flip(1)[:, 1:]

    held = beyond(pos_valid.to(t.dtype))
    if _POWERS[name] == 1:
        return (active * u + sum_t).sum(1), -active.to(t.dtype), held
    sum_squares = torch.cat([none, t.square().cumsum(1)], 1).gather(1, active)
    value = (active * u.square() + 2 * u * sum_t + sum_squares).sum(1)
    return value, -2 * (active * u + sum_t), 2 * (beyond(u) + held * t) * neg_valid


def _table(pos: Tensor, pos_valid: Tensor, neg: Tensor, neg_valid: Tensor, surrogate: Surrogate) -> _Sums:
    value, neg_slope = pos.new_zeros(pos.shape[0]), torch.zeros_like(neg)
    pos_slope = torch.zeros_like(pos)
    width = max(1, _PIECE // max(1, neg.numel()))
    for start in range(0, pos.shape[1], width):
        piece = slice(start, start + width)
        pairs = pos_valid[:, piece, None] & neg_valid[:, None]
        t = torch.where(pairs, pos[:, piece, None] - neg[:, None], 0.0)
        slope = torch.where(pairs, surrogate.slope(t, 1.0), 0.0)
        value += torch.where(pairs, surrogate.value(t, 1.0), 0.0).sum((1, 2))
        pos_slope[:, piece] = slope.sum(2)
        neg_slope -= slope.sum(1)
    return value, pos_slope, neg_slope
