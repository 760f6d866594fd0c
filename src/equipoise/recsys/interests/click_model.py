r"""A click model of an item shown and a history of any length: selector, pooling, predictor.

    v = Σ_t a_t e_t        logit = MLP([v, q, v ∘ q, x])

with q the vector of the item shown, e_t those of the history, a the weights of `InterestSelector`, x the context. It is
the deep interest network (Zhou et al., KDD 2018), from memory; its inputs are those reconstructed for "Meta-Wrapper".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import embedding

from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, ProperFraction, Range, Whole
from equipoise.recsys.interests.selection import EvenSelector, InterestSelector, Mask, perceptron, pooled

Selection: TypeAlias = Literal["sigmoid", "softmax", "mean"]


class DIN(nn.Module):
    """A deep interest network whose selector and predictor can be trained apart.

    Args:
        num_items: items of the catalogue, to learn a vector of each.
        dim: width of these vectors.
        item_features: (items, features) given vectors, in place of learned ones.
        num_context: features of the context.
        selection: "sigmoid", a choice of its own for every item; "softmax", classic attention; "mean", the plain mean
            of the history.
        selector_hidden: widths of the selector's hidden layers.
        predictor_hidden: widths of the predictor's.
        dropout: on all of these.
        sparse: learn vectors by sparse gradients, for large catalogues; they need `torch.optim.SparseAdam`, which
            `fit_click_model` takes.
        threshold: as in `InterestSelector`.

    Parameters are named "items", "selector" and "predictor".

    Raises:
        ValueError: unless either `num_items` or `item_features` is given; on a setting out of range.

    >>> model = DIN(num_items=100, dim=8)
    >>> model(torch.tensor([5, 7]), torch.tensor([[1, 2], [0, 0]]), torch.tensor([[1, 1], [0, 0]])).shape
    torch.Size([2])
    """

    item_features: Tensor | None

    @checked
    def __init__(
        self,
        num_items: Count | None = None,
        dim: Count = 16,
        *,
        item_features: Float[Tensor, "items features"] | None = None,
        num_context: Whole = 0,
        selection: Selection = "sigmoid",
        selector_hidden: Sequence[Count] = (64, 16),
        predictor_hidden: Sequence[Count] = (200, 80),
        dropout: ProperFraction = 0.0,
        sparse: bool = False,
        threshold: OpenFraction | None = None,
    ) -> None:
        super().__init__()
        if (num_items is None) == (item_features is None):
            raise ValueError("give either num_items, to learn vectors, or item_features, but not both")
        if threshold is not None and selection != "sigmoid":
            raise ValueError(f"threshold={threshold!r} is of weights in [0, 1] each; selection must be 'sigmoid'")
        self.register_buffer("item_features", item_features)
        if item_features is not None:
            self.num_items, dim = item_features.shape
        elif num_items is not None:
            self.num_items = num_items
            self.items = nn.Embedding(num_items, dim, sparse=sparse)
        self.num_context = num_context
        self.selector: nn.Module = (
            EvenSelector()
            if selection == "mean"
            else InterestSelector(dim, selector_hidden, selection, dropout=dropout, threshold=threshold)
        )
        self.predictor = perceptron(3 * dim + num_context, predictor_hidden, dropout)

    @checked
    def forward(
        self,
        item: Annotated[Integer[Tensor, " n"], Range(0)],
        history: Annotated[Integer[Tensor, "n t"], Range(0)],
        mask: Mask,
        context: Float[Tensor, "n c"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Logits (n,) of a click.

        Args:
            item: (n,) index of the item shown.
            history: (n, t) indices of the items before; any index where the mask is 0.
            mask: (n, t) 1 where there is an item; a row may have none.
            context: (n, num_context).

        Raises:
            ValueError: on indices that the catalogue has not, or a context of another width.
        """
        self._check(item, history, context)
        shown, interest = self._vectors(item), self._vectors(history)
        interest = pooled(interest, self.selector(interest, shown, mask))
        parts = [interest, shown, interest * shown, *([] if context is None else [context])]
        return self.predictor(torch.cat(parts, 1)).squeeze(1)

    @checked
    def weights(self, item: Integer[Tensor, " n"], history: Integer[Tensor, "n t"], mask: Mask) -> Float[Tensor, "n t"]:
        """How much each item of a history counts for the item shown, (n, t), as the selector says."""
        return self.selector(self._vectors(history), self._vectors(item), mask)

    def _vectors(self, index: Tensor) -> Tensor:
        table = self.item_features
        return self.items(index) if table is None else embedding(index, table)

    def _check(self, item: Tensor, history: Tensor, context: Tensor | None) -> None:
        width = 0 if context is None else context.shape[1]
        if width != self.num_context:
            raise ValueError(f"context must have num_context={self.num_context} features, got {width}")
        for name, index in (("item", item), ("history", history)):
            if int(index.max()) >= self.num_items:
                raise ValueError(f"{name} holds the index {int(index.max())}, wanted 0 to {self.num_items - 1}")
