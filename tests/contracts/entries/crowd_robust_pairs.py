"""The public names of `equipoise.crowd` for pairwise answers of which some are wrong."""

import torch

from contracts.model import Function, Loss
from equipoise.crowd import ComparisonGraph, PairwiseRanker

# The room is that of `entries/crowd.py`.
PACKAGES: list[str] = []

_TRAINS = {"bad_arguments_are_refused_by_name": "items are whatever the backbone takes; its test gives it bad ones"}


def _differences(generator, n):
    return {"score_diff": torch.randn(n, generator=generator), "y": torch.arange(n) % 3 % 2 * 2 - 1}


def _pairs(generator, n):
    scores = {name: torch.randn(n, generator=generator) for name in ("score_i", "score_j")}
    return {**scores, "y": torch.arange(n) % 3 % 2 * 2 - 1, "strength": torch.rand(n, generator=generator) + 0.5}


def _explained(generator, n):
    return {**_pairs(generator, n), "gamma": torch.randn(n, generator=generator)}


def _edges(generator, n):
    left = torch.arange(n) % 5
    return {"item_i": left, "item_j": (left + 1 + torch.arange(n) % 4) % 5, "y": torch.arange(n) % 3 % 2 * 2 - 1}


def _features(generator, n):
    return {
        "features": torch.randn(5, 3, generator=generator),
        **_edges(generator, n),
        "strength": torch.rand(n, generator=generator) + 0.5,
    }


_GRAPH = ComparisonGraph.from_edges(**_edges(None, 20))
_COURSE = {
    "ranker": PairwiseRanker(torch.nn.Linear(3, 4), 4),
    "items": torch.eye(5, 3),
    "graph": _GRAPH,
    "lambda1": 0.3,
    "epochs": 2,
    "milestones": (1,),
}

ENTRIES = [
    Loss(
        "equipoise.crowd.PairOutlierLoss",
        {"lambda1": 0.3, "model": "logistic"},
        _pairs,
        functional="equipoise.crowd.pair_outlier_loss",
    ),
    Function("equipoise.crowd.OutlierAlternator", {**_COURSE, "gamma_warmup": 1}, exempt=_TRAINS),
    Function("equipoise.crowd.PairwiseRanker", {"backbone": torch.nn.Identity(), "width": 3, "num_attributes": 2}),
    Function("equipoise.crowd.RobustLinearRanker", {"lambda1": 0.3, "lambda2": 0.1, "model": "squared"}),
    Function("equipoise.crowd.fit_pairwise_ranker", _COURSE, exempt=_TRAINS),
    Function("equipoise.crowd.majority_vote", {}, _edges),
    Function("equipoise.crowd.outlier_gamma", {"lambda1": 0.3, "model": "squared"}, _differences),
    Function(
        "equipoise.crowd.pair_outlier_loss",
        {"lambda1": 0.3, "model": "squared", "mode": "given_gamma", "reduction": "sum"},
        _explained,
    ),
    Function("equipoise.crowd.robust_linear_ranker", {"lambda1": 0.3, "lambda2": 0.1, "num_items": 5}, _features),
]

OTHERS = {
    "equipoise.crowd.ComparisonGraph": "built from edges or comparisons; its test gives it bad ones",
    "equipoise.crowd.MajorityVote": "a result that the library makes",
    "equipoise.crowd.OutlierTable": "a result that the library makes",
    "equipoise.crowd.PairOutliers": "a result that the library makes",
    "equipoise.crowd.PairScores": "a result that the library makes",
    "equipoise.crowd.PairwiseFit": "a result that the library makes",
    "equipoise.crowd.RobustLinearFit": "a result that the library makes",
    "equipoise.crowd.AlternationRound": "a result that the library makes",
}
