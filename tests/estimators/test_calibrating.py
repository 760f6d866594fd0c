"""Out-of-fold scores: each of its own row, by a model that has not seen it, in strata."""

import numpy as np
import pytest
import torch

from equipoise.estimators.calibrating import calibration_sample


@pytest.mark.parametrize(("rare", "folds"), [(20, 5), (3, 3), (2, 2)])
def test_every_row_is_scored_once_in_its_place_by_a_refit_without_it(rare, folds):
    codes = np.random.RandomState(0).permutation(np.arange(40) < rare).astype(int)
    parts = []

    def refit(kept, left_out):
        parts.append((kept, left_out))
        return torch.from_numpy(10.0 * left_out)

    scores, rows = calibration_sample("cross_fit", codes, np.array([], dtype=int), 0, lambda rows: scores, refit)
    np.testing.assert_array_equal(rows, np.arange(40))
    np.testing.assert_array_equal(scores.numpy(), 10.0 * np.arange(40))
    assert len(parts) == folds
    for kept, left_out in parts:
        np.testing.assert_array_equal(np.sort(np.r_[kept, left_out]), np.arange(40))
        for part in (kept, left_out):
            assert set(codes[part]) == {0, 1}
