"""The public names of `equipoise.recsys`."""

import torch

from contracts.model import Function, Measure
from equipoise.data import Interactions
from equipoise.recsys import MostPopular, RuleAgent, build_profiles

NAN = {"bad_arguments_are_refused_by_name": "users with NaN do not count"}


def _lists(generator, n):
    """Users with five items, of which one is relevant and one excluded."""
    relevant, exclude = torch.zeros(n, 5).long(), torch.zeros(n, 5).long()
    relevant[torch.arange(n), torch.arange(n) % 5] = 1
    exclude[torch.arange(n), (torch.arange(n) + 2) % 5] = 1
    return {"scores": torch.randn(n, 5, generator=generator), "relevant": relevant, "exclude": exclude}


GENRES = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]])


def _exposures(generator, n):
    """Users with six items shown to each copy."""
    return {
        "user_ids": torch.arange(n) * 3,
        "positive_items": torch.randint(5, (n, 6), generator=generator),
        "negative_items": torch.randint(5, (n, 6), generator=generator),
    }


def _compared(generator, n):
    both = _exposures(generator, n)
    return {
        "positive_exposure": both["positive_items"],
        "negative_exposure": both["negative_items"],
        "item_category": GENRES,
    }


def _nothing_shown(generator, n):
    nothing = torch.full((n, 6), -1)
    return {"user_ids": torch.arange(n), "positive_items": nothing, "negative_items": nothing}


def _pages(generator, n):
    return {"pages": torch.stack([torch.randperm(5, generator=generator)[:3] for _ in range(n)])}


def _distributions(generator, n):
    return torch.rand(n, 3, generator=generator).add(0.1).log().softmax(1)


def _tastes(generator, n):
    return {"taste": _distributions(generator, n), "logged": torch.randint(9, (n, 3), generator=generator)}


def _ratings(generator, n):
    return {"ratings": torch.randint(1, 6, (n, 5), generator=generator), "item_category": GENRES}


def _per_user(generator, n):
    return {"values": torch.randn(n, generator=generator)}


LOG = Interactions.from_pairs([0, 0, 1, 2, 2], [0, 3, 1, 2, 4], num_items=5)
SIMULATION = {"rounds": 2, "page_size": 1}


ENTRIES = [
    Measure(
        "equipoise.recsys.BubbleEscapePotential",
        {"item_category": GENRES, "resamples": 20},
        _exposures,
        undefined=_nothing_shown,
        exempt={"samples_of_another_width_are_refused_at_once": "a batch may show any number of items"},
    ),
    Function("equipoise.recsys.ContrastiveSimulation", {"recommender": MostPopular().fit(LOG), **SIMULATION}),
    Function("equipoise.recsys.ImplicitALS", {"factors": 4, "sweeps": 1}),
    Function("equipoise.recsys.ItemKNN", {"neighbours": 4}),
    Function("equipoise.recsys.RandomMix", {"recommender": MostPopular().fit(LOG), "eps": 0.1}),
    Function("equipoise.recsys.RuleAgent", {"activity": 0.5, "exploration": 0.5}),
    Function("equipoise.recsys.EmbeddingAgent", {"item_vectors": torch.eye(5), "rule": RuleAgent(0.5)}),
    Function("equipoise.recsys.bootstrap_mean", {"resamples": 20}, _per_user, NAN),
    Function("equipoise.recsys.bubble_escape_potential", {"resamples": 20}, _compared),
    Function("equipoise.recsys.build_profiles", {"log": LOG, "item_category": GENRES}),
    Function("equipoise.recsys.catalogue_coverage", {"num_items": 5}, _pages),
    Function(
        "equipoise.recsys.escape_table",
        {
            "recommenders": {"popular": MostPopular().fit(LOG)},
            "profiles": build_profiles(LOG, GENRES),
            "resamples": 20,
            **SIMULATION,
        },
    ),
    Function(
        "equipoise.recsys.exposure_distribution",
        {"item_category": GENRES},
        lambda generator, n: {"exposure": torch.randint(5, (n, 6), generator=generator)},
    ),
    Function(
        "equipoise.recsys.exposure_diversity",
        {"kind": "entropy"},
        lambda generator, n: {"distributions": _distributions(generator, n)},
    ),
    Function("equipoise.recsys.exposure_gini", {"num_items": 5}, _pages),
    Function(
        "equipoise.recsys.group_means",
        {"resamples": 20},
        lambda generator, n: {**_per_user(generator, n), "groups": torch.arange(n) % 3},
        NAN,
    ),
    Function("equipoise.recsys.intra_list_distance", {"item_vectors": torch.eye(5)}, _pages),
    Function(
        "equipoise.recsys.miscalibration",
        {"smoothing": 0.1},
        lambda generator, n: {"history": _distributions(generator, n), "exposure": _distributions(generator, n)},
    ),
    Function("equipoise.recsys.popularity_lift", {"history": LOG}, lambda generator, n: _pages(generator, 3)),
    Function(
        "equipoise.recsys.random_exposure_table",
        {
            "name": "popular",
            "recommender": MostPopular().fit(LOG),
            "profiles": build_profiles(LOG, GENRES),
            "eps": (0.1,),
            "resamples": 20,
            **SIMULATION,
        },
    ),
    Function("equipoise.recsys.simulate_categories", {"rounds": 3, "page_size": 2}, _tastes),
    Function(
        "equipoise.recsys.user_traits",
        {},
        _ratings,
        {"bad_arguments_are_refused_by_name": "ratings may be whole numbers or fractions"},
    ),
    Measure("equipoise.recsys.RankingMetrics", {"k": (1, 3)}, _lists),
    Function("equipoise.recsys.metrics_per_user", {"k": (1, 3)}, _lists),
    Function("equipoise.recsys.ranking_metrics", {"k": (1, 3)}, _lists),
]

OTHERS = {
    "equipoise.recsys.BEPResult": "a result that the library makes",
    "equipoise.recsys.CategorySimulation": "a result that the library makes",
    "equipoise.recsys.Conventions": "settings of the metrics, checked through them",
    "equipoise.recsys.Decision": "what an agent of the user's own gives, checked by the simulation",
    "equipoise.recsys.EscapeRow": "a result that the library makes",
    "equipoise.recsys.GroupMean": "a result that the library makes",
    "equipoise.recsys.Histories": "a state that the simulation makes",
    "equipoise.recsys.Memory": "a state that the simulation makes",
    "equipoise.recsys.MostPopular": "takes nothing that could be wrong",
    "equipoise.recsys.PolicyAgent": "takes a callable and texts; its test gives it bad answers",
    "equipoise.recsys.Profiles": "made by build_profiles, which checks",
    "equipoise.recsys.Recommender": "a protocol, checked by the simulation",
    "equipoise.recsys.SimulationLog": "a result that the library makes",
    "equipoise.recsys.Situation": "a state that the library makes",
    "equipoise.recsys.UserAgent": "a protocol, checked by the simulation",
    "equipoise.recsys.UserProfile": "made by build_profiles, which checks",
    "equipoise.recsys.UserTraits": "a result that the library makes",
    "equipoise.recsys.World": "a result that the library makes",
    "equipoise.recsys.plot_escape_table": "draws rows; its test gives it bad ones",
}
