"""Folding for the logistic surrogate: as good as looking at every pair, wherever the scores lie."""

from __future__ import annotations

import pytest
import torch

from equipoise.core.pairs.chebyshev import fold, folded_means
from equipoise.core.pairs.kernels import _tiles
from equipoise.core.pairs.surrogates import logistic

WANT = ("value", "slope", "curvature")


def _sides(positives, negatives, spread, offset=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(positives + negatives)
    pos = torch.randn(positives, generator=generator, dtype=torch.float64) * spread + 1 + offset
    neg = torch.randn(negatives, generator=generator, dtype=torch.float64) * spread + offset
    w, v = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (positives, negatives))
    return pos.to(dtype), neg.to(dtype), w / w.sum(), v / v.sum()


@pytest.mark.parametrize(("positives", "negatives"), [(1500, 2000), (30, 3000), (2500, 1)])
@pytest.mark.parametrize(("spread", "margin"), [(1.0, 1.0), (6.0, 1.0), (2.0, 0.2), (0.5, 9.0), (0.0, 1.0)])
def test_folded_means_are_those_of_all_pairs_to_rounding(positives, negatives, spread, margin):
    sides = _sides(positives, negatives, spread)
    folded = folded_means(_tiles, *sides, logistic, margin, WANT)
    every = _tiles(*sides, logistic, margin, WANT)
    torch.testing.assert_close(folded.value, every.value, rtol=1e-12, atol=0)
    for mine, wanted in ((folded.u, every.u), (folded.a, every.a)):
        for name in WANT:
            # Relative, though some values are tiny: what is far from all others is as exact as what is in the midst.
            torch.testing.assert_close(mine.means[name], wanted.means[name], rtol=1e-10, atol=0)


def test_few_nodes_stand_for_many_samples():
    folding = fold(torch.randn(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1.0)
    assert folding is not None
    assert len(folding.nodes) < 200


def test_gathered_weights_keep_sum_and_mean_and_spread_is_exact_for_polynomials():
    scores = torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.rand(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    folding = fold(scores, 1.0)
    gathered = folding.gather(weight)
    torch.testing.assert_close(gathered.sum(), weight.sum())
    torch.testing.assert_close((gathered * folding.nodes).sum(), (weight * scores).sum())
    torch.testing.assert_close(folding.spread({"fifth": folding.nodes**5})["fifth"], scores**5)


def test_a_far_outlier_and_a_large_offset_cost_nothing():
    pos, neg, w, v = _sides(1000, 1500, 1.0, offset=1e3)
    pos[0], neg[0] = 9e3, -9e3
    assert fold(neg, 1.0) is not None
    folded = folded_means(_tiles, pos, neg, w, v, logistic, 1.0, WANT)
    every = _tiles(pos, neg, w, v, logistic, 1.0, WANT)
    torch.testing.assert_close(folded.value, every.value, rtol=1e-11, atol=0)
    torch.testing.assert_close(folded.u.means["slope"], every.u.means["slope"], rtol=1e-9, atol=0)


def test_scattered_or_few_or_enormous_scores_are_left_alone():
    assert fold(torch.arange(1000.0) * 10, 1.0) is None
    assert fold(torch.zeros(20), 1.0) is None
    assert fold(torch.linspace(0, 1e30, 1000), 1.0) is None


def test_an_offset_of_ten_million_costs_no_digits():
    pos, neg, w, v = _sides(800, 900, 2.0, offset=1e7)
    folded = folded_means(_tiles, pos, neg, w, v, logistic, 1.0, WANT)
    torch.testing.assert_close(folded.value, _tiles(pos, neg, w, v, logistic, 1.0, WANT).value, rtol=1e-14, atol=0)


def test_float32_scores_lose_nothing_by_it():
    pos, neg, w, v = _sides(1200, 900, 3.0, dtype=torch.float32)
    folded = folded_means(_tiles, pos, neg, w, v, logistic, 1.0, WANT)
    every = _tiles(pos.double(), neg.double(), w, v, logistic, 1.0, WANT)
    torch.testing.assert_close(folded.u.means["slope"], every.u.means["slope"], rtol=1e-10, atol=0)
