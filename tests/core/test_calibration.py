"""Calibration: recovered parameters, kept order, finite on separable scores, agreement with a reference optimum."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.core.calibration import fit_platt, fit_scaling


def _smoothed_loss(log_probabilities, target):
    classes = log_probabilities.shape[1]
    counts = torch.bincount(target, minlength=classes).double()
    wanted = torch.empty_like(log_probabilities)
    for k, c in enumerate(target.tolist()):
        wanted[k] = 1 / (counts[c] + classes)
        wanted[k, c] = (counts[c] + 1) / (counts[c] + classes)
    return -(wanted * log_probabilities).sum()


def test_platt_recovers_the_log_odds_that_made_the_labels():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200_000, generator=generator, dtype=torch.float64)
    target = (torch.rand(len(scores), generator=generator) < torch.sigmoid(3 * scores - 2)).long()
    scale, offset = fit_platt(scores, target)
    assert scale == pytest.approx(3, rel=0.03)
    assert offset == pytest.approx(-2, rel=0.03)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.floats(-1e4, 1e4))
@settings(max_examples=30, deadline=None)
def test_probabilities_do_not_depend_on_the_unit_and_origin_of_the_scores(seed, unit, shift):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(40, generator=generator, dtype=torch.float64)
    target = torch.tensor([0] * 25 + [1] * 15)
    scores[target == 1] += 1
    scale, offset = fit_platt(scores, target)
    moved = unit * (scores + shift)
    moved_scale, moved_offset = fit_platt(moved, target)
    torch.testing.assert_close(
        torch.sigmoid(moved_scale * moved + moved_offset), torch.sigmoid(scale * scores + offset), rtol=1e-4, atol=1e-5
    )


def test_the_fit_is_the_optimum_of_the_smoothed_likelihood():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    target = (logits + torch.randn(60, 4, generator=generator)).argmax(1)
    scale, offset = fit_scaling(logits, target)
    parameters = torch.cat([torch.tensor([scale], dtype=torch.float64), offset]).requires_grad_()
    loss = _smoothed_loss((parameters[0] * logits + parameters[1:]).log_softmax(1), target)
    (gradient,) = torch.autograd.grad(loss, parameters)
    assert gradient.abs().max() < 1e-4
    assert abs(float(offset.sum())) < 1e-9


def test_two_columns_agree_with_platt():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.8, -0.2, 1.1])
    target = torch.tensor([0, 0, 1, 1, 0, 0])
    scale, offset = fit_platt(scores, target)
    both, offsets = fit_scaling(torch.stack([-scores / 2, scores / 2], 1), target)
    assert both == pytest.approx(scale, rel=1e-4)
    assert float(offsets[1] - offsets[0]) == pytest.approx(offset, rel=1e-4)


def test_separable_scores_get_a_finite_scale_and_platts_smoothed_frequencies():
    scale, offset = fit_platt(torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1]))
    assert 1 / (1 + math.exp(-offset)) == pytest.approx(1 / 5, rel=1e-4)
    assert 1 / (1 + math.exp(-scale - offset)) == pytest.approx(2 / 3, rel=1e-4)


@pytest.mark.parametrize("scores", [[1.0, 0.0, -1.0, -2.0], [5.0, 5.0, 5.0, 5.0]])
def test_scores_that_say_nothing_or_the_opposite_keep_their_order_and_give_about_the_frequency(scores):
    scale, offset = fit_platt(torch.tensor(scores), torch.tensor([0, 0, 0, 1]))
    assert scale > 0
    probabilities = torch.sigmoid(scale * torch.tensor(scores) + offset)
    torch.testing.assert_close(probabilities, torch.full((4,), (3 / 5 + 2 / 3) / 4), atol=2e-3, rtol=0)


def test_one_class_alone_gives_numbers():
    scale, offset = fit_platt(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]))
    assert math.isfinite(scale)
    assert math.isfinite(offset)


def test_extreme_scores_stay_finite():
    scale, offset = fit_platt(torch.tensor([-1e4, 1e4, 9e3, 1e4]), torch.tensor([0, 1, 0, 1]))
    assert math.isfinite(scale)
    assert math.isfinite(offset)


def test_bad_scores_are_refused(plain_inputs):
    with pytest.raises(ValueError, match="NaN"):
        fit_platt(torch.tensor([float("nan"), 1.0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="class indices"):
        fit_scaling(torch.zeros(2, 3), torch.tensor([0, 3]))


def test_a_weight_of_two_is_a_sample_given_twice():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    target = (logits + torch.randn(60, 3, generator=generator)).argmax(1)
    times = torch.arange(60) % 4
    given = logits.repeat_interleave(times, 0), target.repeat_interleave(times)
    for shift in (True, False):
        found = fit_scaling(logits, target, shift=shift, sample_weight=times.double())
        wanted = fit_scaling(*given, shift=shift)
        assert found[0] == pytest.approx(wanted[0], rel=1e-6)
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-6, atol=1e-8)
    found = fit_platt(logits[:, 1].contiguous(), (target == 1).long(), sample_weight=times.float())
    assert found == pytest.approx(fit_platt(given[0][:, 1].contiguous(), (given[1] == 1).long()), rel=1e-6)
