"""The rule for verdicts, at its borders and against chance."""

import math

import numpy as np
import pytest
from scipy import stats

from equipoise.claims import Bound, Experiment, Gain, judge_blocks, judge_bound, judge_gain
from equipoise.claims.verdict import seeds_needed

NARROW = [0.02, 0.03, 0.025, 0.02, 0.022]
WIDE = [0.00, 0.10, 0.05, 0.08, 0.02]


def test_a_gain_on_every_seed_of_a_useful_size_is_supported_with_the_interval_of_scipy():
    verdict, interval = judge_gain(NARROW, minimum_effect=0.01)
    assert verdict == "supported"
    low, high = stats.t.interval(0.95, 4, np.mean(NARROW), stats.sem(NARROW))
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((low, np.mean(NARROW), high))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-d for d in NARROW], "not supported"),
        ([0.001, 0.002, 0.0015, 0.001, 0.001], "not supported"),  # surely above 0, surely of no use
        ([0.0] * 5, "not supported"),
        ([-0.05, 0.06, 0.04, -0.03] * 3, "inconclusive"),
        ([-0.02, 0.09, 0.04, -0.01] * 3, "inconclusive"),  # a useful mean, but not surely above 0
        ([0.012, 0.008, 0.013, 0.004, 0.006], "inconclusive"),  # above 0, mean too small, a useful effect not ruled out
        (NARROW[:4], "inconclusive"),  # too few seeds
        ([*NARROW, math.nan], "not supported"),
        ([*NARROW, math.inf], "not supported"),
    ],
)
def test_other_gains_get_the_verdict_of_the_rule(differences, verdict):
    assert judge_gain(differences, minimum_effect=0.01)[0] == verdict


def test_a_large_spread_asks_for_ten_seeds_whatever_the_mean():
    assert seeds_needed(NARROW, 0.01) == 5
    assert {seeds_needed([d + shift for d in WIDE], 0.01) for shift in (-1.0, 0.0, 1.0)} == {10}
    apart = [d + 1.0 for d in WIDE]
    assert judge_gain(apart, 0.01)[0] == judge_gain(apart + apart[:4], 0.01)[0] == "inconclusive"
    assert judge_gain(apart + apart, 0.01)[0] == "supported"


def _verdicts(effect, spread, blocks=200):
    """Verdicts of pairs of blocks of normal differences, which go on to ten seeds as the rule asks."""
    generator, found = np.random.default_rng(0), []
    for _ in range(blocks):
        pair = []
        for _ in range(2):
            drawn = list(generator.normal(effect, spread, size=10))
            pair.append(judge_gain(drawn[: seeds_needed(drawn, 0.01)], 0.01)[0])
        found.append(judge_blocks(pair))
    return found


def test_a_planted_effect_is_supported_and_none_is_not():
    planted = _verdicts(effect=0.03, spread=0.008)
    assert planted.count("supported") > 0.95 * len(planted)
    absent = _verdicts(effect=0.0, spread=0.003)
    assert absent.count("not supported") > 0.9 * len(absent)


@pytest.mark.parametrize("spread", [0.002, 0.01, 0.1])
def test_chance_is_hardly_ever_supported(spread):
    # One block in forty has its interval above 0, one pair of blocks in 1,600 both: 2 of 200 is next to impossible.
    assert _verdicts(effect=0.0, spread=spread).count("supported") <= 1


def test_a_block_goes_on_by_its_spread_alone_so_that_its_interval_keeps_its_coverage():
    generator, covered = np.random.default_rng(1), []
    for _ in range(2500):
        drawn = list(generator.normal(0.0, 0.0085, size=10))  # about half of the blocks go on to ten
        _, interval = judge_gain(drawn[: seeds_needed(drawn, 0.01)], 0.01)
        covered.append(interval.low <= 0 <= interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("blocks", "verdict"),
    [
        (["supported", "supported"], "supported"),
        (["not supported", "not supported"], "not supported"),
        (["supported", "inconclusive"], "inconclusive"),
        (["supported", "not supported"], "inconclusive"),
        (["supported"], "not yet repeated"),
        (["not supported"], "not yet repeated"),
        ([], "not yet run"),
    ],
)
def test_two_blocks_must_say_the_same(blocks, verdict):
    assert judge_blocks(blocks) == verdict


def test_a_sign_that_flips_between_blocks_is_inconclusive():
    flipped = [-d for d in NARROW]
    assert judge_blocks([judge_gain(block, 0.01)[0] for block in (NARROW, flipped)]) == "inconclusive"


def test_one_block_refutes_a_bound():
    assert judge_blocks(["supported", "not supported"], refutable=True) == "not supported"
    assert judge_blocks(["not supported"], refutable=True) == "not supported"
    assert judge_blocks(["supported"], refutable=True) == "not yet repeated"


@pytest.mark.parametrize(
    ("values", "at_most", "at_least", "expected"),
    [
        ([1e-12] * 4 + [1e-10], 1e-9, None, ("supported", 1e-10)),
        ([1e-12] * 4, 1e-9, None, ("inconclusive", 1e-12)),  # too few seeds
        ([1e-12, 1e-8], 1e-9, None, ("not supported", 1e-8)),
        ([8.0, 30.0, 9.0, 9.0, 9.0], None, 8, ("supported", 8.0)),
        ([7.9, 30.0, 9.0, 9.0, 9.0], None, 8, ("not supported", 7.9)),
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
    for seeds in ((0, 1, 2, 3), (0, 1, 2, 3, 3)):
        with pytest.raises(ValueError, match="at least 5 distinct"):
            Experiment("e", "p", lambda seed, quick: {}, (), seeds)
