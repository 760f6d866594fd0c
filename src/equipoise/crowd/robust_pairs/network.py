"""A network that scores items by several attributes, trained from pairs of them.

Each distinct item of a batch is scored once, and both sides of all pairs go through the backbone together, so that
batch norm sees one batch and the cost follows items, not pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.crowd.columns import check_index

Items: TypeAlias = Tensor | Callable[[Tensor], Tensor]
"""Inputs of all items (items, ...), or a function from (k,) indices to their inputs (k, ...), which may read files."""


class PairScores(NamedTuple):
    """Scores of the two sides of each pair.

    Attributes:
        score_i: (n,) of the left items.
        score_j: (n,) of the right items.
    """

    score_i: Tensor
    score_j: Tensor


class PairwiseRanker(nn.Module):
    """A shared backbone with one linear head per attribute.

    Args:
        backbone: gives (n, width) features of inputs (n, ...).
        width: of these features.
        num_attributes: heads.
        seed: of the heads' weights, N(0, .01²); their biases begin at 0.

    Raises:
        ValueError: on a setting that is no count.

    >>> ranker = PairwiseRanker(torch.nn.Linear(3, 8), width=8, num_attributes=2)
    >>> ranker(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    @checked
    def __init__(self, backbone: nn.Module, width: Count, num_attributes: Count = 1, *, seed: Whole = 0) -> None:
        super().__init__()
        self.backbone = backbone
        drawn = torch.randn(num_attributes, width, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(0.01 * drawn)
        self.bias = nn.Parameter(torch.zeros(num_attributes))

    @property
    def num_attributes(self) -> int:
        """How many attributes it scores."""
        return len(self.bias)

    def forward(self, x: Tensor) -> Float[Tensor, "n attributes"]:
        """Scores (n, attributes) of inputs (n, ...).

        Raises:
            ValueError: if the backbone does not give (n, width) features.
        """
        features = self.backbone(x)
        if features.shape != (len(x), self.weight.shape[1]):
            raise ValueError(
                f"backbone must give features of shape {(len(x), self.weight.shape[1])}, got {tuple(features.shape)}"
            )
        return nn.functional.linear(features, self.weight, self.bias)

    @checked
    def pair_scores(
        self,
        x: Tensor,
        item_i: Integer[Tensor, " n"],
        item_j: Integer[Tensor, " n"],
        attribute: Integer[Tensor, " n"] | None = None,
    ) -> PairScores:
        """Scores of pairs, in one pass over the distinct items among them.

        Args:
            x: (items, ...) inputs.
            item_i: (n,) rows of x.
            item_j: (n,) rows of x.
            attribute: (n,) head of each pair; 0 by default.

        Raises:
            ValueError: on a bad argument, by name.
        """
        check_index("item_i", item_i, len(x))
        check_index("item_j", item_j, len(x))
        if attribute is not None:
            check_index("attribute", attribute, self.num_attributes)
        return scored_pairs(self, lambda rows: x[rows], item_i, item_j, attribute)

    @checked
    def score(self, items: Any, batch_size: Count = 256, *, num_items: Count | None = None) -> Tensor:
        """Scores (items, attributes) in evaluation mode, without gradient.

        Args:
            items: inputs (items, ...), or a function from indices to inputs.
            batch_size: items at a time.
            num_items: items there are, where `items` is a function.

        Raises:
            ValueError: if `items` is a function and `num_items` is missing.
        """
        if isinstance(items, Tensor):
            num_items = len(items)
        elif num_items is None:
            raise ValueError("num_items is missing: items is a function, which does not say how many there are")
        take, training = reader(items), self.training
        self.eval()
        try:
            with torch.no_grad():
                return torch.cat([self(take(rows)) for rows in torch.arange(num_items).split(batch_size)])
        finally:
            self.train(training)

    @checked
    def compare(
        self,
        x: Tensor,
        item_i: Integer[Tensor, " n"],
        item_j: Integer[Tensor, " n"],
        attribute: Integer[Tensor, " n"] | None = None,
    ) -> Int[Tensor, " n"]:
        """Which of two items scores higher, in evaluation mode: 1 for item_i, −1 for item_j, 0 where they are equal."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                found = self.pair_scores(x, item_i, item_j, attribute)
        finally:
            self.train(training)
        return (found.score_i - found.score_j).sign().long()


def scored_pairs(
    ranker: nn.Module,
    take: Callable[[Tensor], Tensor],
    item_i: Tensor,
    item_j: Tensor,
    attribute: Tensor | None = None,
) -> PairScores:
    """Scores of pairs of items whose inputs `take` gives by index."""
    distinct, place = torch.unique(torch.cat([item_i, item_j]).long(), return_inverse=True)
    scores = ranker(take(distinct))
    place = place.to(scores.device)
    head = torch.zeros_like(place) if attribute is None else attribute.long().to(scores.device).repeat(2)
    return PairScores(*scores[place, head].chunk(2))


def reader(items: Items) -> Callable[[Tensor], Tensor]:
    """The inputs of items by index.

    Raises:
        ValueError: if `items` is neither a tensor nor a function.
    """
    if isinstance(items, Tensor):
        held = items
        return lambda rows: held[rows.to(held.device)]
    if not callable(items):
        raise ValueError(f"items must be a tensor or a function of indices, got {type(items).__name__}")
    return items
