"""Margins of ordered answers, as gathers and scatters: the matrix of all answers is never formed.

    m_q = d²_far − d²_near        positive where the answer is kept

In a Gram matrix G squared distances are linear, d²_ij = G_ii − G_ij − G_ji + G_jj, so that m = A vec(G). Answers share
pairs of items: distances are found once for each pair, and the transpose of A adds up the answers of each pair and
scatters a graph Laplacian, so that both cost O(answers + pairs).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.data.comparisons.triplets import check_quadruples, check_triplets

Triplets: TypeAlias = Integer[Tensor, "t 3"]
Gram: TypeAlias = Float[Tensor, "items items"]
_POWER_STEPS, _SAFETY = 200, 1.01
_UNEVEN = 1e-6


class OrdinalMargins(NamedTuple):
    """Margins and what they say.

    Attributes:
        margin: (t,) d²_far − d²_near.
        error_rate: share of answers that are not kept; a margin of 0 is not.
    """

    margin: Tensor
    error_rate: Tensor


@checked
def ordinal_margin(
    places: Float[Tensor, "items _"],
    near_i: Integer[Tensor, " t"],
    near_j: Integer[Tensor, " t"],
    far_i: Integer[Tensor, " t"],
    far_j: Integer[Tensor, " t"],
    form: Literal["embedding", "gram"] = "embedding",
) -> OrdinalMargins:
    """Margins of answers "i and j are nearer than l and k".

    Args:
        places: (n, d) an embedding, or (n, n) its Gram matrix.
        near_i: (t,) one of the nearer pair.
        near_j: (t,) the other one.
        far_i: (t,) one of the farther pair; of a triplet the same as `near_i`.
        far_j: (t,) the other one.
        form: what `places` is.

    Returns:
        The margins, which can be differentiated, and the share of answers that are not kept.

    Raises:
        ValueError: naming the first bad row; if a Gram matrix is not symmetric, or on a bad argument, by name.

    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> zero = torch.tensor([0])
    >>> ordinal_margin(x, zero, zero + 1, zero, zero + 2).margin
    tensor([8.])
    """
    quads, _ = check_quadruples(torch.stack([near_i, near_j, far_i, far_j], 1).cpu(), len(places))
    if form == "gram":
        check_gram(places)
    margin = margins(places, quads.to(places.device), form == "gram")
    return OrdinalMargins(margin, error_rate(margin))


def margins(places: Tensor, quads: Tensor, gram: bool) -> Tensor:
    """(t,) margins of checked quadruples (t, 4) in a Gram matrix or an embedding."""
    near_i, near_j, far_i, far_j = quads.unbind(1)
    if gram:
        own = places.diagonal()

        def squared(i: Tensor, j: Tensor) -> Tensor:
            return own[i] - places[i, j] - places[j, i] + own[j]
    else:

        def squared(i: Tensor, j: Tensor) -> Tensor:
            return (places[i] - places[j]).square().sum(1)

    return squared(far_i, far_j) - squared(near_i, near_j)


def error_rate(margin: Tensor) -> Tensor:
    """The share of margins that are not positive."""
    return (margin.detach() <= 0).to(margin.dtype).mean()


def check_gram(gram: Tensor, name: str = "gram") -> None:
    """Raise `ValueError` unless a matrix is square and symmetric."""
    if gram.shape[0] != gram.shape[1]:
        raise ValueError(f"{name} must be square, got shape {tuple(gram.shape)}")
    off = (gram.detach() - gram.detach().T).abs()
    if float(off.max()) > _UNEVEN * max(1.0, float(gram.detach().abs().max())):
        row, column = divmod(int(off.argmax()), len(gram))
        raise ValueError(
            f"{name} must be symmetric, but differs by {float(off.max()):.3g} at ({row}, {column}); take (G + G.T) / 2"
        )


class AnswerMap:
    """The linear map A from Gram matrices to margins, and its transpose.

    Args:
        quads: (t, 4) checked quadruples.
        num_items: n.

    >>> answers = AnswerMap(torch.tensor([[0, 1, 0, 2]]), 3)
    >>> answers.of_gram(torch.eye(3).double())
    tensor([0.], dtype=torch.float64)
    >>> answers.transposed(torch.ones(1).double())
    tensor([[ 0.,  1., -1.],
            [ 1., -1.,  0.],
            [-1.,  0.,  1.]], dtype=torch.float64)
    """

    def __init__(self, quads: Tensor, num_items: int) -> None:
        self.num_items = num_items
        ends = quads.view(-1, 2)
        codes = ends.amin(1) * num_items + ends.amax(1)
        pairs, place = torch.unique(codes, return_inverse=True)
        self.first, self.second = pairs // num_items, pairs % num_items
        place = place.view(-1, 2)
        self.near, self.far = place[:, 0].contiguous(), place[:, 1].contiguous()

    def __len__(self) -> int:
        return len(self.near)

    def squared_of_gram(self, gram: Tensor) -> Tensor:
        """(pairs,) squared distances in a Gram matrix."""
        own = gram.diagonal()
        first, second = self.first, self.second
        return own[first] + own[second] - gram[first, second] - gram[second, first]

    def squared_of_points(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(pairs,) squared distances of points, and the differences (pairs, d)."""
        between = points[self.first] - points[self.second]
        return between.square().sum(1), between

    def of_gram(self, gram: Tensor) -> Tensor:
        """A vec(G): (t,) margins."""
        squared = self.squared_of_gram(gram)
        return squared[self.far] - squared[self.near]

    def per_pair(self, near: Tensor, far: Tensor) -> Tensor:
        """(pairs,) the sum over the answers of each pair of what is given for their near (t,) and far (t,) pair."""
        size = len(self.first)
        return torch.bincount(self.near, near, size) + torch.bincount(self.far, far, size)

    def transposed(self, v: Tensor) -> Tensor:
        """Aᵀ v as a matrix (n, n), the Laplacian of the graph whose edges are the pairs."""
        edge = self.per_pair(-v, v)
        n = self.num_items
        off = edge.new_zeros(n * n).index_add_(0, self.first * n + self.second, edge).view(n, n)
        off = off + off.T
        return torch.diag(off.sum(1)) - off

    def spread(self, edge: Tensor, between: Tensor) -> Tensor:
        """(n, d) the gradient in points of a loss with the slope (pairs,) in the squared distance of each pair."""
        pull = 2 * edge[:, None] * between
        found = pull.new_zeros(self.num_items, pull.shape[1])
        return found.index_add_(0, self.first, pull).index_add_(0, self.second, pull, alpha=-1)

    def squared_norm(self) -> float:
        """A bound of the largest eigenvalue of AᵀA, by the power method from a fixed start."""
        vector = self.transposed(torch.ones(len(self), dtype=torch.float64))
        # A start that is no special vector of the map.
        vector = vector + torch.diag(torch.linspace(1, 2, self.num_items, dtype=torch.float64))
        size = 0.0
        for _ in range(_POWER_STEPS):
            vector = self.transposed(self.of_gram(vector / vector.norm()))
            before, size = size, float(vector.norm())
            if size - before <= 1e-6 * size:
                break
        return size * _SAFETY


def as_answers(answers: Tensor, num_items: int | None) -> tuple[Tensor, int]:
    """Triplets (t, 3) or quadruples (t, 4) as checked quadruples, and how many items there are.

    Raises:
        ValueError: as `check_triplets` and `check_quadruples`.
    """
    if answers.ndim == 2 and answers.shape[1] == 4:
        return check_quadruples(answers.cpu(), num_items)
    rows, count = check_triplets(answers.cpu(), num_items)
    return rows[:, [0, 1, 0, 2]], count
