"""The public names of `equipoise.crowd` for one ranking of everybody."""

import torch

from contracts.model import Function
from equipoise.data import Comparisons, PairCounts

# The room is that of `entries/crowd.py`.
PACKAGES: list[str] = []


def _answers(generator, n):
    left = torch.arange(n) % 5
    return {
        "item_i": left,
        "item_j": (left + 1 + torch.arange(n) % 4) % 5,
        "y": torch.arange(n) % 3 - 1,
        "weight": torch.rand(n, generator=generator) + 0.5,
    }


def _amounts(generator, n):
    return {**_answers(generator, n), "y": torch.randn(n, generator=generator)}


_COUNTS = PairCounts.of(Comparisons.from_columns(None, [0, 1, 2, 0], [1, 2, 0, 2], [1, 1, 1, 0]))

ENTRIES = [
    Function("equipoise.crowd.ConsensusRanker", {"method": "thurstone", "ridge": 0.1, "elo_k": 16.0}),
    Function("equipoise.crowd.bradley_terry_mle", {"ridge": 0.1, "num_items": 6}, _answers),
    Function("equipoise.crowd.elo_ratings", {"k": 16.0, "scale": 200.0, "initial": 0.0, "num_items": 6}, _answers),
    Function("equipoise.crowd.hodge_decomposition", {"num_items": 6, "max_triangles": 100}, _amounts),
    Function("equipoise.crowd.hodge_rank", {"num_items": 6}, _amounts),
    Function("equipoise.crowd.separated_groups", {"counts": _COUNTS}),
    Function("equipoise.crowd.thurstone_mle", {"ridge": 0.1, "num_items": 6}, _answers),
]

OTHERS = {
    "equipoise.crowd.ConsensusIntervals": "a result that the library makes",
    "equipoise.crowd.HodgeParts": "a result that the library makes",
    "equipoise.crowd.HodgeRank": "a result that the library makes",
    "equipoise.crowd.LikelihoodFit": "a result that the library makes",
    "equipoise.crowd.Separation": "a result that the library makes",
}
