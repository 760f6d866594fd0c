"""A user with several vectors: the distance to an item is that of the nearest one.

    s(u, v) = min_{c ≤ C_u} ‖g_u^c − g_v‖²        the smaller, the better

One vector settles near a person's main taste; with several, each may stand for a taste of its own. Everything comes
from one product of matrices, |u|² + |v|² − 2 u·v, so that no array of users × vectors × items × dimensions is formed.

Bao et al., "The Minority Matters: A Diversity-Promoting Collaborative Metric Learning Algorithm", NeurIPS 2022, eq. 3,
checked against the authors' code. That users may differ in how many vectors they have is from the version of 2024,
"Improved Diversity-Promoting Collaborative Metric Learning for Recommendation"; its rule C_u = ⌊log₂ n⌋ is
reconstructed from a comment in that code and a summary, the rounding is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Range

UserVectors: TypeAlias = Float[Tensor, "users vectors dim"]
VectorCounts: TypeAlias = Integer[Tensor, " users"]


@checked
def num_interests(
    counts: Annotated[Integer[Tensor, " users"], Range(0)] | Sequence[int],
    max_vectors: Count,
    rule: Literal["log2", "constant"] = "log2",
) -> Int[Tensor, " users"]:
    """How many vectors each user gets.

    Args:
        counts: (users,) training items of each user.
        max_vectors: C, the most.
        rule: "log2" for min(C, max(1, ⌊log₂ n⌋)), few items few vectors; "constant" for C.

    Raises:
        ValueError: if a count is negative or `max_vectors` below 1.

    >>> num_interests(torch.tensor([0, 1, 4, 8, 1000]), 5)
    tensor([1, 1, 2, 3, 5])
    """
    given = torch.as_tensor(counts)
    if given.numel() and int(given.min()) < 0:
        raise ValueError(f"counts holds {int(given.min())}, wanted numbers of items")
    if rule == "constant":
        return torch.full_like(given, max_vectors, dtype=torch.int64)
    # By the length in bits: a logarithm in floating point may round across a whole number.
    bits = torch.tensor([int(n).bit_length() - 1 for n in given.tolist()], dtype=torch.int64, device=given.device)
    return bits.clamp(1, max_vectors)


@checked
def multi_vector_distance(
    user: UserVectors,
    item: Float[Tensor, "items dim"] | Float[Tensor, "users items dim"],
    num_vectors: VectorCounts | None = None,
) -> Float[Tensor, "users items"]:
    """Squared distance of each user's nearest vector to items.

    Args:
        user: (users, C, d) vectors.
        item: (items, d), the same for everyone, or (users, items, d), of each user's own.
        num_vectors: (users,) how many of the C vectors a user has, the first ones; all by default.

    Returns:
        (users, items). The gradient goes to the nearest vector alone, the first of several that are as near.

    Raises:
        ValueError: on a bad argument, by name; a number of vectors must lie in [1, C].

    >>> user = torch.tensor([[[0.0, 0.0], [3.0, 0.0]]])
    >>> multi_vector_distance(user, torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    tensor([[1., 1.]])
    """
    check_vector_counts(num_vectors, user.shape[1])
    size = len(user), user.shape[1]
    with torch.autocast(user.device.type, enabled=False):
        if item.ndim == 2:
            products = (user.flatten(0, 1) @ item.T).view(*size, len(item))
            item_norm = item.square().sum(-1)
        else:
            products = user @ item.transpose(1, 2)
            item_norm = item.square().sum(-1)[:, None]
    # In place, since there are users × vectors × items of them; no gradient needs what is written over.
    squared = (user.square().sum(-1)[:, :, None] + item_norm).sub_(products, alpha=2)
    if num_vectors is not None:
        squared = squared.masked_fill_(unused_vectors(num_vectors, size[1])[:, :, None], torch.inf)
    nearest: Tensor = squared.min(1).values
    # What rounding makes negative is a distance of zero, and still has a gradient.
    return nearest + (-nearest.detach()).clamp_min(0)


def unused_vectors(num_vectors: Int[Tensor, " users"], most: int) -> Tensor:
    """(users, C): which slots hold no vector of the user."""
    return torch.arange(most, device=num_vectors.device) >= num_vectors[:, None]


def check_vector_counts(num_vectors: Tensor | None, most: int) -> None:
    """Raise `ValueError` unless every user has 1 to `most` vectors."""
    if num_vectors is not None and not torch.compiler.is_compiling():
        wrong = (num_vectors < 1) | (num_vectors > most)
        if wrong.any():
            user = int(wrong.nonzero()[0])
            raise ValueError(f"num_vectors of user {user} is {int(num_vectors[user])}, wanted 1 to {most}")
