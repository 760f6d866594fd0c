"""Train a classifier so that the true label stands high in its list, and not only somewhere in it.

    L = mean over samples of  1/K  Σ_{t ∈ T} ℓ(g(s)_y − g(s)_t)           T: the labels that rank highest

1 − AUTKC@K counts, with the 0/1 loss for ℓ, the K wrong labels that rank highest and stand before the true one. The
authors compare with one wrong label more (`comparators="negatives+1"`), divide by K all the same, and let g be the
softmax, which bounds the loss: one mislabelled sample cannot pull without end. Only T is compared, found without
sorting the rest, so that a long list costs little more than its softmax.

Where the classes of a sample are all about equally likely the loss is flat at the start: from scores that are all
equal, label y rises only if its probability exceeds 1/(|T| + 1) (measured here, on the population risk). Begin with
cross-entropy (`core.phases.WarmUp`), and do not expect Fisher consistency for such samples. Without label noise
cross-entropy does as well in our runs.

Wang et al., "Optimizing Partial Area Under the Top-k Curve: Theory and Practice", TPAMI 2023. The surrogates, the
activation and "negatives+1" are those of the authors' code; "all+1" is the paper's formula, reconstructed, and
"negatives" is the exact surrogate of 1 − AUTKC@K.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from equipoise.core.pairs.surrogates import Surrogate, resolve_surrogate
from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, ClassScores, Count
from equipoise.core.validate import warn_once
from equipoise.openworld.topk.metrics import check_list_length

Comparators: TypeAlias = Literal["negatives+1", "all+1", "negatives"]
Activation: TypeAlias = Literal["softmax", "none"]
_IGNORABLE = ClassIndex(dim=None, low=-(2**63))
"""Class indices among which `ignore_index` may stand, whatever it is."""

# exp of more than this is not far from the end of float32.
_STEEP = 80.0


@checked
def autkc_loss(
    logits: ClassScores,
    target: Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], _IGNORABLE],
    *,
    k: Count = 5,
    surrogate: str | Surrogate = "square",
    comparators: Comparators = "negatives+1",
    activation: Activation | None = None,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """Surrogate loss of the true label against the labels at the top of the list.

    Args:
        logits: (n, C) raw scores.
        target: (n,) class indices.
        k: K, the length of the list, from 1 to C. Where fewer wrong labels exist than are to be compared with, those
            there are count and the divisor stays K.
        surrogate: "square", "exponential", "logistic", "hinge", "squared_hinge" or a `Surrogate`, with margin 1.
        comparators: "negatives+1", "negatives" or "all+1" (the true label may then meet itself, a constant).
        activation: g, "softmax" or "none"; None stands for the authors' choice, no activation for the hinge and the
            softmax for all others.
        reduction: "mean" over the samples that count, "sum", or "none" for (n,) with zeros for ignored samples.
        ignore_index: samples with this target do not count.

    Returns:
        The loss; zero, attached to the graph, where every sample is ignored (warned once). At equal scores any choice
        of the highest may be taken.

    Raises:
        ValueError: on a bad argument, by name; k may not exceed C.

    >>> logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    >>> autkc_loss(logits, torch.tensor([1]), k=1, surrogate="hinge", comparators="negatives")
    tensor(2.)
    """
    chosen = resolve_surrogate(surrogate)
    counted = counted_samples(target, logits.shape[1], ignore_index)
    check_list_length(k, logits.shape[1])
    if not bool(counted.any()):
        warn_once("the AUTKC loss is zero: every sample is ignored")
        return reduce_losses(logits.sum(1), reduction, mask=counted)
    rows, labels = (logits, target) if bool(counted.all()) else (logits[counted], target[counted])
    if comparators == "all+1":
        top = rows.detach().topk(min(k + 1, rows.shape[1]), dim=1).indices
    else:
        top = highest_wrong(rows.detach(), labels, k if comparators == "negatives" else k + 1)
    # One gather, so that the gradient is one table.
    selected = rows.gather(1, torch.cat([labels[:, None], top], 1))
    if _activation(activation, chosen) == "softmax":
        selected = (selected - rows.logsumexp(1, keepdim=True)).exp()
    elif chosen.name == "exponential" and float((selected[:, 1:] - selected[:, :1]).detach().max()) > _STEEP:
        warn_once(f"the exponential AUTKC loss of a pair exceeds exp({_STEEP:g}); scale the logits or use the softmax")
    losses = chosen.value(selected[:, :1] - selected[:, 1:], 1.0).sum(1) / k
    return reduce_losses(losses.new_zeros(len(logits)).masked_scatter(counted, losses), reduction, mask=counted)


class AUTKCLoss(nn.Module):
    """`autkc_loss` as a module.

    Args:
        k: as in `autkc_loss`.
        surrogate: as in `autkc_loss`.
        comparators: as in `autkc_loss`.
        activation: as in `autkc_loss`.
        reduction: as in `autkc_loss`.
        ignore_index: as in `autkc_loss`.

    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> y = (x @ torch.randn(4, 6, generator=torch.Generator().manual_seed(1))).argmax(1)
    >>> model, loss = torch.nn.Linear(4, 6), AUTKCLoss(k=3)
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
        k: Count = 5,
        surrogate: str | Surrogate = "square",
        comparators: Comparators = "negatives+1",
        activation: Activation | None = None,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.k, self.surrogate, self.comparators = k, surrogate, comparators
        self.activation = _activation(activation, resolve_surrogate(surrogate))
        self.reduction, self.ignore_index = reduction, ignore_index

    def forward(
        self, logits: ClassScores, target: Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], _IGNORABLE]
    ) -> Float[Tensor, ""] | Float[Tensor, " n"]:
        """The loss of logits (n, C) by class indices (n,)."""
        return autkc_loss(
            logits,
            target,
            k=self.k,
            surrogate=self.surrogate,
            comparators=self.comparators,
            activation=self.activation,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return (
            f"k={self.k}, surrogate={resolve_surrogate(self.surrogate).name}, comparators={self.comparators}, "
            f"activation={self.activation}"
        )


def highest_wrong(scores: Float[Tensor, "n c"], target: Int[Tensor, " n"], k: int) -> Int[Tensor, "n k"]:
    """The k labels other than the true one that score highest, in descending order; fewer where there are no more.

    >>> highest_wrong(torch.tensor([[0.3, 0.9, 0.5]]), torch.tensor([1]), 1)
    tensor([[2]])
    """
    k = min(k, scores.shape[1] - 1)
    # One more than wanted: the true label is dropped if it is among them, else the last.
    top = scores.topk(k + 1, dim=1).indices
    keep = top != target[:, None]
    keep[:, -1] &= ~keep.all(1)
    return top[keep].view(len(top), k)


def counted_samples(target: Int[Tensor, " n"], num_classes: int, ignore_index: int | None) -> Bool[Tensor, " n"]:
    """Which samples count; `ValueError` where one of them has no class in [0, num_classes), or there is one class."""
    if num_classes < 2:
        raise ValueError(f"logits must have at least 2 classes, got shape (n, {num_classes})")
    counted = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    wrong = target[counted & ((target < 0) | (target >= num_classes))]
    if len(wrong):
        raise ValueError(f"target holds the value {int(wrong[0])}, wanted class indices from 0 to {num_classes - 1}")
    return counted


def _activation(activation: Activation | None, surrogate: Surrogate) -> Activation:
    if activation is not None:
        return activation
    return "none" if surrogate.name == "hinge" else "softmax"
