"""Filtered ranks against counting one by one, with ties, extremes and few entities."""

import math

import pytest
import torch

from equipoise.core.curves import list_ranks as counting
from equipoise.knowledge import filtered_ranking


def _one_by_one(scores, target, known):
    found = []
    for row, own in enumerate(target.tolist()):
        value = scores[row, own]
        rivals = [j for j in range(scores.shape[1]) if j != own and not known[row, j]]
        best = 1 + sum(bool(scores[row, j] > value) for j in rivals)
        worst = 1 + sum(bool(scores[row, j] >= value) for j in rivals)
        found.append((best, worst, (best + worst) / 2, len(rivals) + 1))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("way", ["_by_counting", "_by_sorting"])
@pytest.mark.parametrize("values", ["distinct", "tied", "constant", "infinite"])
@pytest.mark.parametrize(("n", "entities"), [(1, 1), (7, 2), (30, 57), (5, 300)])
def test_ranks_are_those_of_counting_one_by_one(way, values, n, entities, monkeypatch):
    monkeypatch.setattr(counting, "list_counts", getattr(counting, way))
    generator = torch.Generator().manual_seed(n)
    scores = torch.randn(n, entities, generator=generator)
    if values != "distinct":
        scores = (2 * scores).round() if values != "constant" else torch.zeros_like(scores)
    if values == "infinite":
        scores[scores > 1], scores[scores < -1] = math.inf, -math.inf
    target = torch.randint(entities, (n,), generator=generator)
    known = torch.rand(n, entities, generator=generator) < 0.3
    ranks = filtered_ranking(scores, target, known)
    assert torch.equal(torch.stack([each.double() for each in ranks], 1), _one_by_one(scores, target, known))
    raw = filtered_ranking(scores, target)
    assert torch.equal(torch.stack([each.double() for each in raw], 1), _one_by_one(scores, target, known & False))


def test_it_does_not_matter_whether_the_target_is_marked():
    scores = torch.randn(9, 12, generator=torch.Generator().manual_seed(1))
    target = torch.arange(9)
    known = torch.rand(9, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    marked, unmarked = known.clone(), known.clone()
    marked[target, target], unmarked[target, target] = True, False
    for one, other in zip(
        filtered_ranking(scores, target, marked.long()), filtered_ranking(scores, target, unmarked), strict=True
    ):
        assert torch.equal(one, other)


def test_all_others_known_leaves_the_first_place():
    ranks = filtered_ranking(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1]), torch.ones(1, 3).long())
    assert [float(each) for each in ranks] == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_equal_scores_stay_equal_in_every_precision(dtype):
    scores = torch.tensor([[1.0, 1 / 3, 1 / 3, 0.0]], dtype=dtype)
    ranks = filtered_ranking(scores, torch.tensor([2]))
    assert (int(ranks.optimistic), int(ranks.pessimistic), float(ranks.realistic)) == (2, 3, 2.5)


def test_bad_input_is_refused(plain_inputs):
    scores, target = torch.rand(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="scores holds 1 NaN"):
        filtered_ranking(torch.tensor([[0.1, math.nan, 0.2]]), torch.tensor([0]))
    for wrong in (-1, 3):
        with pytest.raises(IndexError, match=f"target holds the entity {wrong}, wanted 0 to 2"):
            filtered_ranking(scores, torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match="known_true must have shape"):
        filtered_ranking(scores, target, torch.zeros(2, 4).long())
    with pytest.raises(ValueError, match="known_true holds the value 2"):
        filtered_ranking(scores, target, torch.full((2, 3), 2))
    with pytest.raises(ValueError, match="target must have shape"):
        filtered_ranking(scores, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"scores must be a torch\.Tensor"):
        filtered_ranking(scores.tolist(), target)
