"""Models of users and items in one space, as tables of vectors."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Integer
from torch import Generator, Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.data.interactions.matrix import Interactions, check_indices
from equipoise.recsys.metric_learning.distance import check_vector_counts, multi_vector_distance, unused_vectors
from equipoise.recsys.metric_learning.sampling_free import Kernel, sfcml_loss, sfcml_user_solution
from equipoise.recsys.metric_learning.triplets import full_pairwise_hinge


class MultiVectorCML(nn.Module):
    """Collaborative metric learning with one or several vectors per user.

    Users start from N(0, 0.01²) and items from N(0, 1/d), as in the authors' code of DPCML.

    Args:
        num_users: users there are.
        num_items: items there are.
        dim: d.
        num_vectors: C, the same for everyone, or (users,) of each user's own, see `num_interests`; 1 is plain metric
            learning.
        max_norm: r.
        norm: what `project_` does to every vector: "clip", into the ball of radius r; "unit", onto its surface; None,
            nothing.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for a user or item that is not there.

    >>> model = MultiVectorCML(3, 5, dim=4, num_vectors=2)
    >>> near, far = model(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.tensor([[0, 2], [0, 3]]))
    >>> near.shape, far.shape, model.predict(torch.tensor([1])).shape
    (torch.Size([2]), torch.Size([2, 2]), torch.Size([1, 5]))
    """

    num_vectors: Tensor

    @checked
    def __init__(
        self,
        num_users: Count,
        num_items: Count,
        dim: Count = 100,
        num_vectors: Count | Integer[Tensor, " users"] = 5,
        *,
        max_norm: Positive = 1.0,
        norm: Literal["clip", "unit"] | None = "clip",
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        counts = torch.full((num_users,), num_vectors) if isinstance(num_vectors, int) else num_vectors.long().clone()
        if counts.shape != (num_users,):
            raise ValueError(f"num_vectors must have one value per user, {num_users}, got shape {tuple(counts.shape)}")
        most = int(counts.max())
        check_vector_counts(counts, most)
        self.max_norm, self.norm = max_norm, norm
        generator = Generator().manual_seed(seed)
        self.register_buffer("num_vectors", counts)
        self.user = nn.Parameter(torch.randn(num_users, most, dim, generator=generator) * 0.01)
        self.item = nn.Parameter(torch.randn(num_items, dim, generator=generator) / dim**0.5)
        self.project_()

    def forward(
        self, users: Int[Tensor, " n"], pos: Int[Tensor, " n"], neg: Int[Tensor, "n candidates"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n candidates"]]:
        """The distances of observed items (n,) and of candidates (n, S)."""
        items = torch.cat([pos[:, None], neg], 1)
        check_indices("users", users, len(self.user))
        check_indices("pos and neg", items, len(self.item))
        vectors = _rows(self.user, users), _rows(self.item, items)
        distance = multi_vector_distance(*vectors, self._counts(users))
        return distance[:, 0], distance[:, 1:]

    def distance(
        self, users: Int[Tensor, " n"], items: Int[Tensor, " chosen"] | None = None
    ) -> Float[Tensor, "n items"]:
        """Squared distances of users (n,) to some items, or to all."""
        check_indices("users", users, len(self.user))
        if items is not None:
            check_indices("items", items, len(self.item))
        vectors = self.item if items is None else _rows(self.item, items)
        return multi_vector_distance(_rows(self.user, users), vectors, self._counts(users))

    def predict(self, users: Int[Tensor, " n"]) -> Float[Tensor, "n items"]:
        """Scores (n, items), the higher the better: the distance with its sign changed."""
        return -self.distance(users)

    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """(items, d) without gradient."""
        return self.item.detach()

    @torch.no_grad()
    def project_(self) -> None:
        """Bring every vector into the ball, or onto its surface, and unused vectors to 0; call it after every step."""
        for table in (self.user, self.item):
            _project_(table, self.norm, self.max_norm)
        if int(self.num_vectors.min()) < self.user.shape[1]:
            self.user[unused_vectors(self.num_vectors, self.user.shape[1])] = 0

    @checked
    @torch.enable_grad()
    def fold_in(
        self,
        interactions: Interactions,
        *,
        num_vectors: Count | None = None,
        margin: NonNegative = 1.0,
        steps: Count = 100,
    ) -> Float[Tensor, "new vectors dim"]:
        """Vectors of new users, while the items stay where they are.

        The hinge over all pairs of an observed and an unobserved item is descended from vectors that lie on observed
        items far from each other.

        Args:
            interactions: what the new users took, a row for each; none may be empty or full.
            num_vectors: vectors of each; the most there are by default.
            margin: as in training.
            steps: of Adam at a rate of 0.05.

        Raises:
            ValueError: on a bad setting, by name; if a user has no item or all items.
        """
        if interactions.num_items != len(self.item):
            raise ValueError(f"interactions are of {interactions.num_items} items, the model of {len(self.item)}")
        interactions = interactions.to(self.item.device)
        taken = interactions.per_user
        wrong = (taken == 0) | (taken >= len(self.item))
        if wrong.any():
            user = int(wrong.nonzero()[0])
            raise ValueError(
                f"new user {user} has {int(taken[user])} of {len(self.item)} items, wanted some and not all"
            )
        item, most = self.item_vectors(), num_vectors or self.user.shape[1]
        vectors = nn.Parameter(torch.stack([_spread_start(item[own], most) for own in interactions]))
        observed = interactions.dense(torch.arange(interactions.num_users, device=item.device))
        optimizer = torch.optim.Adam([vectors], lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = full_pairwise_hinge(multi_vector_distance(vectors, item), observed, margin)
            # The sum over users, so that who else is folded in does not matter.
            (loss * len(vectors)).backward()
            optimizer.step()
            _project_(vectors, self.norm, self.max_norm)
        return vectors.detach()

    def _counts(self, users: Tensor) -> Tensor | None:
        counts = self.num_vectors[users]
        return None if bool((counts == self.user.shape[1]).all()) else counts


class SFCML(nn.Module):
    """Metric learning against all unobserved items, without sampling: users and items on spheres.

    Args:
        num_users: users there are.
        num_items: items there are.
        dim: d.
        margin: λ; scores lie within 2 · user_norm · item_norm.
        user_norm: length of user vectors; None leaves them free, which does not change the ranking.
        item_norm: length of item vectors, the same for all: without that the score would not rank as the distance does.
        seed: of the start.

    Raises:
        ValueError: on a bad setting, by name.
        IndexError: when called, for a user or item that is not there.

    >>> likes = Interactions.from_pairs([0, 0, 1], [0, 1, 2], num_items=4)
    >>> model = SFCML(2, 4, dim=3)
    >>> model.loss(torch.tensor([0, 1]), likes).shape, model.fold_in(torch.tensor([2])).shape
    (torch.Size([]), torch.Size([3]))
    """

    @checked
    def __init__(
        self,
        num_users: Count,
        num_items: Count,
        dim: Count = 256,
        margin: Positive = 2.0,
        *,
        user_norm: Positive | None = 1.0,
        item_norm: Positive = 1.0,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        self.margin, self.user_norm, self.item_norm = margin, user_norm, item_norm
        generator = Generator().manual_seed(seed)
        self.user = nn.Parameter(torch.randn(num_users, dim, generator=generator))
        self.item = nn.Parameter(torch.randn(num_items, dim, generator=generator))
        with torch.no_grad():
            _project_(self.user, "unit", user_norm or 1.0)
        self.project_()

    def loss(
        self, users: Int[Tensor, " n"], interactions: Interactions, *, kernel: Kernel = "auto"
    ) -> Float[Tensor, ""]:
        """`sfcml_loss` of some users, by the interactions of all."""
        check_indices("users", users, len(self.user))
        rows = interactions.select(users.to(interactions.items.device))
        return sfcml_loss(_rows(self.user, users), self.item, rows, self.margin, kernel=kernel)

    def forward(self, users: Int[Tensor, " n"], interactions: Interactions) -> Float[Tensor, ""]:
        """As `loss`."""
        return self.loss(users, interactions)

    def predict(self, users: Int[Tensor, " n"]) -> Float[Tensor, "n items"]:
        """Scores (n, items), the higher the better: 2 u·v."""
        check_indices("users", users, len(self.user))
        return 2 * self.user[users] @ self.item.T

    def item_vectors(self) -> Float[Tensor, "items dim"]:
        """(items, d) without gradient."""
        return self.item.detach()

    @torch.no_grad()
    def project_(self) -> None:
        """Bring every vector to its length; call it after every step. A vector of 0 stays."""
        if self.user_norm is not None:
            _project_(self.user, "unit", self.user_norm)
        _project_(self.item, "unit", self.item_norm)

    def fold_in(self, items: Int[Tensor, " taken"], *, ridge: NonNegative = 0.0) -> Float[Tensor, " dim"]:
        """The vector of a new user who took these items, in closed form; see `sfcml_user_solution`."""
        check_indices("items", items, len(self.item))
        positive = torch.zeros(len(self.item), dtype=torch.bool, device=self.item.device)
        positive[items] = True
        return sfcml_user_solution(self.item_vectors(), positive, self.margin, ridge=ridge, norm=self.user_norm).user


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, whose gradient costs half as much."""
    rows = nn.functional.embedding(index.long(), table.flatten(1))
    return rows.unflatten(-1, table.shape[1:]) if table.ndim > 2 else rows


@torch.no_grad()
def _project_(table: Tensor, norm: str | None, radius: float) -> None:
    if norm is None:
        return
    lengths = table.norm(dim=-1, keepdim=True)
    scale = radius / lengths if norm == "unit" else (radius / lengths).clamp_max(1.0)
    table.mul_(torch.where(lengths > 0, scale, torch.ones_like(scale)))


def _spread_start(vectors: Tensor, count: int) -> Tensor:
    """`count` of the vectors: the one nearest to their mean, then always the one farthest from those chosen."""
    chosen = [int((vectors - vectors.mean(0)).square().sum(1).argmin())]
    gaps = (vectors - vectors[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(gaps.argmax()))
        gaps = torch.minimum(gaps, (vectors - vectors[chosen[-1]]).square().sum(1))
    return vectors[chosen]
