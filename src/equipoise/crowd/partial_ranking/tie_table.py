r"""Comparisons ready for many gradient steps: winner first, equal answers of a user added up, sorted by user.

All scores stand in a table of a row per user, the threshold in the last column. Then

    d = S[u, i] − S[u, j],   λ = S[u, n]

and the gradient is two sums of slopes into (u, i) and (u, j), and one into (u, n): no matrix, O(answers + users ·
items).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.crowd.partial_ranking.tie_model import Link
from equipoise.crowd.partial_ranking.tie_slopes import tie_loss, tie_slopes, win_loss, win_slope
from equipoise.data.comparisons.answers import Comparisons

# Up to so many items the Laplacian is a matrix; beyond, so many powers at most, to this relative change.
_DENSE, _POWERS, _CLOSE = 2000, 200, 1e-5


@dataclass(frozen=True, eq=False)
class Edges:
    """Answers of one kind, as places in the flattened table of scores.

    Attributes:
        user: (n,) ascending.
        one: (n,) place of the winner, or of one of two tied items.
        other: (n,) place of the other.
        weight: (n,) how often it was said.
        repeated: whether any weight is not 1.
    """

    user: Tensor
    one: Tensor
    other: Tensor
    weight: Tensor
    repeated: bool

    @classmethod
    def of(cls, user: Tensor, one: Tensor, other: Tensor, weight: Tensor, num_items: int) -> Edges:
        """Add up equal rows and sort by user."""
        key = (user * num_items + one) * num_items + other
        keys, place = torch.unique(key, return_inverse=True)
        total = torch.zeros(len(keys), dtype=weight.dtype).index_add_(0, place, weight)
        user, pair = keys // num_items**2, keys % num_items**2
        start = user * (num_items + 1)
        repeated = bool((total != 1).any())
        return cls(user, start + pair // num_items, start + pair % num_items, total, repeated)

    def weighed(self, values: Tensor) -> Tensor:
        """Each value as often as it was said."""
        return values * self.weight if self.repeated else values


class TieTable:
    """The likelihood of comparisons, and its gradient in a table of scores (users, items + 1).

    Args:
        comparisons: who said what.
        link: of the noise.
        dtype: to compute in.

    Attributes:
        total: answers there are, with their weights.
    """

    def __init__(self, comparisons: Comparisons, link: Link = "logistic", dtype: torch.dtype = torch.float64) -> None:
        self.num_users, self.num_items = comparisons.num_annotators, comparisons.num_items
        self.link, self.dtype = link, dtype
        label, left, right = comparisons.label, comparisons.left, comparisons.right
        won, tied = label != 0, label == 0
        winner, loser = torch.where(label > 0, left, right), torch.where(label > 0, right, left)
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        weight, user = comparisons.weight.to(dtype), comparisons.annotator
        self.wins = Edges.of(user[won], winner[won], loser[won], weight[won], self.num_items)
        self.ties = Edges.of(user[tied], low[tied], high[tied], weight[tied], self.num_items)
        self.total = float(comparisons.weight.sum())

    def loss(self, scores: Tensor) -> float:
        """Mean loss of the answers."""
        flat, threshold = scores.flatten(), scores[:, -1]
        won, tied = self.wins, self.ties
        wins = win_loss(flat[won.one] - flat[won.other] - threshold[won.user], self.link)
        ties = tie_loss(flat[tied.one] - flat[tied.other], threshold[tied.user], self.link)
        return float(won.weighed(wins).sum() + tied.weighed(ties).sum()) / self.total

    def gradient(self, scores: Tensor) -> Tensor:
        """Of the mean loss, (users, items + 1)."""
        flat, threshold = scores.flatten(), scores[:, -1]
        won, tied = self.wins, self.ties
        wins = won.weighed(win_slope(flat[won.one] - flat[won.other] - threshold[won.user], self.link))
        ties, widths = tie_slopes(flat[tied.one] - flat[tied.other], threshold[tied.user], self.link)
        ties, widths = tied.weighed(ties), tied.weighed(widths)
        gradient = torch.zeros_like(flat)
        gradient.index_add_(0, won.one, wins).index_add_(0, won.other, wins, alpha=-1)
        gradient.index_add_(0, tied.one, ties).index_add_(0, tied.other, ties, alpha=-1)
        gradient = gradient.view(scores.shape)
        gradient[:, -1].index_add_(0, won.user, wins, alpha=-1).index_add_(0, tied.user, widths)
        return gradient.div_(self.total)

    def personal_norm(self) -> float:
        """max_u |D_uᵀD_u|₂, of rows e_i − e_j and −1 for the threshold: the largest user, as the authors' code."""

        def product(vector: Tensor) -> Tensor:
            out = torch.zeros_like(vector)
            flat, width, whole = vector.flatten(), vector[:, -1], out.view(-1)
            for edges in (self.wins, self.ties):
                along = edges.weighed(flat[edges.one] - flat[edges.other] - width[edges.user])
                whole.index_add_(0, edges.one, along).index_add_(0, edges.other, along, alpha=-1)
                out[:, -1].index_add_(0, edges.user, along, alpha=-1)
            return out

        return _largest(product, torch.zeros(self.num_users, self.num_items + 1, dtype=self.dtype))

    def common_norm(self) -> float:
        """|XᵀX|₂ of rows e_i − e_j: the largest eigenvalue of the Laplacian of all comparisons."""
        size = self.num_items + 1
        ends = [(edges.one % size, edges.other % size, edges.weight) for edges in (self.wins, self.ties)]
        if self.num_items <= _DENSE:
            return self._laplacian_norm(ends)

        def product(vector: Tensor) -> Tensor:
            out = torch.zeros_like(vector)
            for one, other, weight in ends:
                along = (vector[0, one] - vector[0, other]) * weight
                out[0].index_add_(0, one, along).index_add_(0, other, along, alpha=-1)
            return out

        return _largest(product, torch.zeros(1, self.num_items, dtype=self.dtype))

    def _laplacian_norm(self, ends: list[tuple[Tensor, Tensor, Tensor]]) -> float:
        flat = torch.zeros(self.num_items**2, dtype=torch.float64)
        for one, other, weight in ends:
            flat.index_add_(0, one * self.num_items + other, weight.double())
        between = flat.view(self.num_items, -1)
        between = between + between.T
        return float(torch.linalg.eigvalsh(between.sum(1).diag() - between)[-1])


def _largest(product: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """The largest eigenvalue of blocks, a row each, by powers of all at once."""
    vector = torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(0))
    found = 0.0
    for _ in range(_POWERS):
        vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(torch.finfo(like.dtype).tiny)
        vector = product(vector)
        new = float(vector.norm(dim=1).max())
        if abs(new - found) <= _CLOSE * new:
            return new
        found = new
    return found
