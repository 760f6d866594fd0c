"""The public names of `equipoise.recsys`."""

import torch

from contracts.model import Function, Measure


def _lists(generator, n):
    """Users with five items, of which one is relevant and one excluded."""
    relevant, exclude = torch.zeros(n, 5).long(), torch.zeros(n, 5).long()
    relevant[torch.arange(n), torch.arange(n) % 5] = 1
    exclude[torch.arange(n), (torch.arange(n) + 2) % 5] = 1
    return {"scores": torch.randn(n, 5, generator=generator), "relevant": relevant, "exclude": exclude}


ENTRIES = [
    Measure("equipoise.recsys.RankingMetrics", {"k": (1, 3)}, _lists),
    Function("equipoise.recsys.metrics_per_user", {"k": (1, 3)}, _lists),
    Function("equipoise.recsys.ranking_metrics", {"k": (1, 3)}, _lists),
]

OTHERS = {"equipoise.recsys.Conventions": "settings of the metrics, checked through them"}
