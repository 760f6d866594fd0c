"""What lists show of the catalogue: variety in a list, share of the catalogue, evenness, popularity, calibration."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, Range
from equipoise.core.validate import warn_once
from equipoise.data.interactions.matrix import Interactions

Pages: TypeAlias = Integer[Tensor, "users shown"]
_Shares: TypeAlias = Annotated[Float[Tensor, "users categories"], Range(0, 1)]


@checked
def intra_list_distance(pages: Pages, item_vectors: Float[Tensor, "items width"]) -> Float[Tensor, " users"]:
    """How different the items of each list are: the mean of 1 − cosine over its pairs.

    Args:
        pages: (users, shown) item indices; −1 where nothing was shown.
        item_vectors: (items, width), such as 0 and 1 for categories; an item of zeros has distance 1 to all.

    Returns:
        (users,) float64; NaN for lists of fewer than two items.

    Raises:
        IndexError: if an item has no vector.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> intra_list_distance(torch.tensor([[0, 1, 2], [0, 2, -1]]), vectors)
    tensor([0.6667, 0.0000], dtype=torch.float64)
    """
    found = _items(pages, len(item_vectors))
    vectors = torch.nn.functional.normalize(item_vectors.double(), dim=1)
    there = found >= 0
    of_list = vectors[found.clamp_min(0)] * there[..., None]
    count = there.sum(1)
    # Σ_{a≠b} a·b = |Σ a|² − Σ |a|², so that no matrix of pairs is needed.
    cosines = (of_list.sum(1) ** 2).sum(1) - (of_list**2).sum((1, 2))
    return (1 - cosines / (count * (count - 1))).where(count > 1, torch.nan)


@checked
def catalogue_coverage(pages: Pages, num_items: Count) -> float:
    """The share of the catalogue that anybody was shown.

    >>> catalogue_coverage(torch.tensor([[0, 1], [1, -1]]), 4)
    0.5
    """
    return float((_times_shown(pages, num_items) > 0).double().mean())


@checked
def exposure_gini(pages: Pages, num_items: Count) -> float:
    """Gini coefficient of how often each item of the catalogue was shown: 0 if all alike, near 1 if a few get all.

        Σ_i (2i − n − 1) x_(i) / (n Σ_i x_i)        x_(1) ≤ ... ≤ x_(n)

    NaN, with a warning, if nothing was shown.

    >>> exposure_gini(torch.tensor([[0, 1], [2, 3]]), 4), exposure_gini(torch.tensor([[0, 0]]), 4)
    (0.0, 0.75)
    """
    times = _times_shown(pages, num_items).sort().values.double()
    if not times.any():
        warn_once("pages show nothing; the Gini coefficient is NaN")
        return float("nan")
    place = 2 * torch.arange(1, num_items + 1) - num_items - 1
    return float((place * times).sum() / (num_items * times.sum()))


@checked
def popularity_lift(
    pages: Pages, history: Interactions, popularity: Annotated[Integer[Tensor, " items"], Range(0)] | None = None
) -> Float[Tensor, " users"]:
    """How much more popular what each user is shown is than what they took: the ratio of mean popularity, minus 1.

    Args:
        pages: (users, shown) item indices; −1 where nothing was shown.
        history: what each user took, in a row each.
        popularity: (items,) how many users took an item; counted in `history` by default.

    Returns:
        (users,) float64; NaN for users who took nothing or were shown nothing.

    Raises:
        ValueError: if the users or items are not as many.

    >>> history = Interactions.from_pairs([0, 1, 1], [0, 0, 1])
    >>> popularity_lift(torch.tensor([[0], [0]]), history)
    tensor([0.0000, 0.3333], dtype=torch.float64)
    """
    if len(pages) != history.num_users:
        raise ValueError(f"pages are of {len(pages)} users, history is of {history.num_users}")
    counts = (history.per_item if popularity is None else popularity).double()
    if len(counts) != history.num_items:
        raise ValueError(f"popularity must have one count per item, {history.num_items}, got {len(counts)}")
    found = _items(pages, len(counts))
    there = found >= 0
    shown = (counts[found.clamp_min(0)] * there).sum(1) / there.sum(1)
    taken = torch.zeros(history.num_users, dtype=torch.float64).index_add_(0, history.users, counts[history.items])
    return shown / (taken / history.per_user) - 1


@checked
def miscalibration(history: _Shares, exposure: _Shares, smoothing: OpenFraction = 0.01) -> Float[Tensor, " users"]:
    """How far what is shown is from the taste: KL(p ‖ (1 − α) q + α p) in nats, 0 where both agree.

    The smoothed divergence of Steck's "Calibrated Recommendations" (2018), derived anew: α keeps it finite.

    Args:
        history: (users, categories) p, how what the user took spreads over categories.
        exposure: (users, categories) q, the same of what was shown, as from `exposure_distribution`.
        smoothing: α in (0, 1).

    >>> miscalibration(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.5]]))
    tensor([0.], dtype=torch.float64)
    """
    p, q = history.double(), exposure.double()
    mixed = (1 - smoothing) * q + smoothing * p
    return (torch.xlogy(p, p) - p * torch.where(p > 0, mixed, 1.0).log()).sum(1)


def _items(pages: Tensor, num_items: int) -> Tensor:
    found = pages.long()
    wrong = (found < -1) | (found >= num_items)
    if wrong.any():
        raise IndexError(f"pages holds the item {int(found[wrong][0])}, wanted 0 to {num_items - 1}, or -1 for nothing")
    return found


def _times_shown(pages: Tensor, num_items: int) -> Tensor:
    found = _items(pages, num_items)
    return torch.bincount(found[found >= 0], minlength=num_items)
