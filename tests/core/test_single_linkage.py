"""One spanning tree holds the clusters of DBSCAN at every threshold."""

import numpy as np
import pytest

from equipoise.core.single_linkage import SingleLinkage, cosine_distances, density_clusters, single_linkage

DBSCAN = pytest.importorskip("sklearn.cluster").DBSCAN


def _unit(seed, n=40, d=6, people=3):
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(people, d))[generator.integers(people, size=n)] + generator.normal(size=(n, d)) * 0.7
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(6))
def test_the_runs_of_the_tree_are_the_clusters_of_dbscan(seed):
    distances = cosine_distances(_unit(seed))
    tree = single_linkage(distances)
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        wanted = DBSCAN(eps=1 - threshold, min_samples=2, metric="precomputed").fit(distances).labels_
        assert tree.labels(1 - threshold, least=2).tolist() == wanted.tolist()


@pytest.mark.parametrize("min_samples", [1, 2, 3, 5, 9])
def test_density_clusters_are_those_of_dbscan(min_samples):
    for seed in range(8):
        distances = cosine_distances(_unit(seed))
        for eps in (0.05, 0.2, 0.35, 0.6):
            wanted = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distances).labels_
            assert density_clusters(distances, eps, min_samples).tolist() == wanted.tolist()


def test_the_steps_are_the_merges_of_single_linkage():
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    distances = cosine_distances(_unit(3))
    merges = linkage(squareform(distances, checks=False), "single")[:, 2]
    np.testing.assert_allclose(np.sort(single_linkage(distances).step), np.sort(merges), atol=1e-12)


def test_equal_distances_join_and_equal_sizes_go_to_the_first_point():
    distances = np.array([[0, 9, 9, 1.0], [9, 0, 1, 9], [9, 1, 0, 9], [1, 9, 9, 0]])
    tree = single_linkage(distances)
    assert tree.largest(1.0).tolist() == [0, 3]
    assert tree.labels(1.0).tolist() == [0, 1, 1, 0]
    assert tree.largest(0.5).tolist() == []
    assert tree.largest(0.5, least=1).tolist() == [0]


def test_no_point_and_one_point():
    none, one = (single_linkage(np.zeros((n, n))) for n in (0, 1))
    assert none.largest(1.0).tolist() == none.labels(1.0).tolist() == []
    assert one.largest(1.0).tolist() == []
    assert one.labels(1.0).tolist() == [0]
    assert isinstance(one, SingleLinkage)


def test_a_row_is_at_no_distance_from_itself_and_distances_are_in_range():
    rows = _unit(0)
    distances = cosine_distances(np.concatenate([rows, -rows]))
    assert (np.diag(distances) == 0).all()
    assert distances.min() >= 0
    assert distances.max() <= 2
