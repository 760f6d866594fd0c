"""The public names of `equipoise.recsys`."""

import torch

from contracts.model import Function, Loss, Measure
from equipoise.data import Interactions
from equipoise.recsys import SFCML, MostPopular, RuleAgent, build_profiles

NAN = {"bad_arguments_are_refused_by_name": "users with NaN do not count"}


def _lists(generator, n):
    """Users with five items, of which one is relevant and one excluded."""
    relevant, exclude = torch.zeros(n, 5).long(), torch.zeros(n, 5).long()
    relevant[torch.arange(n), torch.arange(n) % 5] = 1
    exclude[torch.arange(n), (torch.arange(n) + 2) % 5] = 1
    return {"scores": torch.randn(n, 5, generator=generator), "relevant": relevant, "exclude": exclude}


def _users(generator, n):
    """Three vectors a user, of which one, two or three are the user's own."""
    return {"user": torch.randn(n, 3, 4, generator=generator), "num_vectors": torch.arange(n) % 3 + 1}


def _users_and_items(generator, n):
    return {**_users(generator, n), "item": torch.randn(6, 4, generator=generator)}


def _triplets(generator, n):
    shapes = {"pos": (n, 4), "neg": (n, 5, 4)}
    return {**_users(generator, n), **{name: torch.randn(s, generator=generator) for name, s in shapes.items()}}


def _distances(generator, n):
    drawn = torch.rand(n, 6, generator=generator)
    return {"pos_distance": drawn[:, 0].clone(), "neg_distance": drawn[:, 1:].clone()}


def _observed(generator, n):
    return {"distance": torch.rand(n, 5, generator=generator), "positive": _lists(generator, n)["relevant"]}


def _sampling_free(generator, n):
    user, item = torch.randn(n, 4, generator=generator), torch.randn(5, 4, generator=generator)
    return {"user": user, "item": item, "positive": _lists(generator, n)["relevant"]}


def _of_one_user(generator, n):
    return {"item": torch.randn(n, 4, generator=generator), "positive": (torch.arange(n) % 3 == 0).long()}


def _chances(generator, n):
    drawn = torch.rand(2, n, generator=generator).softmax(1)
    return {"prob": drawn[0].clone(), "reference": drawn[1].clone()}


def _recommended(generator, n):
    drawn = torch.stack([torch.randperm(9, generator=generator)[:4] for _ in range(n)])
    return {"recommended": drawn, "item": torch.randn(9, 3, generator=generator)}


_LIKES = Interactions.from_pairs([0, 0, 1, 2], [0, 1, 2, 3], num_items=6)
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
    Loss("equipoise.recsys.DiversityControl", {"delta1": 0.1, "delta2": 0.5}, _users),
    Function("equipoise.recsys.metrics_per_user", {"k": (1, 3)}, _lists),
    Function("equipoise.recsys.ranking_metrics", {"k": (1, 3)}, _lists),
    Function("equipoise.recsys.num_interests", {"counts": (0, 1, 5, 40), "max_vectors": 5}),
    Function("equipoise.recsys.multi_vector_distance", {}, _users_and_items),
    Function("equipoise.recsys.diversity_control", {"delta1": 0.1, "delta2": 0.5}, _users),
    Function("equipoise.recsys.max_sum_dispersion", {}, _recommended),
    Function(
        "equipoise.recsys.preference_diversity",
        {},
        lambda _, n: {"item_tags": torch.eye(4).long()[torch.arange(n) % 4]},
    ),
    Function("equipoise.recsys.topk_negative_loss", {"k": 2}, _distances),
    Function("equipoise.recsys.dpcml_triplet_loss", {"mining": "hard"}, _triplets),
    Function("equipoise.recsys.full_pairwise_hinge", {"max_fpr": 0.5}, _observed),
    Function(
        "equipoise.recsys.sampling_quantile_weight",
        {"num_candidates": 10, "k": 2},
        lambda _, n: {"quantile": torch.linspace(0, 1, n)},
    ),
    Function("equipoise.recsys.sfcml_loss", {"margin": 2.0}, _sampling_free),
    Function("equipoise.recsys.sfcml_user_solution", {"margin": 2.0, "ridge": 0.1, "norm": 1.0}, _of_one_user),
    Function("equipoise.recsys.sampling_total_variation", {}, _chances),
    Function("equipoise.recsys.MultiVectorCML", {"num_users": 3, "num_items": 4, "dim": 2, "num_vectors": 2}),
    Function("equipoise.recsys.SFCML", {"num_users": 3, "num_items": 4, "dim": 2}),
    Function("equipoise.recsys.UniformNegatives", {"interactions": _LIKES, "num_negatives": 4}),
    Function("equipoise.recsys.PopularityNegatives", {"interactions": _LIKES, "num_negatives": 4}),
    Function("equipoise.recsys.TwoStageNegatives", {"interactions": _LIKES, "num_negatives": 4, "num_candidates": 9}),
    Function(
        "equipoise.recsys.recommend",
        {"model": SFCML(4, 6, dim=2), "k": 3},
        lambda _, n: {"users": torch.arange(n) % 4},
    ),
]

OTHERS = {
    "equipoise.recsys.MetricLearningRecommender": "settings are checked by RecommenderSettings; its test fits it",
    "equipoise.recsys.RankingReport": "a result that the library makes",
    "equipoise.recsys.RecommenderSettings": "settings, each checked by its type; its test gives bad ones",
    "equipoise.recsys.evaluate_recommender": "asks a model; its test gives it bad ones",
    "equipoise.recsys.Scorer": "a protocol that models meet",
    "equipoise.recsys.SampledTrainer": "holds a model that it changes; its test gives it bad settings",
    "equipoise.recsys.SamplingFreeTrainer": "holds a model that it changes; its test gives it bad settings",
    "equipoise.recsys.fit_recommender": "runs a trainer, which it changes; its test gives it bad settings",
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
