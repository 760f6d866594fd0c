"""Settings are chosen alike: as many per arm, by the validation measure, on seeds that are not reported."""

import math

import pytest

from equipoise.claims import Experiment
from equipoise.claims.lab.tuning import VALIDATION_SEEDS, Tuning, grid

GRID = grid(lr=(0.1, 1.0, 10.0), decay=(0.0, 1e-3))


def _score(arm, setting, seed):
    """Best at rate 1 without decay for the one arm, at rate 10 with decay for the other."""
    best = {"one": (1.0, 0.0), "other": (10.0, 1e-3)}[arm]
    return -abs(math.log10(setting["lr"] / best[0])) - 100 * abs(setting["decay"] - best[1]) + seed


def test_every_arm_gets_its_own_best_setting():
    chosen = Tuning({"one": GRID, "other": GRID}, _score).choose()
    assert chosen == {"one": {"lr": 1.0, "decay": 0.0}, "other": {"lr": 10.0, "decay": 1e-3}}


def test_every_setting_is_tried_once_on_every_seed_and_none_in_quick_mode():
    tried = []
    tuning = Tuning({"one": GRID}, lambda arm, setting, seed: tried.append((*setting.values(), seed)) or 0.0)
    assert tuning.choose(quick=True) == {"one": GRID[0]}
    assert tried == []
    assert tuning.choose() == {"one": GRID[0]}
    assert len(set(tried)) == len(tried) == len(GRID) * len(VALIDATION_SEEDS)


def test_a_setting_that_diverges_on_one_seed_is_not_chosen():
    tuning = Tuning({"one": GRID}, lambda arm, s, seed: math.nan if s["lr"] > 0.5 and seed == 901 else s["lr"])
    assert tuning.choose()["one"]["lr"] == 0.1


def test_grids_are_of_one_size_and_their_seeds_are_not_reported():
    with pytest.raises(ValueError, match="'one': 6, 'other': 5"):
        Tuning({"one": GRID, "other": GRID[:5]}, _score)
    with pytest.raises(ValueError, match="must not be among the reported"):
        Experiment("e", "p", lambda *_: {}, (), tuning=Tuning({"one": GRID}, _score, seeds=(4, 900)))
