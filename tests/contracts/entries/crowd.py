"""The public names of `equipoise.crowd` for partial rankings."""

import torch

from contracts.model import Function
from equipoise.crowd import SplitState
from equipoise.data import Comparisons, simulate_partial_rankings

PACKAGES = ["crowd"]

_WORLD = simulate_partial_rankings(4, 5, comparisons_per_user=[20, 30])
_SAID = Comparisons.from_columns([0, 0, 1, 1], [0, 1, 0, 2], [1, 2, 2, 1], [1, 0, -1, 1])


def _scored(generator, n):
    return {
        "score_diff": torch.randn(n, generator=generator),
        "threshold": torch.rand(n, generator=generator) + 0.1,
    }


def _said(generator, n):
    """Answers of both signs and ties, with scores and thresholds near each other."""
    return {**_scored(generator, n), "y": torch.arange(n) % 3 - 1}


def _answers(generator, n):
    left = torch.arange(n) % 5
    return {
        "user": torch.arange(n) % 4,
        "item_i": left,
        "item_j": (left + 1 + torch.arange(n) % 3) % 5,
        "y": torch.arange(n) % 3 - 1,
        "common_score": torch.randn(5, generator=generator),
        "personal_score": torch.randn(4, 5, generator=generator),
        "personal_threshold": torch.rand(4, generator=generator) / 2,
    }


ENTRIES = [
    Function("equipoise.crowd.TieMLE", {"link": "normal", "ridge": 0.1}),
    Function("equipoise.crowd.SplitLBISettings", {"nu": 2.0, "num_times": 5, "step": 0.01}),
    Function("equipoise.crowd.tie_nll", {"common_threshold": 1.0, "link": "normal"}, _answers),
    Function("equipoise.crowd.tie_probabilities", {}, _scored),
    Function("equipoise.crowd.tie_log_probabilities", {"link": "normal"}, _scored),
    Function("equipoise.crowd.tie_prediction", {"rule": "argmax"}, _scored),
    Function("equipoise.crowd.tie_metrics", {}, _said),
    Function(
        "equipoise.crowd.group_shrink",
        {"kappa": 10.0},
        lambda generator, n: {"z": torch.randn(n, 3, generator=generator)},
    ),
    Function(
        "equipoise.crowd.split_lbi_step",
        {"state": SplitState.start(torch.tensor([0.2, 0.0, -0.2, 1.0]), 2), "comparisons": _SAID, "step": 0.1},
    ),
    Function("equipoise.crowd.split_lbi_path", {"comparisons": _WORLD.comparisons, "num_times": 3, "time_ratio": 2.0}),
]

OTHERS = {
    "equipoise.crowd.SplitLBIRanker": "its settings are entered; its test gives it bad comparisons",
    "equipoise.crowd.SplitState": "tensors of a path; `split_lbi_step` checks them",
    "equipoise.crowd.SplitPath": "a result that the library makes",
    "equipoise.crowd.GroupRows": "a part of a result",
    "equipoise.crowd.PathSettings": "a part of a result",
    "equipoise.crowd.Steps": "a part of a result",
    "equipoise.crowd.CrossValidation": "a result that the library makes",
    "equipoise.crowd.Decomposition": "a result that the library makes",
    "equipoise.crowd.TieMetrics": "a result that the library makes",
}
