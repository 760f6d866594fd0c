"""What users were shown, as distributions over categories, and how diverse those are.

    E_u(k) = Σ_{i shown to u} w_ik / Σ_l Σ_{i shown to u} w_il

with w_ik = A_ik / |A_i| ("fractional") or A_ik ("count").

Everything shown counts, not only what was clicked: clicks would measure the user and not the system.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Range, Values

Exposure: TypeAlias = Integer[Tensor, "users shown"]
ItemCategory: TypeAlias = Annotated[
    Integer[Tensor, "items categories"] | Bool[Tensor, "items categories"] | Float[Tensor, "items categories"],
    Values(((0, "not of the category"), (1, "of the category"))),
]
Distributions: TypeAlias = Annotated[Float[Tensor, "users categories"], Range(0, 1)]
Diversity: TypeAlias = Literal["entropy", "normalized_entropy", "gini_simpson", "coverage"]
Weighting: TypeAlias = Literal["fractional", "count"]


class CategoryMass(NamedTuple):
    """Sums over what each user was shown.

    Attributes:
        mass: (users, categories) float64, Σ w_ik.
        shown: (users,) how many exposures there were.
        categorized: (users,) how many of them had a category.
    """

    mass: Float[Tensor, "users categories"]
    shown: Integer[Tensor, " users"]
    categorized: Integer[Tensor, " users"]


@checked
def exposure_distribution(
    exposure: Exposure, item_category: ItemCategory, weighting: Weighting = "fractional"
) -> Float[Tensor, "users categories"]:
    """How what each user was shown spreads over the categories.

    Args:
        exposure: (users, shown) item indices in any order, an item as often as it was shown; −1 where nothing was.
        item_category: (items, categories) of 0 and 1; an item may be of several. Items of none are left out.
        weighting: "fractional": an item of three categories counts a third in each; "count": one in each.

    Returns:
        (users, categories) float64 with rows that sum to 1; NaN for users who were shown nothing.

    Raises:
        ValueError: on a bad argument, by name, or if nothing that a user was shown has a category.
        IndexError: if an item is not a row of `item_category`.

    >>> genres = torch.tensor([[1, 0, 0], [0, 1, 1]])
    >>> exposure_distribution(torch.tensor([[0, 0, 1, 1], [0, 0, 0, -1]]), genres)
    tensor([[0.5000, 0.2500, 0.2500],
            [1.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    mass = category_mass("exposure", exposure, category_weights(item_category, weighting))
    return distributions_of("exposure", mass)


@checked
def exposure_diversity(distributions: Distributions, kind: Diversity = "entropy") -> Float[Tensor, " users"]:
    """How diverse each distribution is.

    Args:
        distributions: (users, categories) with rows that sum to 1, as from `exposure_distribution`.
        kind: "entropy" −Σ p log p, in nats; "normalized_entropy", divided by log of the number of categories, and 0
            for a single one; "gini_simpson" 1 − Σ p²; "coverage", the share of categories with p > 0.

    Returns:
        (users,) float64.

    Raises:
        ValueError: on a bad argument, by name, or if a row does not sum to 1.

    >>> exposure_diversity(torch.tensor([[0.5, 0.5, 0.0]]), "gini_simpson")
    tensor([0.5000], dtype=torch.float64)
    """
    p = distributions.double()
    wrong = (p.sum(1) - 1).abs() > 1e-4
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"row {row} of distributions sums to {float(p[row].sum()):g}, wanted 1")
    return diversity_of(p, kind)


def diversity_of(p: Float[Tensor, "users categories"], kind: Diversity) -> Float[Tensor, " users"]:
    """`exposure_diversity` of rows that are distributions, or NaN throughout, which gives NaN."""
    if kind == "gini_simpson":
        return 1 - (p**2).sum(1)
    if kind == "coverage":
        return torch.where(p.isnan().any(1), torch.nan, (p > 0).double().mean(1))
    entropy = -torch.xlogy(p, p).sum(1)
    if kind == "entropy":
        return entropy
    categories = p.shape[1]
    return entropy / math.log(categories) if categories > 1 else 0 * entropy


def jensen_shannon(
    p: Float[Tensor, "users categories"], q: Float[Tensor, "users categories"]
) -> Float[Tensor, " users"]:
    """The Jensen-Shannon divergence of each pair of rows, in nats: 0 for equal ones, log 2 for disjoint ones."""
    middle = (p + q) / 2
    # A cell of the middle is 0 only where both are, and then nothing is summed.
    log_middle = torch.where(middle > 0, middle, 1.0).log()
    both = [(torch.xlogy(each, each) - each * log_middle).sum(1) for each in (p, q)]
    return ((both[0] + both[1]) / 2).clamp_min(0)


def category_weights(item_category: Tensor, weighting: Weighting) -> Float[Tensor, "items categories"]:
    """The weights w_ik of the module, float64."""
    weights = item_category.double()
    return weights / weights.sum(1, keepdim=True).clamp_min(1) if weighting == "fractional" else weights


def category_mass(name: str, exposure: Tensor, weights: Float[Tensor, "items categories"]) -> CategoryMass:
    """Sum the weights of what each user was shown, one product of a sparse and a dense matrix.

    Raises:
        IndexError: if an item is not a row of `weights`.
    """
    found, items = exposure.long(), len(weights)
    wrong = (found < -1) | (found >= items)
    if wrong.any():
        raise IndexError(f"{name} holds the item {int(found[wrong][0])}, wanted 0 to {items - 1}, or -1 for nothing")
    users = torch.arange(len(found), device=found.device)[:, None].expand_as(found)
    there = found >= 0
    cells = torch.stack([users[there], found[there]])
    ones = torch.ones(cells.shape[1], dtype=torch.float64, device=found.device)
    times = torch.sparse_coo_tensor(cells, ones, (len(found), items), check_invariants=False)
    mass, shown = torch.sparse.mm(times, weights), there.sum(1)
    labelled = (weights.sum(1) > 0)[found.clamp_min(0)] & there
    return CategoryMass(mass, shown, labelled.sum(1))


def distributions_of(name: str, mass: CategoryMass, users: Tensor | None = None) -> Float[Tensor, "users categories"]:
    """Rows that sum to 1, NaN for users who were shown nothing.

    Raises:
        ValueError: if nothing that a user was shown has a category; `users` holds their names, else it is the row.
    """
    empty = (mass.shown > 0) & (mass.categorized == 0)
    if empty.any():
        row = int(empty.nonzero()[0])
        raise ValueError(f"user {row if users is None else int(users[row])} has no categorised exposure in {name}")
    return mass.mass / mass.mass.sum(1, keepdim=True)
