"""The public names of `equipoise.recsys`."""

import torch

from contracts.model import Function, Loss, Measure
from equipoise.data import Interactions
from equipoise.recsys import SFCML


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


ENTRIES = [
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
    "equipoise.recsys.Conventions": "settings of the metrics, checked through them",
    "equipoise.recsys.Scorer": "a protocol that models meet",
    "equipoise.recsys.SampledTrainer": "holds a model that it changes; its test gives it bad settings",
    "equipoise.recsys.SamplingFreeTrainer": "holds a model that it changes; its test gives it bad settings",
    "equipoise.recsys.fit_recommender": "runs a trainer, which it changes; its test gives it bad settings",
}
