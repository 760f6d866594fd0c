import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.core.class_stats import ClassStats


def test_counts_come_from_anything_that_holds_whole_numbers():
    for counts in ([3, 1], np.array([3, 1]), torch.tensor([3, 1]), torch.tensor([3.0, 1.0]), ClassStats.of([3, 1])):
        assert ClassStats.of(counts).counts.tolist() == [3, 1]
    assert ClassStats.from_target(torch.tensor([2, 0, 0, 1, 2, 2])).counts.tolist() == [2, 1, 3]


def test_effective_numbers_keep_their_digits_where_the_power_is_close_to_one():
    found = ClassStats.of([1, 10]).effective_number_weights(1 - 1e-9)
    # The effective number of n samples tends to n.
    torch.testing.assert_close(found, torch.tensor([20 / 11, 2 / 11], dtype=torch.float64), rtol=1e-7, atol=0)
    assert ClassStats.of([7, 3, 1]).effective_number_weights(0.0).tolist() == [1, 1, 1]


def test_weights_sum_to_the_number_of_classes_and_rise_with_rarity():
    stats = ClassStats.of([1000, 50, 2, 1])
    for weights in (stats.effective_number_weights(), stats.aligned_weights(0.5), stats.aligned_weights(3.0)):
        assert float(weights.sum()) == pytest.approx(4)
        assert bool((weights.diff() > 0).all())
    inverse = 1 / stats.prior
    torch.testing.assert_close(stats.aligned_weights(1.0), 4 * inverse / inverse.sum())
    assert stats.aligned_weights(0.0).tolist() == [1, 1, 1, 1]


def test_weights_are_those_of_float64_for_counts_that_divide_badly():
    counts, beta = np.array([61.0, 23.0, 7.0]), 0.99
    for found, wanted in (
        (ClassStats.of(counts).aligned_weights(0.7), counts**-0.7),
        (ClassStats.of(counts).effective_number_weights(beta), (1 - beta) / (1 - beta**counts)),
    ):
        np.testing.assert_allclose(found.numpy(), 3 * wanted / wanted.sum(), rtol=1e-13)


def test_groups_are_strict_at_both_thresholds():
    groups = ClassStats.of([101, 100, 20, 19]).groups(100, 20)
    assert {name: members.tolist() for name, members in groups.items()} == {"many": [0], "medium": [1, 2], "few": [3]}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "one count for each class"),
        ([[1, 2]], "one count for each class"),
        ([3, 0], "class 1 has 0 samples"),
        ([3, -1], r"class_counts\[1\] is -1"),
        ([3, 1.5], r"class_counts\[1\] is 1.5"),
        ([3, float("nan")], r"class_counts\[1\] is nan"),
        ([float("inf")], r"class_counts\[0\] is inf"),
    ],
)
def test_bad_counts_are_named(counts, message):
    with pytest.raises(ValueError, match=message):
        ClassStats.of(counts)


def test_bad_targets_and_settings_are_named(plain_inputs):
    with pytest.raises(ValueError, match="class -1"):
        ClassStats.from_target([0, -1])
    with pytest.raises(ValueError, match="class 3"):
        ClassStats.from_target([0, 3], num_classes=3)
    with pytest.raises(ValueError, match="class 1 has 0"):
        ClassStats.from_target([0, 2])
    with pytest.raises(ValueError, match="hold integers or booleans"):
        ClassStats.from_target(torch.tensor([0.0]))
    stats = ClassStats.of([2, 1])
    for bad in (
        lambda: stats.effective_number_weights(1.0),
        lambda: stats.aligned_weights(-1),
        lambda: stats.groups(5, 6),
    ):
        with pytest.raises(ValueError, match=r"beta|nu|few"):
            bad()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint64", "float32"])
def test_counts_are_taken_from_any_array(dtype):
    counts = np.array([4, 6, 30], dtype=dtype)
    for given in (counts[::-1], np.stack([counts, counts])[0, ::-1], pd.Series(counts[::-1], index=[7, 8, 9])):
        assert ClassStats.of(given).counts.tolist() == [30, 6, 4]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "int64"])
def test_targets_are_counted_in_any_type(dtype):
    target = np.array([1, 0, 0, 0, 1]).astype(dtype)
    for given in (target, target[::-1], pd.Series(target, index=range(5, 10))):
        assert ClassStats.from_target(given).counts.tolist() == [3, 2]
    assert ClassStats.from_target(torch.tensor([True, False, False])).counts.tolist() == [2, 1]


@pytest.mark.parametrize("nothing", [[], np.zeros(0), torch.zeros(0, dtype=torch.long)])
def test_an_empty_target_is_refused_by_name(nothing):
    with pytest.raises(ValueError, match=r"target needs class indices .* at least one"):
        ClassStats.from_target(nothing)


@pytest.mark.parametrize("counts", ["abc", {"cat": 3, "dog": 2}, [3, "many"], [3, None]])
def test_counts_that_are_no_numbers_are_refused(counts):
    with pytest.raises(ValueError, match="one whole number for each class"):
        ClassStats.of(counts)


def test_numpy_numbers_are_settings():
    stats = ClassStats.of([200, 50, 5])
    weights = stats.effective_number_weights(np.float64(0.9))
    torch.testing.assert_close(weights, stats.effective_number_weights(0.9), rtol=0, atol=0)
    torch.testing.assert_close(stats.aligned_weights(np.int64(1)), stats.aligned_weights(1.0), rtol=0, atol=0)
    assert stats.groups(np.int32(100), np.uint8(20))["few"].tolist() == [2]
