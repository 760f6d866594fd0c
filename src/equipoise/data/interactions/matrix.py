"""Implicit feedback as a sparse matrix of users by items, by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Interactions:
    """Which users took which items. A pair that is given twice counts once.

    Build it with `from_pairs`, `from_scipy` or `equipoise.data.read_interactions`.

    Attributes:
        offsets: (users + 1,) int64; the items of user u are `items[offsets[u] : offsets[u + 1]]`.
        items: (n,) int64 item indices, ascending for each user.
        num_items: items in the catalogue, whether somebody took them or not.

    >>> likes = Interactions.from_pairs([0, 0, 2], [3, 1, 0], num_users=3, num_items=4)
    >>> likes.of(0), likes.of(1), likes.per_user
    (tensor([1, 3]), tensor([], dtype=torch.int64), tensor([2, 0, 1]))
    """

    offsets: Int[Tensor, " users_and_one"]
    items: Int[Tensor, " n"]
    num_items: int
    _keys: list[Tensor] = field(default_factory=list, repr=False)

    @classmethod
    def from_pairs(
        cls, users: Any, items: Any, *, num_users: int | None = None, num_items: int | None = None
    ) -> Interactions:
        """Interactions from pairs in any order.

        Args:
            users: (n,) user indices, a tensor, array or list.
            items: (n,) item indices.
            num_users: users there are; one more than the largest index by default.
            num_items: items there are; one more than the largest index by default.

        Raises:
            ValueError: if the two do not have the same length, are not whole numbers, or are empty where a size is not
                given; if there are more than 2⁶³ − 1 pairs of a user and an item.
            IndexError: if an index is negative or not below the size.
        """
        rows, columns = _indices("users", users), _indices("items", items)
        if len(rows) != len(columns):
            raise ValueError(f"users and items must have the same length, got {len(rows)} and {len(columns)}")
        num_users = _size("users", rows, num_users)
        num_items = _size("items", columns, num_items)
        if num_users * num_items > np.iinfo(np.int64).max:
            raise ValueError(
                f"{num_users} users × {num_items} items are more pairs than int64 counts; number them from 0"
            )
        keys = np.unique(rows * num_items + columns) if len(rows) else rows
        counts = np.bincount(keys // max(num_items, 1), minlength=num_users)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(torch.from_numpy(offsets), torch.from_numpy(keys % max(num_items, 1)), num_items)

    @classmethod
    def from_scipy(cls, matrix: Any) -> Interactions:
        """Interactions from the stored non-zero values of a SciPy sparse matrix or array, users by items."""
        found = matrix.tocoo()
        kept = found.data != 0
        users, items = found.shape
        return cls.from_pairs(found.row[kept], found.col[kept], num_users=users, num_items=items)

    @property
    def num_users(self) -> int:
        """Users there are, whether they took something or not."""
        return len(self.offsets) - 1

    @property
    def per_user(self) -> Int[Tensor, " users"]:
        """How many items each user took."""
        return self.offsets.diff()

    @property
    def per_item(self) -> Int[Tensor, " items"]:
        """How many users took each item: its popularity."""
        return torch.bincount(self.items, minlength=self.num_items)

    @property
    def users(self) -> Int[Tensor, " n"]:
        """The user of each of `items`."""
        return torch.repeat_interleave(torch.arange(self.num_users, device=self.items.device), self.per_user)

    def __len__(self) -> int:
        return len(self.items)

    def of(self, user: int) -> Int[Tensor, " taken"]:
        """The items of one user, ascending."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def rows(self, users: Int[Tensor, " chosen"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
        """The pairs of some users: (position in `users`, item), in their order.

        >>> Interactions.from_pairs([0, 0, 2], [3, 1, 0]).rows(torch.tensor([2, 0]))
        (tensor([0, 1, 1]), tensor([0, 1, 3]))
        """
        counts = self.per_user[users]
        position = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
        starts = self.offsets[:-1][users] - (counts.cumsum(0) - counts)
        return position, self.items[torch.arange(len(position), device=users.device) + starts[position]]

    def select(self, users: Int[Tensor, " chosen"]) -> Interactions:
        """The rows of some users, as an own matrix."""
        position, items = self.rows(users)
        offsets = torch.cat([users.new_zeros(1), torch.bincount(position, minlength=len(users)).cumsum(0)])
        return Interactions(offsets, items, self.num_items)

    def dense(self, users: Int[Tensor, " chosen"]) -> Bool[Tensor, "chosen items"]:
        """The rows of some users, one cell per item."""
        found = torch.zeros((len(users), self.num_items), dtype=torch.bool, device=users.device)
        found[self.rows(users)] = True
        return found

    def contains(self, users: Int[Tensor, ...], items: Int[Tensor, ...]) -> Bool[Tensor, ...]:
        """Whether each pair of a user and an item is there, by binary search.

        >>> likes = Interactions.from_pairs([0, 0, 2], [3, 1, 0])
        >>> likes.contains(torch.tensor([0, 0]), torch.tensor([1, 2]))
        tensor([ True, False])
        """
        if not len(self):
            return torch.zeros_like(users + items, dtype=torch.bool)
        if not self._keys:
            self._keys.append(self.users * self.num_items + self.items)
        keys, wanted = self._keys[0], users * self.num_items + items
        return keys[torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)] == wanted

    def transposed(self) -> Interactions:
        """Items by users."""
        order = torch.argsort(self.items, stable=True)
        offsets = torch.cat([self.items.new_zeros(1), self.per_item.cumsum(0)])
        return Interactions(offsets, self.users[order], self.num_users)

    def to(self, device: torch.device | str) -> Interactions:
        """The same on a device."""
        if self.items.device == torch.device(device):
            return self
        return Interactions(self.offsets.to(device), self.items.to(device), self.num_items)

    def union(self, other: Interactions) -> Interactions:
        """The pairs of both.

        Raises:
            ValueError: if they are not of the same users and items.
        """
        if (self.num_users, self.num_items) != (other.num_users, other.num_items):
            raise ValueError(
                f"both must have the same users and items, got {self.num_users} × {self.num_items} and "
                f"{other.num_users} × {other.num_items}"
            )
        return Interactions.from_pairs(
            torch.cat([self.users, other.users]),
            torch.cat([self.items, other.items]),
            num_users=self.num_users,
            num_items=self.num_items,
        )

    def to_scipy(self) -> Any:
        """A `scipy.sparse.csr_array` of float32 ones."""
        from scipy.sparse import csr_array

        parts = (np.ones(len(self), dtype=np.float32), self.items.numpy(), self.offsets.numpy())
        return csr_array(parts, shape=(self.num_users, self.num_items))

    def __iter__(self) -> Iterator[Int[Tensor, " taken"]]:
        return iter(self.items.split(self.per_user.tolist()))


def check_indices(name: str, given: Tensor, size: int) -> None:
    """Raise `IndexError` unless all indices lie in [0, size); PyTorch would take negative ones from the end."""
    wrong = given[(given < 0) | (given >= size)]
    if len(wrong):
        raise IndexError(f"{name} holds the index {int(wrong[0])}, wanted 0 to {size - 1}")


def _indices(name: str, values: Any) -> Any:
    found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be one row of whole numbers, got shape {found.shape} of {found.dtype}")
    if len(found) and found.max() > np.iinfo(np.int64).max:
        raise IndexError(f"{name} holds the index {found.max()}, which int64 does not hold")
    return found.astype(np.int64)


def _size(name: str, indices: Any, size: int | None) -> int:
    if size is None:
        if not len(indices):
            raise ValueError(f"there are no {name}; give num_{name} for an empty matrix")
        size = max(int(indices.max()), 0) + 1
    if len(indices) and not 0 <= indices.min() <= indices.max() < size:
        wrong = indices[(indices < 0) | (indices >= size)][0]
        raise IndexError(f"{name} holds the index {wrong}, wanted 0 to {size - 1}")
    return size
