"""Counts of candidates before the wanted ones, against counting one by one."""

import numpy as np
import pytest
import torch

from equipoise.core.curves import list_ranks as module
from equipoise.core.curves.list_ranks import list_ranks


def _sets(generator, rows, candidates, most):
    """Disjoint wanted and excluded candidates of each row, as bounds and indices."""
    wanted, away = [], []
    for _ in range(rows):
        order = generator.permutation(candidates)
        first, second = generator.integers(0, most + 1, 2)
        wanted.append(np.sort(order[:first]))
        away.append(np.sort(order[first : first + second]))
    return [
        (torch.tensor(np.cumsum([0, *map(len, part)])), torch.tensor(np.concatenate(part).astype(np.int64)))
        for part in (wanted, away)
    ]


def _one_by_one(scores, offsets, wanted, away_offsets, away):
    found = []
    for row in range(len(scores)):
        out = set(away[away_offsets[row] : away_offsets[row + 1]].tolist())
        for item in wanted[offsets[row] : offsets[row + 1]].tolist():
            others = [j for j in range(scores.shape[1]) if j not in out and j != item]
            own = scores[row, item]
            tied = [j for j in others if scores[row, j] == own]
            found.append([sum(bool(scores[row, j] > own) for j in others), len(tied), sum(j < item for j in tied)])
    return torch.tensor(found).reshape(-1, 3)


@pytest.mark.parametrize("values", ["distinct", "tied", "constant", "infinite"])
def test_one_that_is_wanted_and_excluded_stands_among_the_rest(values):
    generator = np.random.default_rng(5)
    scores = torch.from_numpy(generator.normal(size=(6, 40)))
    if values != "distinct":
        scores = scores.round() if values != "constant" else torch.zeros_like(scores)
    if values == "infinite":
        scores[scores > 1], scores[scores < -1] = torch.inf, -torch.inf
    wanted, away = ([np.sort(generator.permutation(40)[:k]) for k in (0, 3, 12, 40, 1, 9)] for _ in range(2))
    wanted[2][:5], away[2][:5] = range(5), range(5)
    parts = [
        (torch.tensor(np.cumsum([0, *map(len, part)])), torch.tensor(np.concatenate(part)).long())
        for part in (list(map(np.unique, wanted)), list(map(np.unique, away)))
    ]
    ranks = list_ranks(scores, *parts[0], *parts[1])
    assert torch.equal(torch.stack(ranks, 1), _one_by_one(scores, *parts[0], *parts[1]))


@pytest.mark.parametrize("path", ["counting", "sorting"])
@pytest.mark.parametrize("most", [3, 30])
@pytest.mark.parametrize("values", ["distinct", "tied", "constant", "infinite"])
def test_counts_are_those_of_counting_one_by_one(path, most, values, monkeypatch):
    monkeypatch.setattr(module, "_FEW", 10)  # more are wanted of some rows, and those are sorted
    generator = np.random.default_rng(most)
    scores = torch.from_numpy(generator.normal(size=(7, 70)).astype(np.float32))
    if values != "distinct":
        scores = scores.round() if values != "constant" else torch.zeros_like(scores)
    if values == "infinite":
        scores[scores > 1], scores[scores < -1] = torch.inf, -torch.inf
    (offsets, wanted), (away_offsets, away) = _sets(generator, 7, 70, most)
    monkeypatch.setattr(module, "list_counts", module._by_counting if path == "counting" else module._by_sorting)
    ranks = list_ranks(scores, offsets, wanted, away_offsets, away)
    assert torch.equal(torch.stack(ranks, 1), _one_by_one(scores, offsets, wanted, away_offsets, away))


def test_nothing_wanted_and_nothing_excluded():
    none = torch.zeros(3).long()
    assert all(len(counts) == 0 for counts in list_ranks(torch.rand(2, 5), none, none[:0]))
    ranks = list_ranks(torch.tensor([[1.0, 2.0]]).bfloat16(), torch.tensor([0, 1]), torch.tensor([0]))
    assert [int(count) for count in ranks] == [1, 0, 0]
