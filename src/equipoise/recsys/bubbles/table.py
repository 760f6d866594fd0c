"""Recommenders side by side: how accurate they are, and how much they let users out of their bubble."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, Probability, Whole
from equipoise.data.interactions.matrix import Interactions
from equipoise.recsys.bubbles.exposure import Diversity, Weighting, category_mass, category_weights
from equipoise.recsys.bubbles.potential import BEPResult, Correction
from equipoise.recsys.bubbles.profiles import Profiles
from equipoise.recsys.bubbles.recommender import RandomMix, Recommender
from equipoise.recsys.bubbles.simulation import ContrastiveSimulation, SimulationLog
from equipoise.recsys.evaluation.exposure import (
    catalogue_coverage,
    exposure_gini,
    intra_list_distance,
    miscalibration,
    popularity_lift,
)
from equipoise.recsys.evaluation.ranking_metrics import ranking_metrics


@dataclass(frozen=True, eq=False)
class EscapeRow:
    """What was found of one recommender. All but the escape potential is of the first page, before anybody clicks.

    Attributes:
        recommender: its name.
        eps: share of random items.
        bep: bubble escape potential.
        low: lower end of its interval.
        high: upper end of its interval.
        positive_diversity: mean of what the copies that broaden their behaviour were shown.
        negative_diversity: mean of what the copies that narrow it were shown.
        jensen_shannon: mean divergence of the two.
        ndcg: on held-out items, at the size of a page; NaN without held-out items.
        recall: likewise.
        hit_rate: likewise.
        intra_list_distance: mean distance of the items of a page, by categories.
        coverage: share of the catalogue on somebody's page.
        gini: of how often an item is shown.
        popularity_lift: mean lift against what the user took.
        miscalibration: mean divergence of the page's categories from the taste.
        result: `BEPResult` with the values of every user.
    """

    recommender: str
    eps: float
    bep: float
    low: float
    high: float
    positive_diversity: float
    negative_diversity: float
    jensen_shannon: float
    ndcg: float
    recall: float
    hit_rate: float
    intra_list_distance: float
    coverage: float
    gini: float
    popularity_lift: float
    miscalibration: float
    result: BEPResult


@checked
def escape_table(
    recommenders: Mapping[str, Recommender],
    profiles: Profiles,
    *,
    held_out: Interactions | None = None,
    popularity: Tensor | None = None,
    eps: Sequence[Probability] = (0.0,),
    diversity: Diversity = "entropy",
    weighting: Weighting = "fractional",
    correction: Correction = "none",
    resamples: Count = 1000,
    confidence: OpenFraction = 0.95,
    seed: Whole = 0,
    **simulation: Any,
) -> list[EscapeRow]:
    """Simulate every recommender with the same users and the same chance, and judge its first page.

    Args:
        recommenders: name → recommender, fitted on the log.
        profiles: the users.
        held_out: what each of these users took beside the log, in a row each, to judge accuracy by.
        popularity: (items,) how many users of the whole log took an item; counted among these users by default.
        eps: shares of random items; every recommender is simulated with each of them.
        diversity: as in `bubble_escape_potential`.
        weighting: as in `bubble_escape_potential`.
        correction: as in `bubble_escape_potential`.
        resamples: as in `bubble_escape_potential`.
        confidence: as in `bubble_escape_potential`.
        seed: of decisions, random items and the bootstrap.
        simulation: other settings of `ContrastiveSimulation`.

    Returns:
        A row for every recommender and share.

    Raises:
        ValueError: if `held_out` is of other users or items, or as `ContrastiveSimulation`.

    >>> from equipoise.recsys import ItemKNN, build_profiles
    >>> log = Interactions.from_pairs([0, 0, 1, 1], [0, 1, 1, 2], num_items=40)
    >>> profiles = build_profiles(log, torch.eye(2).long().repeat(20, 1))
    >>> (row,) = escape_table({"nearest items": ItemKNN().fit(log)}, profiles, rounds=3, page_size=4)
    >>> row.recommender, row.low <= row.bep <= row.high
    ('nearest items', True)
    """
    if held_out is not None and (held_out.num_users, held_out.num_items) != (len(profiles), profiles.history.num_items):
        raise ValueError(
            f"held_out is of {held_out.num_users} users and {held_out.num_items} items, profiles of {len(profiles)} "
            f"and {profiles.history.num_items}"
        )
    rows = []
    for name, recommender in recommenders.items():
        for share in eps:
            mixed = RandomMix(recommender, share, seed) if share else recommender
            log = ContrastiveSimulation(mixed, seed=seed, **simulation).run(profiles)
            result = log.escape_potential(
                diversity=diversity,
                weighting=weighting,
                correction=correction,
                resamples=resamples,
                confidence=confidence,
                seed=seed,
            )
            rows.append(_row(name, share, result, log, profiles, held_out, popularity))
    return rows


@checked
def random_exposure_table(
    name: str,
    recommender: Recommender,
    profiles: Profiles,
    *,
    eps: Sequence[float] = (0.0, 0.05, 0.1, 0.2),
    **settings: Any,
) -> list[EscapeRow]:
    """One recommender with growing shares of random items: does random exposure let users out?

    Args:
        name: of the recommender.
        recommender: fitted on the log.
        profiles: the users.
        eps: shares of random items.
        settings: other settings of `escape_table`.
    """
    return escape_table({name: recommender}, profiles, eps=eps, **settings)


def plot_escape_table(rows: Sequence[EscapeRow], *, ax: Any = None) -> Any:
    """Draw escape potential, with its interval, against NDCG; returns (figure, axes).

    Points of one recommender with several shares of random items are joined.

    Raises:
        ValueError: if there is nothing to draw or accuracy was not measured.
        ModuleNotFoundError: without matplotlib.
    """
    if not rows:
        raise ValueError("rows holds no row")
    if any(math.isnan(row.ndcg) for row in rows):
        raise ValueError("rows have no NDCG; give escape_table held-out interactions")
    if ax is None:
        from matplotlib.figure import Figure

        # A figure of its own: pyplot's global state stays as it is.
        ax = Figure(figsize=(5.5, 4.5), layout="constrained").add_subplot()
    for name in dict.fromkeys(row.recommender for row in rows):
        mine = sorted((row for row in rows if row.recommender == name), key=lambda row: row.eps)
        errors = [[row.bep - row.low for row in mine], [row.high - row.bep for row in mine]]
        ax.errorbar(
            [row.ndcg for row in mine], [row.bep for row in mine], yerr=errors, marker="o", capsize=2, label=name
        )
        for row in mine:
            if row.eps:
                ax.annotate(
                    f"ε = {row.eps:g}", (row.ndcg, row.bep), xytext=(4, 4), textcoords="offset points", fontsize=8
                )
    ax.axhline(0, color="0.6", linestyle=":", linewidth=1)
    ax.set(xlabel="NDCG of the first page", ylabel="bubble escape potential")
    ax.legend(frameon=False)
    return ax.figure, ax


def _row(
    name: str,
    eps: float,
    result: BEPResult,
    log: SimulationLog,
    profiles: Profiles,
    held_out: Interactions | None,
    popularity: Tensor | None,
) -> EscapeRow:
    pages, items = log.first_page, profiles.history.num_items
    there = ~result.per_user.isnan()
    shown = category_mass("pages", pages, category_weights(profiles.item_category, "fractional"))
    kept = shown.categorized > 0
    share = shown.mass[kept] / shown.mass[kept].sum(1, keepdim=True)
    ndcg, recall, hit_rate = _accuracy(pages, profiles.history, held_out)
    return EscapeRow(
        recommender=name,
        eps=eps,
        bep=float(result.value),
        low=float(result.ci[0]),
        high=float(result.ci[1]),
        positive_diversity=float(result.positive_diversity[there].mean()),
        negative_diversity=float(result.negative_diversity[there].mean()),
        jensen_shannon=float(result.jensen_shannon[there].mean()),
        ndcg=ndcg,
        recall=recall,
        hit_rate=hit_rate,
        intra_list_distance=float(intra_list_distance(pages, profiles.item_category.double()).nanmean()),
        coverage=catalogue_coverage(pages, items),
        gini=exposure_gini(pages, items),
        popularity_lift=float(popularity_lift(pages, profiles.history, popularity).nanmean()),
        miscalibration=float(miscalibration(profiles.taste[kept], share).mean()),
        result=result,
    )


def _accuracy(pages: Tensor, history: Interactions, held_out: Interactions | None) -> tuple[float, float, float]:
    """NDCG, recall and hit rate of pages, by scores that fall along the page; what is not on it ties below."""
    if held_out is None or not len(held_out):
        return math.nan, math.nan, math.nan
    size = pages.shape[1]
    users = (held_out.per_user > 0).nonzero()[:, 0]
    scores = torch.zeros((len(users), history.num_items + 1))
    scores.scatter_(1, pages[users] % (history.num_items + 1), torch.arange(size, 0, -1.0).expand(len(users), size))
    found = ranking_metrics(scores[:, :-1], held_out.select(users), history.select(users), k=size)
    ndcg, recall, hits = (float(found[f"{name}@{size}"]) for name in ("ndcg", "recall", "hit_rate"))
    return ndcg, recall, hits
