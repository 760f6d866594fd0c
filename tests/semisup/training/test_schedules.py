"""Learning rates at their ends and between."""

import math

import pytest

from equipoise.semisup import fixmatch_lr, warmup_cosine_lr


def test_warm_up_meets_the_cosine_and_both_end_where_they_should():
    assert [warmup_cosine_lr(t, 0.4, 4, 12) for t in (0, 1, 2, 4)] == [0.0, 0.1, 0.2, 0.4]
    assert warmup_cosine_lr(8, 0.4, 4, 12) == pytest.approx(0.2)
    assert warmup_cosine_lr(12, 0.4, 4, 12) == pytest.approx(0)
    rates = [warmup_cosine_lr(t, 0.4, 0, 12) for t in range(13)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.4


def test_fixmatchs_rate_ends_at_a_fifth():
    assert fixmatch_lr(0, 0.03, 1000) == 0.03
    assert fixmatch_lr(1000, 0.03, 1000) == pytest.approx(0.03 * math.cos(7 * math.pi / 16))


@pytest.mark.parametrize(("step", "warmup", "total"), [(1, 5, 5), (1, 6, 5), (6, 1, 5), (-1, 1, 5)])
def test_steps_beyond_the_end_are_refused(step, warmup, total, plain_inputs):
    with pytest.raises(ValueError, match=r"step|warmup"):
        warmup_cosine_lr(step, 0.1, warmup, total)
    with pytest.raises(ValueError, match="step"):
        fixmatch_lr(total + 1, 0.1, total)
