import numpy as np
import pytest
import torch

from equipoise.data import long_tail_counts, long_tail_subset


def test_the_digits_recipe_of_the_multiclass_claim():
    assert long_tail_counts(10, 90, 30) == [int(90 * (3 / 90) ** (i / 9) + 1e-9) for i in range(10)]


@pytest.mark.parametrize("kind", ["exponential", "step", "pareto"])
def test_counts_fall_from_the_most_to_the_ratio(kind):
    counts = long_tail_counts(7, 500, 100, kind)
    assert counts[0] == 500
    assert counts[-1] == 5
    assert counts == sorted(counts, reverse=True)


def test_a_ratio_of_one_is_balanced_and_halves_are_rounded_up():
    assert long_tail_counts(3, 40, 1) == [40, 40, 40]
    assert long_tail_counts(5, 40, 4, "step") == [40, 40, 40, 10, 10]


def test_one_class_keeps_all_and_a_tail_may_run_backward():
    assert long_tail_counts(1, 50, 10) == [50]
    for kind in ("exponential", "step", "pareto"):
        assert long_tail_counts(6, 300, 20, kind, reverse=True) == long_tail_counts(6, 300, 20, kind)[::-1]


def test_a_pareto_tail_is_a_power_of_the_rank():
    counts = long_tail_counts(100, 10**6, 1000, "pareto")
    assert counts[9] == pytest.approx(10**6 * 1000**-0.5, rel=1e-4)
    assert counts[0] / counts[1] > counts[50] / counts[51]


def test_a_subset_has_the_counts_and_is_a_function_of_the_seed():
    target = torch.arange(60) % 3
    kept = long_tail_subset(target, [20, 5, 0], seed=1)
    assert target[kept].bincount(minlength=3).tolist() == [20, 5, 0]
    assert kept.unique().equal(kept)
    assert kept.equal(long_tail_subset(target.flip(0).numpy()[::-1], np.array([20, 5, 0]), seed=1))
    assert not kept.equal(long_tail_subset(target, [20, 5, 0], seed=2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: long_tail_counts(10, 50, 100), "leaves the smallest class 0.5 of a sample"),
        (lambda: long_tail_subset(torch.tensor([0, 1, 1]), [2, 1]), "2 samples of class 0 are asked for, it has 1"),
        (lambda: long_tail_subset(torch.tensor([0, 2]), [1, 0]), "target holds class 2, but counts has 2"),
    ],
)
def test_what_cannot_be_is_said(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()
