"""The permutation test of the Grassmannian claim: it finds a planted spread and fails where there is none."""

import pytest
import torch

from equipoise.claims.longtail.nc_grassmannian import permutation_test


def _p_values(effect, draws=300):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        runs = 5 * torch.randn(1, 4, generator=generator)  # a seed's own level is no difference between frames
        values = runs + torch.randn(8, 4, generator=generator)
        values[0] += effect
        found.append(permutation_test(values, generator, shuffles=200)[1])
    return torch.tensor(found)


def test_p_is_uniform_under_chance_and_small_where_one_frame_differs():
    chance = _p_values(0.0)
    assert (chance <= 0.05).double().mean() <= 0.09
    assert chance.double().mean() == pytest.approx(0.5, abs=0.06)
    assert (_p_values(4.0) <= 0.05).double().mean() > 0.95


def test_equal_values_are_no_difference():
    spread, p_value, by_chance = permutation_test(torch.ones(3, 2), torch.Generator().manual_seed(0), shuffles=50)
    assert (spread, p_value, by_chance) == (0.0, 1.0, 0.0)
