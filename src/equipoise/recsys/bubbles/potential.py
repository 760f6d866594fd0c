"""Bubble escape potential: how much a user's own behaviour can change what a recommender shows.

Two copies of every user meet the same recommender, one that broadens its behaviour and one that narrows it:

    BEP = mean_u [ D(E⁺_u) − D(E⁻_u) ]

where E± is what the copy was shown, over categories, and D a diversity. The taste that both copies share cancels. A
system that does not listen has 0 however diverse its pages are; a negative value means that it narrows when the user
explores.

From "Quantifying the Potential to Escape Filter Bubbles" (AAAI 2026). The formula is reconstructed from the paper's
figure and abstract: the difference of two exposures is theirs, the diversity and the weights are chosen here. The
Jensen-Shannon divergence of the two exposures stands beside it, never in its place: it cannot tell widening from
narrowing.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.metrics import SampleMetric, nan_by_name
from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, Whole
from equipoise.core.validate import warn_once
from equipoise.recsys.bubbles.exposure import (
    CategoryMass,
    Diversity,
    Exposure,
    ItemCategory,
    Weighting,
    category_mass,
    category_weights,
    distributions_of,
    diversity_of,
    jensen_shannon,
)
from equipoise.recsys.evaluation.groups import bootstrap_mean

Correction: TypeAlias = Literal["none", "miller_madow"]


class BEPResult(NamedTuple):
    """Bubble escape potential of a recommender.

    Attributes:
        value: mean over the users who were shown something in both copies; NaN if there are none.
        per_user: (users,) D(E⁺_u) − D(E⁻_u), NaN for the others.
        ci: (2,) ends of the percentile interval of `value`, by the paired bootstrap over users.
        positive_diversity: (users,) D(E⁺_u).
        negative_diversity: (users,) D(E⁻_u).
        jensen_shannon: (users,) divergence of E⁺_u and E⁻_u in nats, whichever is the wider.
        uncategorized: exposures that were left out because the item has no category.
    """

    value: Float[Tensor, ""]
    per_user: Float[Tensor, " users"]
    ci: Float[Tensor, " ends"]
    positive_diversity: Float[Tensor, " users"]
    negative_diversity: Float[Tensor, " users"]
    jensen_shannon: Float[Tensor, " users"]
    uncategorized: Integer[Tensor, ""]


@checked
def bubble_escape_potential(
    positive_exposure: Exposure,
    negative_exposure: Integer[Tensor, "users shown_to_the_other"],
    item_category: ItemCategory,
    *,
    diversity: Diversity = "entropy",
    weighting: Weighting = "fractional",
    correction: Correction = "none",
    resamples: Count = 1000,
    confidence: OpenFraction = 0.95,
    seed: Whole = 0,
) -> BEPResult:
    """Bubble escape potential from what the two copies of every user were shown; reconstructed, see the module.

    The entropy of few exposures is too low on average, by about (categories − 1) / (2 · exposures). It cancels where
    both copies have the same number of them; where they do not, correct it.

    Args:
        positive_exposure: (users, shown) items shown to the copy that broadens its behaviour, in any order; −1 where
            nothing was.
        negative_exposure: (users, shown) the same of the copy that narrows it.
        item_category: (items, categories) of 0 and 1.
        diversity: D, see `exposure_diversity`.
        weighting: of items of several categories, see `exposure_distribution`.
        correction: "miller_madow" adds (categories seen − 1) / (2 · exposures) to an entropy.
        resamples: replicates of the bootstrap.
        confidence: of the interval.
        seed: of the bootstrap.

    Returns:
        `BEPResult`, float64.

    Raises:
        ValueError: on a bad argument, by name; if nothing that a copy was shown has a category; or of a correction of
            what is no entropy.
        IndexError: if an item is not a row of `item_category`.

    >>> genres = torch.eye(2).long()
    >>> found = bubble_escape_potential(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), genres)
    >>> round(float(found.value), 4), round(float(found.jensen_shannon.mean()), 4)
    (0.6931, 0.2158)
    """
    _check_correction(correction, diversity)
    weights = category_weights(item_category, weighting)
    positive = category_mass("positive_exposure", positive_exposure, weights)
    negative = category_mass("negative_exposure", negative_exposure, weights)
    shares = (
        distributions_of("positive_exposure", positive),
        distributions_of("negative_exposure", negative),
    )
    return _compared((positive, negative), shares, diversity, correction, resamples, confidence, seed)


_COMPUTED = (
    "bep",
    "bep_low",
    "bep_high",
    "positive_diversity",
    "negative_diversity",
    "jensen_shannon",
    "num_users",
)


class BubbleEscapePotential(SampleMetric):
    """`bubble_escape_potential` over batches; what one user is shown may come in several of them.

    Args:
        item_category: (items, categories) of 0 and 1.
        diversity: as in `bubble_escape_potential`.
        weighting: as in `bubble_escape_potential`.
        correction: as in `bubble_escape_potential`.
        resamples: as in `bubble_escape_potential`.
        confidence: as in `bubble_escape_potential`.
        seed: as in `bubble_escape_potential`.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = BubbleEscapePotential(torch.eye(2).long())
    >>> metric.update(torch.tensor([7]), torch.tensor([[0]]), torch.tensor([[0]]))
    >>> metric.update(torch.tensor([7]), torch.tensor([[1]]), torch.tensor([[0]]))
    >>> round(float(metric.compute()["bep"]), 4)
    0.6931
    """

    kept = ("users", "positive", "negative", "counts")
    weights: Tensor

    @checked
    def __init__(
        self,
        item_category: ItemCategory,
        *,
        diversity: Diversity = "entropy",
        weighting: Weighting = "fractional",
        correction: Correction = "none",
        resamples: Count = 1000,
        confidence: OpenFraction = 0.95,
        seed: Whole = 0,
        **kwargs: Any,
    ) -> None:
        _check_correction(correction, diversity)
        super().__init__(**kwargs)
        self.diversity, self.correction = diversity, correction
        self.resamples, self.confidence, self.seed = resamples, confidence, seed
        self.register_buffer("weights", category_weights(item_category, weighting), persistent=False)

    @checked
    def update(
        self,
        user_ids: Integer[Tensor, " users"],
        positive_items: Exposure,
        negative_items: Integer[Tensor, "users shown_to_the_other"],
    ) -> None:
        """Take what some users were shown.

        Args:
            user_ids: (users,) a number for each user.
            positive_items: (users, shown) items shown to the copy that broadens its behaviour; −1 where nothing was.
            negative_items: (users, shown) the same of the copy that narrows it.

        Raises:
            ValueError: as `bubble_escape_potential`.
            IndexError: if an item is not in the catalogue.
        """
        positive = category_mass("positive_items", positive_items, self.weights)
        negative = category_mass("negative_items", negative_items, self.weights)
        counts = torch.stack([positive.shown, positive.categorized, negative.shown, negative.categorized], 1)
        self.keep(user_ids.long(), positive.mass, negative.mass, counts)

    def result(self) -> BEPResult:
        """`BEPResult` of all users seen, by ascending number.

        Raises:
            ValueError: if nothing was seen, or nothing that a user was shown has a category.
        """
        users, positive, negative, counts = self.samples()
        names, row = users.unique(return_inverse=True)
        positive, negative, counts = (
            torch.zeros((len(names), each.shape[1]), dtype=each.dtype, device=each.device).index_add_(0, row, each)
            for each in (positive, negative, counts)
        )
        masses = CategoryMass(positive, counts[:, 0], counts[:, 1]), CategoryMass(negative, counts[:, 2], counts[:, 3])
        shares = (
            distributions_of("positive_items", masses[0], names),
            distributions_of("negative_items", masses[1], names),
        )
        return _compared(masses, shares, self.diversity, self.correction, self.resamples, self.confidence, self.seed)

    def nothing(self) -> dict[str, Tensor]:
        """NaN by name."""
        return nan_by_name(_COMPUTED, self.device)

    def compute(self) -> dict[str, Tensor]:
        """ "bep" with "bep_low" and "bep_high", the means of both diversities and of the divergence, and "num_users".

        NaN, with a warning, if no user was shown something in both copies.
        """
        found = self.result()
        there = ~found.per_user.isnan()
        if not there.any():
            warn_once("no user was shown something in both copies; the bubble escape potential is NaN")
        means = (
            each[there].mean() for each in (found.positive_diversity, found.negative_diversity, found.jensen_shannon)
        )
        return dict(zip(_COMPUTED, (found.value, *found.ci, *means, there.sum().double()), strict=True))


def _compared(
    masses: tuple[CategoryMass, CategoryMass],
    shares: tuple[Tensor, Tensor],
    diversity: Diversity,
    correction: Correction,
    resamples: int,
    confidence: float,
    seed: int,
) -> BEPResult:
    positive, negative = masses
    there = (positive.shown > 0) & (negative.shown > 0)
    if correction == "none" and not positive.shown[there].equal(negative.shown[there]):
        warn_once(
            "the copies of some users have unequal numbers of exposures, and the entropy of fewer is biased lower; "
            "pass correction='miller_madow'"
        )
    found = [
        diversity_of(share, diversity) + (_missing_entropy(mass, diversity) if correction != "none" else 0)
        for share, mass in zip(shares, masses, strict=True)
    ]
    per_user = torch.where(there, found[0] - found[1], torch.nan)
    interval = bootstrap_mean(per_user, resamples=resamples, confidence=confidence, seed=seed)
    return BEPResult(
        per_user.nanmean(),
        per_user,
        per_user.new_tensor([interval.low, interval.high]),
        found[0],
        found[1],
        jensen_shannon(*shares),
        (positive.shown - positive.categorized).sum() + (negative.shown - negative.categorized).sum(),
    )


def _missing_entropy(mass: CategoryMass, diversity: Diversity) -> Tensor:
    categories = mass.mass.shape[1]
    missing = ((mass.mass > 0).sum(1) - 1) / (2 * mass.categorized.double())
    if diversity == "normalized_entropy":
        return missing / math.log(categories) if categories > 1 else 0 * missing
    return missing


def _check_correction(correction: Correction, diversity: Diversity) -> None:
    if correction != "none" and "entropy" not in diversity:
        raise ValueError(f"correction={correction!r} is of an entropy; leave it out for diversity={diversity!r}")
