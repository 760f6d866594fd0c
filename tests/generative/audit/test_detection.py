import math
from math import comb

import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from equipoise.core.validate import reset_warnings
from equipoise.generative import (
    attack_labels,
    binomial_p_value,
    calibrate_threshold,
    detection_metrics,
    fisher_p_value,
    rate_interval,
)


@pytest.mark.parametrize("seed", range(5))
def test_measures_are_those_of_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 12, (40,), generator=generator).double() / 11
    label = (torch.rand(40, generator=generator) < 0.4).long()
    label[:2] = torch.tensor([0, 1])
    found = detection_metrics(score, label, 0.5)
    flagged = score >= 0.5
    assert float(found["precision"]) == pytest.approx(precision_score(label, flagged))
    assert float(found["recall"]) == pytest.approx(recall_score(label, flagged))
    assert float(found["f1"]) == pytest.approx(f1_score(label, flagged))
    assert float(found["auc"]) == pytest.approx(roc_auc_score(label, score))
    assert float(found["fpr"]) == pytest.approx(float(flagged[label == 0].double().mean()))
    assert float(found["accuracy"]) == pytest.approx(float((flagged == label.bool()).double().mean()))


def test_a_score_at_the_threshold_is_flagged():
    found = detection_metrics(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]), 0.5)
    assert (float(found["recall"]), float(found["fpr"]), float(found["auc"])) == (1, 1, 0.5)


@pytest.mark.parametrize(("value", "missing"), [(0, "recall"), (1, "fpr")])
def test_one_class_is_not_a_number_and_a_warning(value, missing):
    reset_warnings()
    with pytest.warns(UserWarning, match="needs both classes"):
        found = detection_metrics(torch.tensor([0.9, 0.1]), torch.full((2,), value), 0.5)
    assert math.isnan(found["auc"])
    assert math.isnan(found[missing])
    assert float(found["accuracy"]) == 0.5


def test_nothing_flagged():
    found = detection_metrics(torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0.5)
    assert (float(found["precision"]), float(found["f1"]), float(found["auc"])) == (0, 0, 1)


def test_both_readings_of_an_attack():
    triggered, visible = torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 1, 0])
    assert attack_labels(triggered, visible).tolist() == [1, 0, 0, 0]
    assert attack_labels(triggered.bool(), visible.bool(), "triggered").tolist() == [1, 1, 0, 0]


def test_p_values_and_intervals_by_brute_force():
    for total in (1, 7, 23):
        for flagged in range(total + 1):
            for rate in (0.0, 0.05, 0.5, 1.0):
                tail = sum(comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(flagged, total + 1))
                assert binomial_p_value(flagged, total, rate) == pytest.approx(tail, abs=1e-12)
            low, high = rate_interval(flagged, total)
            assert low <= flagged / total <= high
            if 0 < flagged < total:
                assert binomial_p_value(flagged, total, low) == pytest.approx(0.025)
                assert 1 - binomial_p_value(flagged + 1, total, high) == pytest.approx(0.025)
    assert rate_interval(3, 3)[1] == 1.0


def test_the_exact_test_is_that_of_scipy():
    from scipy.stats import fisher_exact

    for a, n, b, m in ((3, 10, 1, 12), (0, 4, 2, 5), (5, 5, 0, 30), (2, 8, 8, 8)):
        wanted = fisher_exact([[a, n - a], [b, m - b]], alternative="greater").pvalue
        assert fisher_p_value(a, n, b, m) == pytest.approx(wanted)


def test_calibration_keeps_the_rate():
    scores = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = calibrate_threshold(scores, 0.1)
    assert found.rate == float((scores >= found.threshold).double().mean()) == 0.1
    assert float((scores >= found.threshold - 1e-9).double().mean()) > 0.1
    assert found.low < 0.1 < found.high
    assert found.guaranteed > found.threshold
    draws = torch.Generator().manual_seed(1)
    kept = [calibrate_threshold(torch.rand(100, generator=draws), 0.1).guaranteed for _ in range(300)]
    assert sum(1 - cut <= 0.1 for cut in kept) / 300 > 0.92


def test_calibration_at_its_limits():
    zeros = calibrate_threshold(torch.zeros(30), 0.05)
    assert 0 < zeros.threshold < 1e-6
    assert (zeros.rate, zeros.guaranteed) == (0.0, math.inf)
    assert zeros.samples_needed == 59
    assert calibrate_threshold(torch.ones(30), 0.05).threshold > 1


def test_what_detection_refuses(plain_inputs):
    for call, words in (
        (lambda: detection_metrics(torch.zeros(2), torch.tensor([0, 2]), 0.5), "label"),
        (lambda: detection_metrics(torch.zeros(2), torch.tensor([0]), 0.5), "label"),
        (lambda: detection_metrics(torch.tensor([math.nan]), torch.tensor([0]), 0.5), "score"),
        (lambda: detection_metrics(torch.zeros(0), torch.zeros(0).long(), 0.5), "score"),
        (lambda: detection_metrics(torch.zeros(1), torch.zeros(1).long(), math.nan), "threshold"),
        (lambda: attack_labels(torch.tensor([2]), torch.tensor([1])), "triggered"),
        (lambda: attack_labels(torch.tensor([1]), torch.tensor([1]), "both"), "convention"),
        (lambda: calibrate_threshold(torch.zeros(3), 1.0), "target_fpr"),
        (lambda: rate_interval(3, 2), "flagged=3 is more than total=2"),
        (lambda: binomial_p_value(1, 2, 1.5), "rate"),
        (lambda: fisher_p_value(1, 2, 3, 2), "flagged=3"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
