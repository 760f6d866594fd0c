import math

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from equipoise.core.scores import ScoreSpec
from equipoise.openworld.outliers.detection import ood_metrics


def _brute(known, unknown, recall):
    """Every measure by looking at every threshold, as its definition says."""
    cuts = sorted({*known, *unknown, math.inf})
    tpr = [sum(s >= c for s in known) / len(known) for c in cuts]
    fpr = [sum(s >= c for s in unknown) / len(unknown) for c in cuts]
    flagged = [sum(s <= c for s in unknown) / len(unknown) for c in [*cuts, -math.inf]]
    wrongly = [sum(s <= c for s in known) / len(known) for c in [*cuts, -math.inf]]
    scores, target = np.array(known + unknown), np.array([1] * len(known) + [0] * len(unknown))
    found = {
        "auroc": roc_auc_score(target, scores),
        "aupr_in": average_precision_score(target, scores),
        "aupr_out": average_precision_score(1 - target, -scores),
        "fpr95_id_positive": min(f for t, f in zip(tpr, fpr, strict=True) if t >= recall - 1e-12),
        "fpr95_ood_positive": min(f for t, f in zip(flagged, wrongly, strict=True) if t >= recall - 1e-12),
        "detection_error": min((1 - t + f) / 2 for t, f in zip(tpr, fpr, strict=True)),
    }
    for name, y, s in (("in", target, scores), ("out", 1 - target, -scores)):
        precision, hit, _ = precision_recall_curve(y, s)
        found[f"aupr_{name}_trapezoid"] = auc(hit, precision)
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("recall", [0.95, 0.5, 1.0, 0.1])
def test_every_measure_is_its_definition_with_ties(seed, recall):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 12, size=2)
    known = (draw.integers(-3, 5, size=sizes[0]) / 2).tolist()
    unknown = (draw.integers(-4, 4, size=sizes[1]) / 2).tolist()
    found = ood_metrics(torch.tensor(known).double(), torch.tensor(unknown).double(), recall=recall)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(_brute(known, unknown, recall))


def test_the_direction_of_a_score_is_a_matter_of_its_spec():
    known, unknown = torch.randn(30), torch.randn(20) - 1
    found = ood_metrics(-known, -unknown, higher_is=ScoreSpec("out"))
    assert found == ood_metrics(known, unknown) == ood_metrics(-known, -unknown, higher_is="out")


def test_the_two_readings_of_fpr95_exchange_when_the_question_is_turned():
    known, unknown = torch.randn(40), torch.randn(25) - 0.5
    one, other = ood_metrics(known, unknown), ood_metrics(unknown, known, higher_is="out")
    assert one["fpr95_id_positive"] == other["fpr95_ood_positive"]
    assert one["aupr_in"] == other["aupr_out"]
    assert float(one["detection_error"]) == pytest.approx(float(other["detection_error"]))


def test_scores_that_tell_nothing_give_chance():
    found = ood_metrics(torch.zeros(3), torch.zeros(6))
    assert float(found["auroc"]) == 0.5
    assert float(found["detection_error"]) == 0.5
    assert float(found["fpr95_id_positive"]) == 1
    assert float(found["aupr_in"]) == pytest.approx(1 / 3)


def test_infinite_scores_are_ranked():
    found = ood_metrics(torch.tensor([math.inf, 2.0]), torch.tensor([-math.inf, 1.0]))
    assert float(found["auroc"]) == 1
    assert float(found["aupr_in_trapezoid"]) == 1


@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [
        (torch.tensor([0.1, math.nan]), torch.ones(2), "id_scores holds 1 NaN, the first at index 1"),
        (torch.ones(2), torch.ones(0), "ood_scores is empty"),
        (torch.ones(2, 1), torch.ones(3), "id_scores must have shape"),
        (torch.ones(2).long(), torch.ones(3), "floating"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_scores_are_named(known, unknown, message):
    with pytest.raises(ValueError, match=message):
        ood_metrics(known, unknown)


@pytest.mark.usefixtures("plain_inputs")
def test_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="'in', 'out'"):
        ood_metrics(torch.ones(2), torch.ones(2), higher_is=ScoreSpec("up"))
