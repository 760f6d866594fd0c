"""HodgeRank and the parts of what no scores explain."""

import itertools
import math

import numpy as np
import pytest
import torch

from equipoise.crowd import ConsensusRanker, hodge_decomposition, hodge_rank
from equipoise.data import Comparisons


def _drawn(seed, items=7, rows=30):
    generator = np.random.default_rng(seed)
    i = generator.integers(0, items, rows)
    j = (i + generator.integers(1, items, rows)) % items
    return [torch.tensor(each) for each in (i, j, generator.normal(size=rows), generator.random(rows) + 0.1)]


@pytest.mark.parametrize("seed", range(10))
def test_the_scores_are_the_shortest_least_squares_solution(seed):
    i, j, y, w = _drawn(seed, rows=8)
    found = hodge_rank(i, j, y, w, num_items=8)
    rows = torch.zeros(len(y), 8, dtype=torch.float64)
    rows[torch.arange(len(y)), i], rows[torch.arange(len(y)), j] = 1.0, -1.0
    root = w.sqrt()
    wanted = torch.linalg.pinv(root[:, None] * rows) @ (root * y)
    torch.testing.assert_close(found.score, wanted, rtol=1e-9, atol=1e-9)
    residual = (w * (y - rows @ wanted) ** 2).sum() / (w * y**2).sum()
    assert found.inconsistency == pytest.approx(float(residual), abs=1e-12)


def _projections(i, j, y, w, items):
    """Energies by dense projections onto differences, and onto sums around triangles."""
    pairs = sorted({(min(a, b), max(a, b)) for a, b in zip(i.tolist(), j.tolist(), strict=True)})
    flow, strength = np.zeros(len(pairs)), np.zeros(len(pairs))
    for a, b, value, weight in zip(*(each.tolist() for each in (i, j, y, w)), strict=True):
        place = pairs.index((min(a, b), max(a, b)))
        flow[place] += weight * (value if a < b else -value)
        strength[place] += weight
    flow /= strength
    root = np.sqrt(strength)
    gradients = np.zeros((len(pairs), items))
    for place, (a, b) in enumerate(pairs):
        gradients[place, a], gradients[place, b] = 1, -1
    around = []
    for a, b, c in itertools.combinations(range(items), 3):
        if {(a, b), (b, c), (a, c)} <= set(pairs):
            each = np.zeros(len(pairs))
            each[pairs.index((a, b))], each[pairs.index((b, c))], each[pairs.index((a, c))] = 1, 1, -1
            around.append(each / strength)
    gradient = np.linalg.pinv(root[:, None] * gradients) @ (root * flow)
    rest = flow - gradients @ gradient
    curls = np.array(around).reshape(-1, len(pairs)).T
    curl = curls @ (np.linalg.pinv(root[:, None] * curls) @ (root * rest)) if around else 0 * rest
    parts = (gradients @ gradient, curl, rest - curl)
    return flow, parts, [float(strength @ part**2) for part in parts]


@pytest.mark.parametrize("rows", [9, 14, 40])
@pytest.mark.parametrize("seed", range(5))
def test_the_parts_are_projections_whose_energies_add_up(rows, seed):
    i, j, y, w = _drawn(seed, rows=rows)
    found = hodge_decomposition(i, j, y, w, num_items=7)
    flow, parts, energies = _projections(i, j, y, w, 7)
    np.testing.assert_allclose(found.flow.numpy(), flow, atol=1e-9)
    for ours, theirs in zip((found.gradient, found.curl, found.harmonic), parts, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-7)
    assert [found.energy[name] for name in ("gradient", "curl", "harmonic")] == pytest.approx(energies, abs=1e-7)
    assert found.energy["total"] == pytest.approx(sum(found.energy.values()) - found.energy["total"])
    whole = hodge_rank(i, j, y, w, num_items=7)
    torch.testing.assert_close(found.score, whole.score, rtol=1e-9, atol=1e-9)
    assert whole.inconsistency == pytest.approx(1 - found.energy["gradient"] / found.energy["total"])


def test_a_square_without_diagonals_is_harmonic_and_disagreement_is_neither():
    square = hodge_decomposition(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0]), torch.ones(4))
    assert square.energy["harmonic"] == pytest.approx(4)
    assert square.energy["curl"] == 0
    torn = hodge_decomposition(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.ones(2))
    assert torn.energy["disagreement"] == torn.energy["total"] == 2


def test_an_answer_of_weight_0_is_none_and_ties_alone_are_consistent():
    i, j, y, w = _drawn(1)
    found = hodge_rank(torch.cat([i, i]), torch.cat([j, j]), torch.cat([y, 9 - y]), torch.cat([w, 0 * w]))
    torch.testing.assert_close(found.score, hodge_rank(i, j, y, w).score)
    linked = hodge_rank(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.ones(2), torch.tensor([1.0, 0.0]))
    assert linked.component.tolist() == [0, 0, 1]
    ties = hodge_rank(torch.tensor([0]), torch.tensor([1]), torch.zeros(1))
    assert (ties.score.tolist(), ties.inconsistency) == ([0.0, 0.0], 0.0)


def test_the_ranker_of_counts_is_hodge_rank_of_the_answers():
    generator = np.random.default_rng(5)
    i = generator.integers(0, 6, 50)
    j = (i + generator.integers(1, 6, 50)) % 6
    y, w = generator.integers(-1, 2, 50), generator.random(50) + 0.5
    ranker = ConsensusRanker("hodge").fit(Comparisons.from_columns(None, i, j, y, w))
    found = hodge_rank(*(torch.tensor(each) for each in (i, j, y.astype(float), w)))
    torch.testing.assert_close(ranker.scores_, found.score)
    assert ranker.inconsistency_ == pytest.approx(found.inconsistency)
    with pytest.raises(ValueError, match="no probabilities"):
        ranker.probability(torch.tensor([0]), torch.tensor([1]))


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_by_name():
    i, j, y = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2]), torch.ones(3)
    with pytest.raises(ValueError, match="weight is 0 for every answer"):
        hodge_rank(i, j, y, 0 * y)
    with pytest.raises(ValueError, match="weight must be at least 0"):
        hodge_rank(i, j, y, -y)
    with pytest.raises(ValueError, match="y holds 1 NaN"):
        hodge_rank(i, j, torch.tensor([1.0, math.nan, 0.0]))
    with pytest.raises(ValueError, match="item_i and item_j are both 1"):
        hodge_rank(i, torch.tensor([1, 1, 2]), y)
    every = torch.combinations(torch.arange(4)).T
    with pytest.raises(ValueError, match="max_triangles=1 are exceeded"):
        hodge_decomposition(*every, torch.ones(6), max_triangles=1)
