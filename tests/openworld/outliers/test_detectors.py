"""Scores from logits and features against their formulas, and the directions that they state."""

import io
import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import nn

from equipoise.openworld import (
    DETECTORS,
    ODIN,
    Detector,
    Mahalanobis,
    OpenSetClassifier,
    energy,
    entropy,
    estimator_detector,
    joint_energy,
    msp,
    multilabel_ood_scores,
    ood_metrics,
)


def _plain(z):
    """The formulas, one sample at a time."""
    total = sum(math.exp(v) for v in z)
    soft = [math.exp(v) / total for v in z]
    plus = [math.log(1 + math.exp(v)) for v in z]
    return {
        "msp": max(soft),
        "max_logit": max(z),
        "energy": math.log(total),
        "entropy": -sum(p * math.log(p) for p in soft),
        "joint_energy": sum(plus),
        "max_energy": max(plus),
        "sum_probability": sum(1 / (1 + math.exp(-v)) for v in z),
    }


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_is_its_formula(name):
    logits = 3 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.tensor([_plain(z)[name] for z in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(DETECTORS[name](logits), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_points_where_it_says(name):
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(200, 6, generator=generator) - 3
    known[torch.arange(200), torch.arange(200) % 6] += 6
    unknown = torch.randn(200, 6, generator=generator) - 3
    detector = DETECTORS[name]
    found = ood_metrics(detector(known), detector(unknown), higher_is=detector.spec)
    assert float(found["auroc"]) > 0.8


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_give_finite_scores_and_gradients(name, size):
    logits = torch.tensor([[size, 0.0], [size, size], [-size, 0.0]], requires_grad=True)
    scores = DETECTORS[name](logits)
    scores.sum().backward()
    assert bool(scores.isfinite().all())
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_scored_at_least_in_float32(dtype):
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    for name, scores in multilabel_ood_scores(logits).items():
        assert scores.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(scores.double(), DETECTORS[name](logits.double()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_surest_of_float32_logits_do_not_tie(name):
    sure = torch.tensor([[20.0, 0.0], [22.0, 0.0], [30.0, 0.0]])
    detector = DETECTORS[name]
    assert bool((detector.spec.inward(detector(sure)).diff() > 0).all())
    if name in ("msp", "sum_probability"):
        odin = ODIN(nn.Identity(), temperature=1.0, epsilon=0.0, multilabel=name == "sum_probability")
        assert bool((odin(sure).diff() > 0).all())


def test_joint_energy_is_the_evidence_against_no_label_at_all():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(joint_energy(logits), -(1 - logits.sigmoid()).log().sum(1))


def test_only_scores_that_are_higher_for_the_known_stand_side_by_side():
    assert set(multilabel_ood_scores(torch.zeros(1, 2))) == set(DETECTORS) - {"entropy"}


def test_temperatures_divide_the_logits():
    logits = torch.tensor([[1.0, 3.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(msp(logits, 4.0), msp(logits / 4))
    torch.testing.assert_close(energy(logits, 4.0), 4 * energy(logits / 4))


@pytest.mark.parametrize("score", [DETECTORS["entropy"], entropy], ids=["detector", "function"])
def test_entropy_knows_its_direction_as_the_score_of_a_classifier_with_rejection(score):
    model = OpenSetClassifier(nn.Identity(), score)
    known = torch.tensor([[9.0, 0.0], [0.0, 8.0], [7.0, 0.0]])
    model.calibrate([known], recall=1.0)
    assert model.predict(torch.tensor([[9.0, 0.0], [0.1, 0.0]])).accepted.tolist() == [True, False]


def test_odin_without_a_step_is_the_tempered_probability():
    model = nn.Linear(3, 4)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ODIN(model, temperature=2.0, epsilon=0.0)(x), msp(model(x), 2.0).detach())
    wanted = (model(x).double() / 2).sigmoid().max(1).values.detach()
    torch.testing.assert_close(ODIN(model, temperature=2.0, epsilon=0.0, multilabel=True)(x), wanted)


@pytest.mark.parametrize("multilabel", [False, True])
def test_odin_steps_along_the_sign_of_the_gradient(multilabel):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    scores = ODIN(model, temperature=3.0, epsilon=0.05, multilabel=multilabel)(x)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    model.eval()

    def confidence(inputs):
        tempered = model(inputs) / 3
        return (tempered.sigmoid() if multilabel else tempered.softmax(1)).max(1).values

    leaf = x.clone().requires_grad_()
    confidence(leaf).log().sum().backward()
    torch.testing.assert_close(scores, confidence(x + 0.05 * leaf.grad.sign()).detach())
    assert bool((scores >= confidence(x).detach()).all())


def test_odin_checks_inputs_and_logits():
    with pytest.raises(ValueError, match="inputs"):
        ODIN(nn.Identity())(torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match="logits"):
        ODIN(lambda x: x.log())(torch.tensor([[-1.0, 1.0]]))


def _clusters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(60) % 3
    mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, 4, generator=generator, dtype=torch.float64) @ mixing
    return noise + 100 + 5 * torch.eye(4, dtype=torch.float64)[target], target


def test_mahalanobis_is_the_distance_under_the_tied_covariance():
    features, target = _clusters()
    detector = Mahalanobis(4, 3, ridge=1e-12).fit(features, target)
    means = torch.stack([features[target == c].mean(0) for c in range(3)])
    centred = features - means[target]
    precision = torch.linalg.inv(centred.T @ centred / 60)
    x = features[:7] + 1
    wanted = torch.stack([max(-(f - m) @ precision @ (f - m) for m in means) for f in x])
    torch.testing.assert_close(detector(x), wanted, rtol=1e-8, atol=1e-8)


def test_mahalanobis_takes_single_labels_as_rows_of_a_matrix():
    features, target = _clusters()
    one, other = Mahalanobis(4, 3), Mahalanobis(4, 3)
    one.fit(features, target)
    for rows in (nn.functional.one_hot(target, 3), nn.functional.one_hot(target, 3).float()):
        torch.testing.assert_close(one(features), other.fit(features, rows)(features))


def test_mahalanobis_counts_a_sample_for_each_of_its_labels():
    features = torch.tensor([[0.0], [2.0], [7.0]])
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    # Means 1 and 2; deviations −1, 1 and 0, so that the variance is 2/3.
    detector = Mahalanobis(1, 3, ridge=1e-12).fit(features, labels)
    torch.testing.assert_close(detector(torch.tensor([[4.0], [0.0]])), torch.tensor([-6.0, -1.5]))


def test_mahalanobis_copes_with_features_that_do_not_vary():
    features, target = _clusters()
    detector = Mahalanobis(6, 3).fit(nn.functional.pad(features, (0, 2)), target)
    assert bool(detector(nn.functional.pad(features, (0, 2))).isfinite().all())
    with pytest.raises(ValueError, match="constant"):
        Mahalanobis(2, 1).fit(torch.ones(3, 2), torch.zeros(3).long())


def test_mahalanobis_travels_in_the_state_dict():
    features, target = _clusters()
    first, second, memory = Mahalanobis(4, 5).fit(features, target), Mahalanobis(4, 5), io.BytesIO()
    torch.save(first.state_dict(), memory)
    memory.seek(0)
    second.load_state_dict(torch.load(memory, weights_only=True))
    assert torch.equal(first(features), second(features))


@pytest.mark.usefixtures("plain_inputs")
def test_mahalanobis_names_what_is_wrong():
    features, target = _clusters()
    detector = Mahalanobis(4, 3)
    with pytest.raises(RuntimeError, match="fit"):
        detector(features)
    for x, y, message in (
        (features[:, :3], target, "shape"),
        (features, target[:, None].expand(-1, 2) % 2, "shape"),
        (features, target + 1, "from 0 to 2"),
        (features, torch.zeros(60, 3).long(), "no label"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.fit(x, y)


def test_an_outlier_estimator_becomes_a_detector():
    features, _ = _clusters()
    estimator = LocalOutlierFactor(novelty=True).fit(features.numpy())
    detector = estimator_detector("lof", estimator)
    assert isinstance(detector, Detector)
    assert detector.spec.higher_is == "in"
    near, far = detector(features), detector(features + 40)
    assert float(ood_metrics(near, far)["auroc"]) == 1
    np.testing.assert_array_equal(near.numpy(), estimator.score_samples(features.numpy()))
