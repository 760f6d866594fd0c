import itertools

import pytest
import torch

from equipoise.core.pairs.quadratic import auc_quadratic_form, pairwise_square_rows

DOUBLE = {"dtype": torch.float64}


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def test_the_form_is_the_mean_over_pairs():
    x, y, w = _drawn(9, 3), torch.tensor([1, 0, 0, 1, 0, 1, 1, 0, 0]), _drawn(3, seed=1)
    form = auc_quadratic_form(x, y)
    pairs = [(1 - (p - q) @ w) ** 2 / 2 for p, q in itertools.product(x[y == 1], x[y == 0])]
    torch.testing.assert_close(w @ form.A @ w / 2 - form.c @ w + 0.5, sum(pairs) / len(pairs))


def test_rows_of_each_owner_have_the_form_of_their_samples():
    x, y, owner = _drawn(20, 3), torch.arange(20) % 2, torch.arange(20) % 3
    y[owner == 1] = 1
    found = pairwise_square_rows(x, y, owner, 4)
    assert found.both.tolist() == [True, False, True, False]
    assert set(found.owner.tolist()) == {0, 2}
    for k in (0, 2):
        own, response = found.rows[found.owner == k], found.response[found.owner == k]
        form = auc_quadratic_form(x[owner == k], y[owner == k])
        torch.testing.assert_close(own.T @ own, form.A)
        torch.testing.assert_close(own.T @ response, form.c)
        assert float(response.square().sum()) == 1


def test_a_weight_of_two_is_a_sample_given_twice():
    x, y, owner = _drawn(8, 2), torch.arange(8) % 2, torch.zeros(8).long()
    times = torch.tensor([1, 2, 0, 1, 3, 1, 2, 1])
    weighed = pairwise_square_rows(x, y, owner, 1, times.double())
    given = pairwise_square_rows(*(each.repeat_interleave(times, 0) for each in (x, y, owner)), 1)
    for one, other in zip(*((found.rows, found.response[:, None]) for found in (weighed, given)), strict=True):
        torch.testing.assert_close(one.T @ one, other.T @ other)
    torch.testing.assert_close(weighed.rows.T @ weighed.response, given.rows.T @ given.response)


def test_a_class_that_is_absent_is_told(plain_inputs):
    with pytest.raises(ValueError, match="one class only"):
        auc_quadratic_form(_drawn(3, 2), torch.ones(3).long())
