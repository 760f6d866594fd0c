import math

import numpy as np
import pytest
import torch

from equipoise.multimodal import (
    association_scores,
    cross_modal_retrieval_map,
    gallery_matching_accuracy,
    verification_auc,
)
from equipoise.multimodal.association import intervals, pairs


def _problem(identities=12, samples=2, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    identity = torch.arange(identities).repeat_interleave(samples)
    own = torch.randn(identities, 4, generator=generator)[identity]
    sides = [own + noise * torch.randn(own.shape, generator=generator) for _ in range(2)]
    return *sides, identity, identity.clone()


def test_estimates_are_those_of_the_metrics():
    problem = _problem()
    groups = problem[2] % 2, problem[3] % 2
    for grouped in ((), groups):
        found = association_scores(*problem, *grouped, n_way=(2, 5, 50), resamples=20)
        matching = gallery_matching_accuracy(*problem, *grouped, n_way=(2, 5))
        assert found.matching[2].estimate == pytest.approx(float(matching["1:2"]))
        assert found.matching[5].estimate == pytest.approx(float(matching["1:5"]))
        assert math.isnan(found.matching[50].estimate)
        assert found.auc.estimate == pytest.approx(float(verification_auc(*problem, *grouped)))
        assert found.retrieval.estimate == pytest.approx(float(cross_modal_retrieval_map(*problem, *grouped)))
        for each in (found.matching[2], found.auc, found.retrieval):
            assert each.low <= each.estimate <= each.high
            assert each.low < each.high
    assert (found.queries, found.identities, found.pairs) == (24, 12, 48)
    assert found.prevalence == pytest.approx(2 / 12)


def test_a_replicate_is_the_sample_in_which_identities_are_repeated():
    """Against data that was really drawn again."""
    problem = _problem(6)
    counts = np.array([[2, 0, 1, 3, 0, 1], [1, 1, 1, 1, 1, 1]]).T
    both = pairs.sides(*problem)
    drawn = torch.from_numpy(counts).double()
    found = intervals._of_counts(both, drawn, [2, 3], "fractional")
    areas, _ = intervals._of_areas(both, pairs.positive_pairs(both), drawn, np.random.default_rng(0))
    whole = gallery_matching_accuracy(*problem, n_way=(2, 3))
    assert float(found[3][1]) == pytest.approx(float(whole["1:3"]))
    assert float(areas[1]) == pytest.approx(float(verification_auc(*problem)))
    assert float(found["retrieval"][1]) == pytest.approx(float(cross_modal_retrieval_map(*problem)))
    # Each identity by itself: its own samples once, and the others as often as they were drawn.
    face, voice, identity, _ = problem
    sums = {"1:2": 0.0, "mAP": 0.0, "lower": 0.0, "pairs": 0.0}
    negative = []
    for k in range(6):
        others = torch.cat([torch.arange(12)[identity == j].repeat(counts[j, 0]) for j in range(6) if j != k])
        items = torch.cat([torch.arange(12)[identity == k], others])
        side = face[identity == k], voice[items], identity[identity == k], identity[items]
        sums["1:2"] += counts[k, 0] * float(gallery_matching_accuracy(*side)["1:2"]) / 7
        sums["mAP"] += counts[k, 0] * float(cross_modal_retrieval_map(*side)) / 7
        cosine = torch.nn.functional.cosine_similarity(side[0][:, None], voice[others], dim=-1).flatten()
        negative.append(cosine.repeat(counts[k, 0]))
    everything = torch.cat(negative)
    for k in range(6):
        own = torch.nn.functional.cosine_similarity(face[identity == k][:, None], voice[identity == k], dim=-1)
        sums["lower"] += counts[k, 0] * float((everything < own.flatten()[:, None]).sum())
        sums["pairs"] += counts[k, 0] * 4 * len(everything)
    assert float(found[2][0]) == pytest.approx(sums["1:2"])
    assert float(found["retrieval"][0]) == pytest.approx(sums["mAP"])
    assert float(areas[0]) == pytest.approx(sums["lower"] / sums["pairs"])


def test_a_part_of_the_negatives_and_of_the_queries_at_a_time_changes_little(monkeypatch):
    problem = _problem(60)
    whole = association_scores(*problem, resamples=100)
    monkeypatch.setattr(intervals, "_TABLE", 500)
    monkeypatch.setattr(pairs, "_TABLE", 1000)
    parts = association_scores(*problem, resamples=100)
    assert (parts.matching[2].low, parts.retrieval.high) == pytest.approx((whole.matching[2].low, whole.retrieval.high))
    monkeypatch.setattr(intervals, "_PAIRS", 4000)
    fewer = association_scores(*problem, resamples=100)
    assert fewer.auc.estimate == whole.auc.estimate
    assert abs(fewer.auc.low - whole.auc.low) < 0.02
    assert abs(fewer.auc.high - whole.auc.high) < 0.02


def test_intervals_cover_what_a_large_sample_says():
    """Forty identities at a time, of a population of 2,000: nine in ten intervals of 95 % or more."""
    population = gallery_matching_accuracy(*_problem(1000, 1, 2.0, 99))["1:2"]
    hits = 0
    for seed in range(40):
        found = association_scores(*_problem(40, 1, 2.0, seed), resamples=100).matching[2]
        hits += found.low <= float(population) <= found.high
    assert hits >= 34


def test_without_replicates_there_are_estimates_alone():
    found = association_scores(*_problem(), resamples=0)
    assert math.isnan(found.auc.low)
    assert found.auc.estimate > 0.5


def test_a_seed_repeats_the_interval():
    one, two, other = (association_scores(*_problem(), resamples=30, seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one.retrieval != other.retrieval
