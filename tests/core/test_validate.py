import math

import pytest
import torch

from equipoise.core import validate


@pytest.mark.parametrize(
    ("value", "zero", "one"), [(0, False, True), (1, True, False), (-0.1, True, True), (math.nan, True, True)]
)
def test_a_fraction_outside_its_interval_is_refused(value, zero, one):
    with pytest.raises(ValueError, match="max_fpr="):
        validate.check_fraction("max_fpr", value, zero=zero, one=one)


def test_a_percentage_is_recognised():
    with pytest.raises(ValueError, match=r"did you mean 0\.05"):
        validate.check_fraction("max_fpr", 5)


def test_the_first_bad_score_is_named():
    with pytest.raises(ValueError, match="2 NaN or infinite values, the first at index 1"):
        validate.check_finite("scores", torch.tensor([0.0, math.nan, math.inf]))
    with pytest.raises(ValueError, match="float"):
        validate.check_finite("scores", torch.zeros(3, dtype=torch.long))


def test_a_sum_that_overflows_is_not_taken_for_infinity():
    validate.check_finite("scores", torch.full((4,), 3e38))


def test_a_class_beyond_the_columns_is_named():
    with pytest.raises(ValueError, match="value 3, wanted class indices from 0 to 2"):
        validate.check_classes(torch.tensor([0, 3]), 3)


def test_warn_once_warns_once():
    with pytest.warns(UserWarning, match="only once"):
        validate.warn_once("only once")
    validate.warn_once("only once")
