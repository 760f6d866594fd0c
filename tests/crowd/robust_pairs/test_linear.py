"""Robust linear scorers: the minimum itself, what outliers cost, and what is saved."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from equipoise.crowd import ComparisonGraph, RobustLinearRanker, outlier_gamma, robust_linear_ranker


def _drawn(seed, n=15, edges=80, d=4, flip=0.25):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d))
    i = generator.integers(0, n, edges)
    j = (i + generator.integers(1, n, edges)) % n
    gap = (x[i] - x[j]) @ generator.normal(size=d)
    y = np.where(generator.random(edges) < flip, -1, 1) * np.where(gap > 0, 1, -1)
    return [torch.tensor(each) for each in (x, i, j, y, generator.random(edges) + 0.5)]


def _objective(v, x, i, j, y, w, lambda1, lambda2, model):
    scores = x @ v
    loss = outlier_gamma(scores[i] - scores[j], y, lambda1, model).profile
    return float((w * loss).sum() + lambda2 * v.square().sum())


@pytest.mark.parametrize("model", ["squared", "logistic"])
@pytest.mark.parametrize("lambda1", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("lambda2", [1e-8, 0.1])
@pytest.mark.parametrize("free", [False, True])
def test_no_other_optimizer_gets_lower(model, lambda1, lambda2, free):
    x, i, j, y, w = _drawn(int(100 * lambda1))
    found = robust_linear_ranker(
        None if free else x, i, j, y, w, lambda1=lambda1, lambda2=lambda2, model=model, num_items=len(x)
    )
    x = torch.eye(len(x), dtype=torch.float64) if free else x
    settings = (x, i, j, y, w, lambda1, lambda2, model)
    assert found.objective == pytest.approx(_objective(found.weight, *settings))
    # With the curvature of answers beyond the turning point it would be a slow method of majorisation.
    assert found.steps <= 150
    other = minimize(lambda v: _objective(torch.tensor(v), *settings), found.weight.numpy(), method="L-BFGS-B")
    assert other.fun >= found.objective - 1e-9
    leaf = found.weight.clone().requires_grad_()
    scores = x @ leaf
    loss = (w * outlier_gamma(scores[i] - scores[j], y, lambda1, model).profile).sum() + lambda2 * leaf.square().sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.abs().max() < 1e-7


def test_it_is_where_the_alternation_of_exact_steps_ends():
    x, i, j, y, w = _drawn(1)
    lambda1, lambda2 = 0.6, 0.2
    difference, gamma = x[i] - x[j], torch.zeros(len(y), dtype=torch.float64)
    for _ in range(2000):
        matrix = difference.T @ (w[:, None] * difference) + 2 * lambda2 * torch.eye(4, dtype=torch.float64)
        v = torch.linalg.solve(matrix, difference.T @ (w * (y - gamma)))
        gamma = outlier_gamma(difference @ v, y, lambda1, "squared").gamma
    found = robust_linear_ranker(x, i, j, y, w, lambda1=lambda1, lambda2=lambda2, model="squared")
    torch.testing.assert_close(found.weight, v, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.gamma, gamma, rtol=1e-8, atol=1e-8)


def test_a_strength_of_two_is_an_answer_given_twice_and_free_scores_add_up_to_0():
    _, i, j, y, _ = _drawn(2)
    times = torch.arange(len(y)) % 3 + 1
    weighed = robust_linear_ranker(None, i, j, y, times.double(), lambda1=0.3)
    given = robust_linear_ranker(None, *(each.repeat_interleave(times) for each in (i, j, y)), lambda1=0.3)
    torch.testing.assert_close(weighed.weight, given.weight, rtol=1e-8, atol=1e-9)
    assert abs(float(weighed.weight.sum())) < 1e-8


def test_a_robust_scorer_ranks_better_than_a_plain_one_and_finds_the_reversed_answers():
    errors = {0.2: 0.0, 0.999: 0.0}
    for seed in range(6):
        x, i, j, y, _ = _drawn(seed, n=60, edges=1500, flip=0.0)
        wrong = torch.rand(len(y), generator=torch.Generator().manual_seed(0)) < 0.3
        for lambda1 in errors:
            found = robust_linear_ranker(x, i, j, torch.where(wrong, -y, y), lambda1=lambda1)
            scores = x @ found.weight
            errors[lambda1] += float(((scores[i] - scores[j]).sign() != y).double().mean())
            if lambda1 == 0.2:
                assert float(found.is_outlier[wrong].double().mean()) > 0.9
    assert errors[0.2] < errors[0.999]


def test_an_estimator_fits_attributes_apart_and_is_kept_in_a_file(tmp_path):
    x, i, j, y, w = _drawn(4)
    attribute = torch.arange(len(y)) % 2
    graph = ComparisonGraph.from_edges(i, j, y, w, attribute, num_items=len(x))
    ranker = RobustLinearRanker(0.4, 0.1).fit(graph, x)
    for number in range(2):
        rows = attribute == number
        alone = robust_linear_ranker(x, i[rows], j[rows], y[rows], w[rows], lambda1=0.4, lambda2=0.1)
        torch.testing.assert_close(ranker.coef_[number], alone.weight, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(ranker.scores_[:, number], x @ alone.weight, rtol=1e-7, atol=1e-9)
    flags = ranker.outliers_.answers()
    scores = ranker.predict(x)
    difference = scores[i, attribute] - scores[j, attribute]
    assert flags.tolist() == outlier_gamma(difference, y, 0.4).is_outlier.tolist()
    compared = ranker.compare(x, i, j)
    assert compared.tolist() == (scores[i] - scores[j]).sign().long().tolist()
    ranker.save(tmp_path / "ranker.json")
    again = RobustLinearRanker.load(tmp_path / "ranker.json")
    assert again.get_params() == ranker.get_params()
    assert again.predict(x).equal(scores)
    (tmp_path / "other.json").write_text(json.dumps({"kind": "none"}))
    with pytest.raises(ValueError, match="does not hold a robust linear ranker"):
        RobustLinearRanker.load(tmp_path / "other.json")


def test_an_attribute_without_edges_has_scores_of_0():
    graph = ComparisonGraph.from_edges(*(torch.tensor(each) for each in ([0], [1], [1])), attribute=torch.tensor([1]))
    with pytest.warns(UserWarning, match="attribute 0 has no edges"):
        ranker = RobustLinearRanker().fit(graph)
    assert ranker.scores_[:, 0].tolist() == [0.0, 0.0]
    assert ranker.scores_[0, 1] > ranker.scores_[1, 1]


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_by_name():
    x, i, j, y, _ = _drawn(5)
    graph = ComparisonGraph.from_edges(i, j, y)
    with pytest.raises(ValueError, match="item_i holds"):
        robust_linear_ranker(x[:3], i, j, y)
    with pytest.raises(ValueError, match="features have 3 rows"):
        RobustLinearRanker().fit(graph, x[:3])
    with pytest.raises(ValueError, match="lambda1"):
        RobustLinearRanker(lambda1=-1.0)
    with pytest.raises(RuntimeError, match="not fitted"):
        RobustLinearRanker().predict(x)
    with pytest.raises(ValueError, match="fitted without"):
        RobustLinearRanker().fit(graph).predict(x)
    with pytest.raises(ValueError, match="must have 4 columns"):
        RobustLinearRanker().fit(graph, x).predict(x[:, :2])
