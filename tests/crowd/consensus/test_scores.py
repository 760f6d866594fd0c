"""HodgeRank, Bradley–Terry, Thurstone–Mosteller and Elo against definitions and other optimizers."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_ndtr

from equipoise.crowd import bradley_terry_mle, elo_ratings, separated_groups, thurstone_mle
from equipoise.crowd.laplacian import EdgeGraph
from equipoise.data import Comparisons, PairCounts

LINKS = {
    "logistic": (bradley_terry_mle, lambda gap: -np.logaddexp(0, -gap)),
    "normal": (thurstone_mle, log_ndtr),
}


def _drawn(seed, items=6, rows=40, ties=True):
    generator = np.random.default_rng(seed)
    i = generator.integers(0, items, rows)
    j = (i + generator.integers(1, items, rows)) % items
    y = generator.integers(-1, 2, rows) if ties else generator.choice([-1, 1], rows)
    return [torch.tensor(each) for each in (i, j, y, generator.random(rows) + 0.5)]


def _objective(s, i, j, y, w, ridge, log_chance):
    i, j, y, w = (each.numpy() for each in (i, j, y, w))
    gap = s[i] - s[j]
    share = (y + 1) / 2
    return -(w * (share * log_chance(gap) + (1 - share) * log_chance(-gap))).sum() + ridge / 2 * s @ s


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_the_scores_are_the_minimum(link, ridge, seed):
    columns = _drawn(seed)
    function, log_chance = LINKS[link]
    found = function(*columns, ridge=ridge)
    s = found.score.numpy()
    objective = lambda at: _objective(at, *columns, ridge, log_chance)  # noqa: E731
    assert found.objective == pytest.approx(objective(s))
    other = minimize(objective, np.zeros(6), method="BFGS", options={"gtol": 1e-7})
    assert objective(s) <= other.fun + 1e-9
    np.testing.assert_allclose(s, other.x - other.x.mean(), atol=2e-4)
    assert abs(s.mean()) < 1e-12


@pytest.mark.parametrize("link", LINKS)
def test_two_items_have_the_closed_form(link):
    i, j = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    score = LINKS[link][0](i, j, torch.tensor([1, 1, 1, 0])).score
    wanted = math.log(7) if link == "logistic" else 1.1503493803760079
    assert float(score[0] - score[1]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("link", LINKS)
def test_weights_ties_sides_and_order_count_as_they_should(link):
    function = LINKS[link][0]
    i, j, y, w = _drawn(7)
    base = function(i, j, y, w).score
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(function(i[order], j[order], y[order], w[order]).score, base)
    torch.testing.assert_close(function(j, i, -y, w).score, base)
    torch.testing.assert_close(function(i, j, -y, w).score, -base)
    halves = torch.cat([torch.where(y == 0, 1, y), torch.where(y == 0, -1, y)])
    torch.testing.assert_close(function(i.repeat(2), j.repeat(2), halves, (w / 2).repeat(2)).score, base)
    relabelled = torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(function(relabelled[i], relabelled[j], y, w).score[relabelled], base)


@pytest.mark.parametrize("link", LINKS)
def test_components_are_centred_apart_and_an_item_without_comparisons_is_at_0(link):
    function = LINKS[link][0]
    i, j, y, w = _drawn(1, items=4)
    both = function(torch.cat([i, i + 5]), torch.cat([j, j + 5]), y.repeat(2), w.repeat(2), num_items=9)
    alone = function(i, j, y, w)
    torch.testing.assert_close(both.score[:4], alone.score)
    torch.testing.assert_close(both.score[5:], alone.score)
    assert both.score[4] == 0
    assert both.component.tolist() == [0] * 4 + [2] + [1] * 4


@pytest.mark.parametrize("link", LINKS)
def test_without_a_ridge_items_that_never_lost_or_never_won_are_named(link):
    function = LINKS[link][0]
    i, j = torch.tensor([0, 1, 2, 1, 2]), torch.tensor([1, 2, 1, 3, 3])
    y = torch.ones(5, dtype=torch.long)
    with pytest.raises(ValueError, match=r"ridge=0 .* item 0 never lost to the rest, item 3 never won"):
        function(i, j, y)
    scores = function(i, j, y, ridge=1e-6).score
    assert scores[0] > scores[1] > scores[3]
    groups = separated_groups(PairCounts.of(Comparisons.from_columns(None, [0, 1, 2, 3], [1, 0, 3, 2], [1, 1, 1, 1])))
    assert groups == ((), ())
    two = separated_groups(PairCounts.of(Comparisons.from_columns(None, [0, 1, 2, 3, 0], [1, 0, 3, 2, 2], [1] * 5)))
    assert two == (((0, 1),), ((2, 3),))
    tied = separated_groups(PairCounts.of(Comparisons.from_columns(None, [0], [1], [0])))
    assert tied == ((), ())


def test_extreme_and_huge_counts_are_solved():
    i, j = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 2, 2])
    y, w = torch.tensor([1, -1, 1, -1]), torch.tensor([1e9, 1.0, 1e9, 1e-3], dtype=torch.float64)
    score = bradley_terry_mle(i, j, y, w).score
    torch.testing.assert_close(score[0] - score[1], torch.tensor(math.log(1e9), dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        score[1] - score[2], torch.tensor(math.log(1e12), dtype=torch.float64), rtol=1e-6, atol=0
    )
    normal = thurstone_mle(i, j, y, w).score
    assert normal.isfinite().all()


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("shape", ["random", "chain"])
def test_sparse_and_dense_solutions_agree(ridge, shape, monkeypatch):
    generator = np.random.default_rng(0)
    size = 3000
    if shape == "chain":
        one, other = np.arange(size - 2), np.arange(1, size - 1)
    else:
        one = generator.integers(0, size, 9000)
        other = (one + generator.integers(1, size, 9000)) % size
    graph = EdgeGraph(one, other, size)
    weight = generator.random(len(one)) + 0.1
    right = graph.centred(generator.normal(size=size))
    found = graph.solve(weight, right, ridge)
    residual = graph.gathered(weight * graph.difference(found)) + ridge * found - right
    assert np.abs(residual).max() < 1e-8
    monkeypatch.setattr("equipoise.crowd.laplacian._DENSE", 5000)
    np.testing.assert_allclose(found, graph.solve(weight, right, ridge), atol=1e-6 * np.abs(found).max())


def _plain_elo(rows, items, k):
    ratings = [1000.0] * items
    for i, j, y, w in rows:
        expected = 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400))
        change = k * w * ((y + 1) / 2 - expected)
        ratings[i], ratings[j] = ratings[i] + change, ratings[j] - change
    return ratings


def test_elo_is_a_loop_in_the_given_order_and_keeps_the_sum():
    columns = _drawn(3)
    rows = list(zip(*(each.tolist() for each in columns), strict=True))
    found = elo_ratings(*columns, k=20.0)
    torch.testing.assert_close(found, torch.tensor(_plain_elo(rows, 6, 20.0), dtype=torch.float64))
    assert float(found.sum()) == pytest.approx(6000)
    backwards = elo_ratings(*(each.flip(0) for each in columns), k=20.0)
    assert not torch.allclose(found, backwards)
    assert elo_ratings(*columns, k=1e6).isfinite().all()


@pytest.mark.parametrize("function", [bradley_terry_mle, thurstone_mle, elo_ratings])
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_by_name(function):
    good = {"item_i": torch.tensor([0, 1]), "item_j": torch.tensor([1, 0]), "y": torch.tensor([1, 1])}
    for change, message in (
        ({"y": torch.tensor([2, 1])}, "y holds the value 2, wanted 1 .left. or 0 .a tie. or -1 .right."),
        ({"item_j": torch.tensor([1, 1])}, "item_i and item_j are both 1 in row 1"),
        ({"item_i": torch.tensor([-1, 1])}, "item_i holds -1"),
        ({"num_items": 1}, "item_i holds 1, wanted 0 to 0"),
        ({"weight": torch.tensor([1.0, 0.0])}, "weight"),
        ({"weight": torch.tensor([1.0, math.nan])}, "weight"),
        ({"y": torch.tensor([1])}, "y must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            function(**{**good, **change})


def test_evalica_finds_the_same_scores():
    evalica = pytest.importorskip("evalica")
    i, j, y, _ = _drawn(11, items=8, rows=400)
    winners = {1: evalica.Winner.X, -1: evalica.Winner.Y, 0: evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        i.tolist(), j.tolist(), [winners[each] for each in y.tolist()], tie_weight=0.5, tolerance=1e-12, limit=10_000
    )
    logs = np.log(theirs.scores.sort_index().to_numpy())
    np.testing.assert_allclose(bradley_terry_mle(i, j, y).score.numpy(), logs - logs.mean(), atol=1e-6)
    elo = evalica.elo(
        i.tolist(), j.tolist(), [winners[each] for each in y.tolist()], initial=1000.0, base=10.0, scale=400.0, k=32.0
    )
    np.testing.assert_allclose(elo_ratings(i, j, y).numpy(), elo.scores.sort_index().to_numpy(), atol=1e-8)
