"""The largest cluster of an identity: DBSCAN's, at a threshold that keeps a wanted share."""

import itertools
import math

import numpy as np
import pytest
import torch

from equipoise.generative import auto_threshold_cluster, greedy_cluster, largest_consistent_cluster
from equipoise.generative.curation.clusters import _Clusters

DBSCAN = pytest.importorskip("sklearn.cluster").DBSCAN


def _identity(seed, n=30, d=8, wrong=0.3, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1, d, generator=generator, dtype=torch.float64).repeat(n, 1)
    rows[: int(wrong * n)] = torch.randn(int(wrong * n), d, generator=generator, dtype=torch.float64)
    rows = rows + spread * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return rows[torch.randperm(n, generator=generator)]


def _by_dbscan(rows, threshold, min_samples=2):
    labels = DBSCAN(eps=1 - threshold, min_samples=min_samples, metric="cosine").fit(rows.numpy()).labels_
    members = [np.flatnonzero(labels == k).tolist() for k in range(labels.max() + 1)]
    return min(members, key=lambda part: (-len(part), part[0]), default=[])


@pytest.mark.parametrize("min_samples", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.6, 0.8, 0.95])
def test_it_is_the_largest_cluster_of_dbscan(threshold, min_samples):
    for seed in range(6):
        rows = _identity(seed)
        found = largest_consistent_cluster(rows, threshold, min_samples)
        assert found.tolist() == _by_dbscan(rows, threshold, min_samples)


def test_of_equal_clusters_the_one_of_the_first_sample_is_kept():
    rows = torch.eye(3)[[2, 1, 0, 1, 2, 0]]
    assert largest_consistent_cluster(rows, 0.9).tolist() == [0, 4]
    assert largest_consistent_cluster(rows, 0.9, min_samples=1).tolist() == [0, 4]


def test_noise_only_keeps_nothing_one_sample_stays_and_none_is_none():
    assert largest_consistent_cluster(torch.eye(4), 0.9).tolist() == []
    assert largest_consistent_cluster(torch.eye(4)[:1], 0.9).tolist() == [0]
    assert largest_consistent_cluster(torch.zeros(0, 4), 0.9).tolist() == []
    for mode in ("grid", "exact"):
        found = auto_threshold_cluster(torch.zeros(0, 4), mode=mode)
        assert found.indices.tolist() == []
        assert found.trace == ()
        assert math.isnan(found.threshold)
        assert auto_threshold_cluster(torch.eye(4)[:1], mode=mode).indices.tolist() == [0]


def test_lengths_of_rows_and_half_precision_do_not_matter():
    rows = _identity(0)
    wanted = largest_consistent_cluster(rows, 0.6).tolist()
    lengths = torch.linspace(0.01, 100, len(rows), dtype=torch.float64)[:, None]
    assert largest_consistent_cluster(rows * lengths, 0.6).tolist() == wanted
    assert largest_consistent_cluster(rows.half(), 0.6).tolist() == wanted


def test_the_order_of_samples_does_not_matter():
    rows = _identity(1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    wanted = largest_consistent_cluster(rows, 0.6).tolist()
    assert sorted(order[largest_consistent_cluster(rows[order], 0.6)].tolist()) == wanted


def _rule(rows, theta=0.6, low=0.5, high=0.8, step=0.02, turns=10, bounds=(0.3, 0.9), min_samples=2):
    """The rule word for word."""
    best, seen, trace = None, [], []
    for _ in range(turns):
        if round(theta, 10) in seen:
            break
        seen.append(round(theta, 10))
        kept = _by_dbscan(rows, theta, min_samples)
        share = len(kept) / len(rows)
        gap = max(low - share, share - high, 0)
        trace.append((round(theta, 10), len(kept)))
        if best is None or (gap, -len(kept)) < best[0]:
            best = (gap, -len(kept)), kept
        if gap == 0:
            break
        theta = round(min(max(theta - step if share < low else theta + step, bounds[0]), bounds[1]), 10)
    return best[1], tuple(trace)


@pytest.mark.parametrize(
    ("spread", "settings"),
    [
        (0.05, {}),
        (0.4, {}),
        (0.8, {}),
        (3.0, {}),
        (0.4, {"min_samples": 3}),
        (0.6, {"theta": 0.88, "step": 0.013, "turns": 40}),
        (0.9, {"theta": 0.35, "step": 0.07, "bounds": (0.31, 0.5)}),
        (0.2, {"low": 0.7, "high": 0.7, "turns": 30}),
        (0.2, {"turns": 1}),
        (2.0, {"theta": 0.95, "step": 0.3}),
    ],
)
def test_the_grid_is_the_rule_word_for_word(spread, settings):
    names = {"theta": "initial_threshold", "low": "min_fraction", "high": "max_fraction", "turns": "max_iter"}
    for seed in range(5):
        rows = _identity(seed, n=24, spread=spread)
        found = auto_threshold_cluster(rows, **{names.get(key, key): value for key, value in settings.items()})
        kept, trace = _rule(rows, **settings)
        assert found.indices.tolist() == kept
        assert found.trace == pytest.approx(trace) if len(trace) == 0 else list(map(tuple, found.trace)) == list(trace)


def test_noise_lowers_the_threshold_and_a_cluster_of_all_raises_it():
    wide = auto_threshold_cluster(torch.eye(6) + 0.5, initial_threshold=0.9, max_iter=3)
    assert [threshold for threshold, _ in wide.trace] == [0.9, 0.88, 0.86]
    narrow = auto_threshold_cluster(torch.ones(6, 3), max_iter=3)
    assert narrow.trace == ((0.6, 6), (0.62, 6), (0.64, 6))
    assert narrow.threshold == 0.6


def test_a_repeated_threshold_ends_the_search():
    # .5 keeps all, .6 keeps too few: to and fro.
    rows = torch.tensor([[1.0, 0.0], [0.55, math.sqrt(1 - 0.55**2)]])
    found = auto_threshold_cluster(rows, 0.5, 0.6, 0.7, step=0.1)
    assert found.trace == ((0.5, 2), (0.6, 0))
    assert found.indices.tolist() == [0, 1]


def _all_clusters(rows, bounds):
    unit = rows / rows.norm(dim=1, keepdim=True)
    pairs = [float(unit[i] @ unit[j]) for i, j in itertools.combinations(range(len(rows)), 2)]
    thresholds = [bounds[1], *(c - 1e-12 for c in pairs if bounds[0] < c < bounds[1]), bounds[0]]
    return [_by_dbscan(rows, threshold) for threshold in thresholds]


@pytest.mark.parametrize("spread", [0.1, 0.4, 0.8, 1.5])
def test_exact_is_the_best_of_all_attainable_clusters(spread):
    for seed in range(5):
        rows = _identity(seed, n=15, spread=spread)
        found = auto_threshold_cluster(rows, mode="exact")

        def badness(kept):
            share = len(kept) / 15
            return max(0.5 - share, share - 0.8, 0.0), -len(kept)

        assert badness(found.indices) == min(map(badness, _all_clusters(rows, (0.3, 0.9))))
        assert found.indices.tolist() == largest_consistent_cluster(rows, found.threshold).tolist()
        grid = auto_threshold_cluster(rows)
        assert badness(found.indices)[0] <= badness(grid.indices)[0] or not 0.3 <= grid.threshold <= 0.9


def test_exact_merges_at_the_threshold_itself():
    for seed in range(40):
        rows = _identity(seed, n=9, spread=0.8)
        for threshold, size in auto_threshold_cluster(rows, mode="exact").trace:
            assert len(largest_consistent_cluster(rows, threshold)) == size


def test_the_greedy_group_by_hand_and_its_dependence_on_order():
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.28, 0.96]])  # neighbours have the cosine .8
    assert largest_consistent_cluster(rows, 0.7).tolist() == [0, 1, 2]
    assert greedy_cluster(rows, 0.7).tolist() == [0, 1]
    assert greedy_cluster(rows[[1, 0, 2]], 0.7).tolist() == [0, 1, 2]
    assert greedy_cluster(rows[:0], 0.7).tolist() == []
    assert greedy_cluster(torch.eye(3), 0.7).tolist() == [0]


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"initial_threshold": 1.0}, "initial_threshold=1.0 must lie in"),
        ({"min_fraction": 0.9}, "min_fraction=0.9 is above max_fraction=0.8"),
        ({"step": 0.0}, "step=0.0 must be"),
        ({"bounds": (0.9, 0.3)}, "bounds=.* must be two numbers"),
        ({"bounds": (0.3, 1.2)}, "bounds=.* must be two numbers"),
        ({"bounds": (0.3,)}, "bounds"),
        ({"mode": "exact", "min_samples": 3}, "min_samples=3 has no exact mode"),
        ({"max_iter": 0}, "max_iter=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        auto_threshold_cluster(_identity(0), **settings)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("function", [largest_consistent_cluster, auto_threshold_cluster, greedy_cluster])
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.ones(4), "embeddings must have shape"),
        (torch.tensor([[1.0, torch.nan]]), "embeddings holds 1 NaN"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "row 1 of embeddings has norm zero"),
    ],
)
def test_embeddings_without_directions_are_refused(function, rows, words):
    with pytest.raises(ValueError, match=words):
        function(rows)


def test_every_merge_within_the_bounds_is_among_the_thresholds():
    for seed in range(10):
        clusters = _Clusters(_identity(seed, n=15, spread=0.4), 2)
        thresholds = clusters.attainable(0.3, 0.9)
        found = {tuple(clusters.largest(threshold).tolist()) for threshold in thresholds}
        merges = [d for d in clusters.tree.step if 0.3 < 1 - d < 0.9]
        assert merges
        assert {tuple(clusters.tree.largest(d).tolist()) for d in merges} <= found
