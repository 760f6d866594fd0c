"""The rule for verdicts, at its borders."""

import math

import pytest

from equipoise.claims import Bound, Experiment, Gain, judge_bound, judge_gain


def test_a_gain_on_every_seed_of_a_useful_size_is_supported():
    verdict, interval = judge_gain([0.02, 0.03, 0.025, 0.02], minimum_effect=0.01)
    assert verdict == "supported"
    assert 0.02 <= interval.low <= interval.estimate <= interval.high <= 0.03


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.02, -0.03, -0.025], "not supported"),
        ([0.001, 0.002, 0.0015, 0.001], "not supported"),  # surely above 0, surely of no use
        ([0.0] * 5, "not supported"),
        ([-0.05, 0.06, 0.04, -0.03], "inconclusive"),
        ([-0.02, 0.09, 0.04, -0.01], "inconclusive"),  # a useful mean, but not surely above 0
        ([0.001, 0.03, 0.001, 0.001, 0.001], "inconclusive"),  # above 0, mean too small, a useful effect not ruled out
        ([0.02, 0.03], "inconclusive"),  # too few seeds
        ([0.02, math.nan, 0.03], "not supported"),
        ([0.02, math.inf, 0.03], "not supported"),
    ],
)
def test_other_gains_get_the_verdict_of_the_rule(differences, verdict):
    assert judge_gain(differences, minimum_effect=0.01)[0] == verdict


def test_one_lost_seed_of_many_does_not_take_the_verdict_away():
    assert judge_gain([0.02, 0.03, -0.001, 0.02, 0.025, 0.03], minimum_effect=0.01)[0] == "supported"


@pytest.mark.parametrize(
    ("values", "at_most", "at_least", "expected"),
    [
        ([1e-12, 1e-10], 1e-9, None, ("supported", 1e-10)),
        ([1e-12, 1e-8], 1e-9, None, ("not supported", 1e-8)),
        ([8.0, 30.0], None, 8, ("supported", 8.0)),
        ([7.9, 30.0], None, 8, ("not supported", 7.9)),
        ([math.inf], 1.0, None, ("not supported", math.inf)),
    ],
)
def test_a_bound_must_be_kept_on_every_seed(values, at_most, at_least, expected):
    assert judge_bound(values, at_most, at_least) == expected


def test_nan_keeps_no_bound():
    assert judge_bound([1.0, math.nan], at_most=2.0, at_least=None)[0] == "not supported"
    assert judge_bound([math.nan, 9.0], at_most=None, at_least=2.0)[0] == "not supported"


def test_what_a_claim_needs_is_checked_when_it_is_written():
    with pytest.raises(ValueError, match="minimum_effect=0"):
        Gain("better", "a", "b", "m", 0)
    with pytest.raises(ValueError, match="either at_most or at_least"):
        Bound("small", "a", "m")
    with pytest.raises(ValueError, match="either at_most or at_least"):
        Bound("small", "a", "m", at_most=1, at_least=0)
    with pytest.raises(ValueError, match="quick_seeds=4"):
        Experiment("e", "p", lambda seed, quick: {}, (0, 1, 2), 4, ())
