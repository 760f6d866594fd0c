"""The values that RecBole's own tests of its evaluator expect, on lists with hits and misses at the same places."""

import math

import pytest
import torch

from equipoise.data import Interactions
from equipoise.recsys import catalogue_coverage, exposure_gini, metrics_per_user

HITS = ((0, 0, 0), (1, 1, 1), (1, 0, 1), (0, 0, 1))
RELEVANT = (1, 3, 4, 2)
ITEMS = 10
_SECOND = 1 / math.log2(3)
EXPECTED = {
    "hit_rate": ((0, 0, 0), (1, 1, 1), (1, 1, 1), (0, 0, 1)),
    "ndcg": (
        (0, 0, 0),
        (1, 1, 1),
        (1, 1 / (1 + _SECOND), 1.5 / (1.5 + _SECOND)),
        (0, 0, 0.5 / (1 + _SECOND)),
    ),
    "mrr": ((0, 0, 0), (1, 1, 1), (1, 1, 1), (0, 0, 1 / 3)),
    "map": ((0, 0, 0), (1, 1, 1), (1, 1 / 2, 5 / 9), (0, 0, 1 / 6)),
    "recall": ((0, 0, 0), (1 / 3, 2 / 3, 1), (1 / 4, 1 / 4, 2 / 4), (0, 0, 1 / 2)),
    "precision": ((0, 0, 0), (1, 1, 1), (1, 1 / 2, 2 / 3), (0, 0, 1 / 3)),
}
LISTS = torch.tensor([[5, 7, 3], [4, 5, 2], [2, 3, 5], [1, 4, 6], [5, 3, 7]])


@pytest.fixture(scope="module")
def values():
    """Item p stands at place p of every list; what is relevant and not among the first three stands at the end."""
    scores = torch.arange(ITEMS, 0, -1.0).expand(len(HITS), ITEMS)
    relevant = torch.zeros(len(HITS), ITEMS).long()
    for user, (hits, count) in enumerate(zip(HITS, RELEVANT, strict=True)):
        relevant[user, :3] = torch.tensor(hits)
        relevant[user, ITEMS - (count - sum(hits)) :] = int(count > sum(hits))
        assert relevant[user].sum() == count
    return metrics_per_user(scores, relevant, k=(1, 2, 3))[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_of_the_list(values, name):
    found = torch.stack([values[f"{name}@{k}"] for k in (1, 2, 3)], 1)
    torch.testing.assert_close(found, torch.tensor(EXPECTED[name], dtype=torch.float64))


def test_what_lists_show_of_the_catalogue():
    assert catalogue_coverage(LISTS, 8) == 7 / 8
    assert exposure_gini(LISTS, 8) == pytest.approx((-5 - 3 - 2 + 2 + 6 + 15 + 28) / (8 * 15))


@pytest.mark.parametrize(
    ("places", "candidates", "area"), [((1,), 2, 1.0), ((1, 3), 3, 0.5), ((2, 3, 4), 5, 0.5), ((3,), 3, 0.0)]
)
def test_area_of_each_user(places, candidates, area):
    """RecBole has it from the sum of the ranks of the relevant items, 1, 4, 9 and 3 here."""
    scores = torch.arange(candidates, 0, -1.0)[None]
    relevant = Interactions.from_pairs([0] * len(places), [p - 1 for p in places], num_users=1, num_items=candidates)
    assert float(metrics_per_user(scores, relevant, k=1)[0]["auc"]) == area
