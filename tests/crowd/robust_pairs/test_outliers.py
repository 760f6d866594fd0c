"""The outlier term in closed form, and the pair loss with it given or minimised out."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from equipoise.crowd import PairOutlierLoss, outlier_gamma, pair_outlier_loss

MODELS = ["squared", "logistic"]


def _loss(score, y, gamma, lambda1, model):
    fit = (y - score - gamma) ** 2 / 2 if model == "squared" else np.logaddexp(0, -y * (score + gamma))
    return fit + lambda1 * abs(gamma)


def _drawn(seed, n=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    i, j = 2 * torch.randn(2, n, generator=generator, dtype=dtype)
    y = torch.randint(2, (n,), generator=generator) * 2 - 1
    return i, j, y, torch.randint(1, 5, (n,), generator=generator).to(dtype)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lambda1", [0.05, 0.4, 0.5, 0.9, 1.2])
@pytest.mark.filterwarnings("ignore:lambda1")
def test_the_closed_form_is_the_scalar_minimum(model, lambda1):
    i, j, y, _ = _drawn(0)
    found = outlier_gamma(i - j, y, lambda1, model)
    for s, sign, gamma, profile in zip((i - j).tolist(), y.tolist(), found.gamma, found.profile, strict=True):
        least = minimize_scalar(
            lambda g, s=s, sign=sign: _loss(s, sign, g, lambda1, model), bounds=(-20, 20), options={"xatol": 1e-10}
        )
        best = min(least.fun, _loss(s, sign, 0.0, lambda1, model))
        assert float(profile) == pytest.approx(best, abs=1e-9)
        assert _loss(s, sign, float(gamma), lambda1, model) == pytest.approx(best, abs=1e-9)


def test_an_answer_that_the_scores_overdo_has_a_term_and_is_no_outlier():
    sure = outlier_gamma(torch.tensor([5.0, -5.0]), torch.tensor([1, 1]), 1.2, "squared")
    torch.testing.assert_close(sure.gamma, torch.tensor([-2.8, 4.8]))
    assert sure.is_outlier.tolist() == [False, True]
    logistic = outlier_gamma(torch.tensor([5.0, -5.0]), torch.tensor([1, 1]), 0.3)
    assert (logistic.gamma != 0).tolist() == logistic.is_outlier.tolist() == [False, True]


@pytest.mark.parametrize(
    ("model", "lambda1", "turn"), [("squared", 1.2, -0.2), ("squared", 0.5, 0.5), ("logistic", 0.5, 0.0)]
)
def test_what_is_flagged_begins_at_the_margin_of_the_definition(model, lambda1, turn):
    margins = turn + torch.tensor([-1e-6, 1e-6], dtype=torch.float64)
    for sign in (1, -1):
        y = torch.tensor([sign, sign])
        assert outlier_gamma(sign * margins, y, lambda1, model).is_outlier.tolist() == [True, False]


@pytest.mark.parametrize("model", MODELS)
def test_the_profile_is_the_loss_at_the_best_term_in_value_and_gradient(model):
    i, j, y, w = _drawn(1)
    i.requires_grad_()
    gamma = outlier_gamma((i - j).detach(), y, 0.4, model).gamma
    profiled = pair_outlier_loss(i, j, y, w, lambda1=0.4, model=model)
    given = pair_outlier_loss(i, j, y, w, gamma, lambda1=0.4, model=model, mode="given_gamma")
    torch.testing.assert_close(profiled, given)
    slopes = [torch.autograd.grad(loss, i)[0] for loss in (profiled, given)]
    torch.testing.assert_close(*slopes)
    assert bool((slopes[0].abs() <= 0.4 * w / len(w) + 1e-12).all())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", ["profile", "given_gamma"])
def test_gradients_are_those_of_finite_differences(model, mode):
    i, j, y, w = _drawn(2)
    gamma = torch.randn(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    given = gamma if mode == "given_gamma" else None
    loss = PairOutlierLoss(0.4, model, mode)
    assert torch.autograd.gradcheck(
        lambda a, b: loss(a, b, y, w, given), (i.clone().requires_grad_(), j.clone().requires_grad_())
    )
    assert torch.autograd.gradgradcheck(lambda a: loss(a, j, y, w, given), (i.clone().requires_grad_(),))


def test_reductions_divide_by_what_they_say():
    i, j, y, w = _drawn(3)
    each = pair_outlier_loss(i, j, y, w, reduction="none")
    torch.testing.assert_close(each, w * outlier_gamma(i - j, y, 0.5).profile)
    for reduction, wanted in (
        ("sum", each.sum()),
        ("mean_edges", each.mean()),
        ("mean_strength", each.sum() / w.sum()),
    ):
        torch.testing.assert_close(pair_outlier_loss(i, j, y, w, reduction=reduction), wanted)
    times = w.long()
    repeated = [each.repeat_interleave(times) for each in (i, j, y)]
    whole = pair_outlier_loss(*repeated, reduction="mean_strength")
    torch.testing.assert_close(whole, pair_outlier_loss(i, j, y, w, reduction="mean_strength"))


@pytest.mark.parametrize("model", MODELS)
def test_turning_a_pair_around_changes_nothing(model):
    i, j, y, w = _drawn(4)
    torch.testing.assert_close(
        pair_outlier_loss(i, j, y, w, model=model), pair_outlier_loss(j, i, -y, w, model=model), rtol=1e-14, atol=0
    )
    turned = outlier_gamma(j - i, -y, 0.4, model)
    torch.testing.assert_close(turned.gamma, -outlier_gamma(i - j, y, 0.4, model).gamma)


def test_a_dear_term_leaves_the_plain_losses():
    i, j, y, _ = _drawn(5)
    sign = y.double()
    torch.testing.assert_close(
        pair_outlier_loss(i, j, y, lambda1=1e6, model="squared"), ((sign - i + j) ** 2).mean() / 2
    )
    with pytest.warns(UserWarning, match="gamma is always 0"):
        dear = pair_outlier_loss(i, j, y, lambda1=1.0)
    torch.testing.assert_close(dear, torch.nn.functional.softplus(-sign * (i - j)).mean())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_scores_give_finite_losses_and_bounded_slopes(model, size):
    scores = torch.tensor([size, -size], requires_grad=True)
    loss = pair_outlier_loss(scores, torch.zeros(2), torch.tensor([1, 1]), lambda1=0.3, model=model, reduction="sum")
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.abs().max() <= 0.3 + 1e-6


def test_zero_and_one_are_labels_where_that_is_said():
    i, j, y, _ = _drawn(6)
    for zero_one in ((y + 1) // 2, y == 1):
        torch.testing.assert_close(pair_outlier_loss(i, j, zero_one, binary=True), pair_outlier_loss(i, j, y))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.tensor([0, 1])}, "y holds the value 0, wanted 1 .left. or -1 .right.; say binary=True"),
        ({"y": torch.tensor([True, False])}, "y is boolean"),
        ({"y": torch.tensor([2, 1])}, "y holds the value 2"),
        ({"y": torch.tensor([-1, 1]), "binary": True}, "y holds the value -1"),
        ({"lambda1": 0.0}, "lambda1"),
        ({"strength": torch.tensor([1.0, 0.0])}, "strength"),
        ({"gamma": torch.zeros(3), "mode": "given_gamma"}, "gamma must have shape"),
        ({"gamma": torch.zeros(2)}, "gamma is given, but mode='profile'"),
        ({"mode": "given_gamma"}, "gamma is missing"),
        ({"score_i": torch.tensor([math.inf, 0.0])}, "score_i"),
        ({"score_j": torch.tensor([math.nan, 0.0])}, "score_j"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_by_name(change, message):
    good = {"score_i": torch.zeros(2), "score_j": torch.ones(2), "y": torch.tensor([1, -1])}
    with pytest.raises(ValueError, match=message):
        pair_outlier_loss(**{**good, **change})
