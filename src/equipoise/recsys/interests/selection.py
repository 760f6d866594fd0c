r"""The wrapping operator: how much each item of a history counts for the item that is shown, as a network.

    w_t = MLP([e_t, q, e_t ∘ q, e_t − q])        a_t = sigmoid(w_t)   or   softmax(w)_t        v = Σ_t a_t e_t

e_t are the vectors of a history, q that of the item shown. With the sigmoid, each a_t in [0, 1] is a soft choice of its
own: none may be chosen, and v grows with how many are. The softmax of classic attention always spends a weight of one.

The first layer is computed without its four blocks, and exactly: with W = [W₁ W₂ W₃ W₄],

    W [e, q, e ∘ q, e − q] = (W₁ + W₄) e + W₃ (e ∘ q) + (W₂ − W₄) q

where the last term is the same for the whole history. Only items that are there pass through the network, so that
padding costs nothing and reaches no gradient.

Cao et al., "Meta-Wrapper", TPAMI 2022, reconstructed from its abstract; the network is that of deep interest networks
(Zhou et al., KDD 2018), from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn.functional import linear

from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, ProperFraction, Values

Normalization: TypeAlias = Literal["sigmoid", "softmax"]
Mask: TypeAlias = Annotated[
    Bool[Tensor, "n t"] | Integer[Tensor, "n t"] | Float[Tensor, "n t"], Values(((0, "padding"), (1, "an item")))
]


@checked
def interest_pooling(
    behavior: Float[Tensor, "n t d"],
    logit: Float[Tensor, "n t"],
    mask: Mask,
    normalization: Normalization = "sigmoid",
) -> Float[Tensor, "n d"]:
    """The sum of the vectors of a history, each weighted by its choice; zero for an empty history.

    Args:
        behavior: (n, t, d) vectors of the items of each history.
        logit: (n, t) score of each.
        mask: (n, t) 1 where there is an item, 0 where there is padding, which counts nothing.
        normalization: "sigmoid" for a weight in [0, 1] of its own for each; "softmax" for weights that sum to one.

    Raises:
        ValueError: on another shape, NaN, or a mask with other values.

    Reconstructed.

    >>> behavior = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    >>> interest_pooling(behavior, torch.zeros(1, 3), torch.tensor([[1, 1, 0]]))
    tensor([[0.5000, 0.5000]])
    """
    return pooled(behavior, selection_weights(logit, mask.bool(), normalization))


def selection_weights(
    logit: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], normalization: Normalization
) -> Float[Tensor, "n t"]:
    """The weights of `interest_pooling`, zero where there is no item."""
    if normalization == "sigmoid":
        return torch.where(mask, logit.sigmoid(), 0.0)
    # The least finite number and not −∞: a row without items would have a gradient of NaN.
    return logit.masked_fill(~mask, torch.finfo(logit.dtype).min).softmax(1) * mask


def pooled(behavior: Float[Tensor, "n t d"], weights: Float[Tensor, "n t"]) -> Float[Tensor, "n d"]:
    """Weighted sums of the vectors of each row, never rounded to half precision by autocast."""
    with torch.autocast(behavior.device.type, enabled=False):
        return (weights.to(behavior)[:, None] @ behavior).squeeze(1)


class InterestSelector(nn.Module):
    """The weights of the items of a history for the item that is shown, by a network of both.

    Args:
        dim: d, of the vectors.
        hidden: widths of the hidden layers.
        normalization: "sigmoid" or "softmax", as in `interest_pooling`.
        dropout: on the hidden layers.
        threshold: of "sigmoid": in evaluation mode a weight of at least this is 1, a smaller one 0. None leaves them.

    Raises:
        ValueError: on a setting out of range; without a hidden layer; on a threshold with "softmax".

    Reconstructed.

    >>> selector = InterestSelector(4)
    >>> weights = selector(torch.ones(2, 3, 4), torch.ones(2, 4), torch.tensor([[1, 1, 0], [0, 0, 0]]))
    >>> weights.shape, weights[1].sum().item()
    (torch.Size([2, 3]), 0.0)
    """

    @checked
    def __init__(
        self,
        dim: Count,
        hidden: Sequence[Count] = (64, 16),
        normalization: Normalization = "sigmoid",
        *,
        dropout: ProperFraction = 0.0,
        threshold: OpenFraction | None = None,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden must hold the width of at least one layer")
        if threshold is not None and normalization != "sigmoid":
            raise ValueError(f"threshold={threshold!r} is of weights in [0, 1] each; normalization must be 'sigmoid'")
        self.normalization, self.threshold = normalization, threshold
        self.first = nn.Linear(4 * dim, hidden[0])
        self.rest = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), perceptron(hidden[0], hidden[1:], dropout))

    @checked
    def forward(
        self, behavior: Float[Tensor, "n t d"], target: Float[Tensor, "n d"], mask: Mask
    ) -> Float[Tensor, "n t"]:
        """Weights (n, t), zero where there is no item.

        Args:
            behavior: (n, t, d) vectors of the items of each history.
            target: (n, d) vector of the item shown.
            mask: (n, t) 1 where there is an item.
        """
        there = mask.bool()
        row = there.nonzero()[:, 0]
        vector, shown = behavior[there], target[row]
        alone, of_target, product, difference = self.first.weight.chunk(4, 1)
        per_row = linear(target, of_target - difference, self.first.bias)
        hidden = linear(torch.cat([vector, vector * shown], 1), torch.cat([alone + difference, product], 1))
        logit = self.rest(hidden + per_row[row]).squeeze(1)
        padded = behavior.new_zeros(there.shape, dtype=logit.dtype).masked_scatter(there, logit)
        weights = selection_weights(padded, there, self.normalization)
        if self.threshold is not None and not self.training:
            return (weights >= self.threshold).to(weights)
        return weights


class EvenSelector(nn.Module):
    """The same weight for all items of a history, 1 / length: mean pooling, which looks at nothing."""

    def forward(
        self, behavior: Float[Tensor, "n t d"], target: Float[Tensor, "n d"], mask: Mask
    ) -> Float[Tensor, "n t"]:
        """Weights (n, t), zero where there is no item."""
        there = mask.to(behavior)
        return there / there.sum(1, keepdim=True).clamp_min(1)


def perceptron(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Hidden layers with ReLU and dropout, and one output.

    >>> [type(layer).__name__ for layer in perceptron(4, (8,), 0.0)]
    ['Linear', 'ReLU', 'Dropout', 'Linear']
    """
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 1))
