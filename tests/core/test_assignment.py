"""An exact assignment beside scipy's, and clusters beside scikit-learn's."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from equipoise.core.assignment import assign
from equipoise.core.k_means import k_means


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("maximize", [False, True])
def test_the_cost_is_the_least(seed, maximize):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 9, 2)
    cost = rng.normal(size=shape) if seed % 2 else rng.integers(-2, 3, shape).astype(float)
    rows, columns = assign(cost, maximize=maximize)
    wanted = cost[linear_sum_assignment(cost, maximize)].sum()
    assert cost[rows, columns].sum() == pytest.approx(wanted, abs=1e-12)
    assert len(rows) == len(set(rows)) == len(set(columns)) == min(shape)
    assert (np.diff(rows) > 0).all()


def test_a_large_one_takes_no_time():
    cost = np.random.default_rng(0).normal(size=(200, 300))
    assert cost[assign(cost)].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum())


def test_nothing_and_nonsense(plain_inputs):
    assert all(len(each) == 0 for each in assign(np.zeros((0, 3))))
    with pytest.raises(ValueError, match="must have shape"):
        assign(np.zeros(3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        assign(np.array([[np.inf]]))


def test_clusters_are_as_tight_as_those_of_scikit_learn():
    rows = torch.randn(120, 3, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(3)[torch.arange(120) % 3]
    for k in (1, 3, 6):
        found = k_means(rows, k, seed=1)
        wanted = KMeans(k, n_init=10, random_state=0).fit(rows.numpy()).inertia_
        assert found.inertia <= 1.01 * wanted
        assert found.assignment.equal(torch.cdist(rows, found.centres).argmin(1))
        assert len(found.assignment.unique()) == k


def test_the_same_seed_gives_the_same_clusters_and_duplicates_do_no_harm():
    rows = torch.ones(6, 2)
    rows[0] = 3.0
    assert k_means(rows, 3).inertia == pytest.approx(0, abs=1e-12)
    data = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    assert k_means(data, 4, seed=3).assignment.equal(k_means(data, 4, seed=3).assignment)


def test_fewer_rows_than_clusters_are_refused(plain_inputs):
    with pytest.raises(ValueError, match="fewer than the k=3 clusters"):
        k_means(torch.zeros(2, 2), 3)


def test_clusters_far_from_the_origin_are_those_near_it():
    rows = torch.cat([0.1 * torch.randn(40, 2), 0.1 * torch.randn(40, 2) + 5]).double()
    near, far = k_means(rows, 2), k_means(rows + 1e8, 2)
    assert (near.assignment[0] == near.assignment).equal(far.assignment[0] == far.assignment)
    assert far.inertia == pytest.approx(near.inertia, rel=1e-6)
    torch.testing.assert_close(
        far.centres[far.assignment[0]] - 1e8, near.centres[near.assignment[0]], atol=1e-6, rtol=0
    )
