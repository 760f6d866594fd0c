"""The three objectives for a rare event, against pair loops, finite differences and textbook forms."""

from __future__ import annotations

import pytest
import torch

from equipoise.core.validate import reset_warnings
from equipoise.longtail.mistakes.objectives import (
    BinaryAUCSquareLoss,
    ComplementaryObjective,
    binary_auc_square_loss,
    class_weights,
    logit_adjusted_loss,
    reweighted_ce,
)


def pair_loop(score, target, margin=1.0):
    pairs = [(margin - (p - n)) ** 2 for p in score[target == 1] for n in score[target == 0]]
    return torch.stack(pairs).mean()


@pytest.mark.parametrize("scale", [1.0, 100.0, 0.0])
def test_the_auc_loss_is_the_mean_over_all_pairs(scale):
    generator = torch.Generator().manual_seed(1)
    for n in (2, 5, 40):
        score = (torch.rand(n, generator=generator, dtype=torch.float64) * 4).round() / 4 * scale
        target = (torch.arange(n) < max(n // 4, 1)).long()
        torch.testing.assert_close(binary_auc_square_loss(score, target, 0.7), pair_loop(score, target, 0.7))


def test_the_auc_gradient_is_that_of_the_moments():
    score = torch.rand(12, dtype=torch.float64, requires_grad=True)
    target = (torch.arange(12) % 4 == 0).long()
    torch.autograd.gradcheck(lambda s: binary_auc_square_loss(s, target), score)
    binary_auc_square_loss(score, target).backward()
    pos, neg = score[target == 1].detach(), score[target == 0].detach()
    torch.testing.assert_close(score.grad[target == 1], 2 / 3 * (pos - 1 - neg.mean()))
    torch.testing.assert_close(score.grad[target == 0], 2 / 9 * (neg + 1 - pos.mean()))


def test_one_vs_rest_averages_over_the_classes_of_the_batch():
    prob = torch.rand(20, 4, dtype=torch.float64)
    target = torch.arange(20) % 3
    wanted = torch.stack([pair_loop(prob[:, c], (target == c).long()) for c in range(3)]).mean()
    torch.testing.assert_close(binary_auc_square_loss(prob, target), wanted)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_has_no_auc_loss_and_a_zero_gradient(label):
    logits = torch.randn(4, 2, requires_grad=True)
    with pytest.warns(UserWarning, match="one class"):
        BinaryAUCSquareLoss()(logits, torch.full((4,), label)).backward()
    assert logits.grad.abs().max() == 0


def test_the_weighted_mean_is_one_for_a_constant_loss_of_one():
    logits = torch.zeros(6, 2, dtype=torch.float64)
    loss = reweighted_ce(logits, torch.tensor([1, 0, 0, 0, 0, 0]), [95, 5])
    torch.testing.assert_close(loss, torch.tensor(2.0, dtype=torch.float64).log())


def test_inverse_weights_average_to_one_over_the_training_set():
    counts = torch.tensor([7, 90, 3])
    torch.testing.assert_close((class_weights(counts) * counts).sum() / 100, torch.tensor(1.0, dtype=torch.float64))


def test_no_adjustment_is_plain_cross_entropy():
    logits, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    plain = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(logit_adjusted_loss(logits, target, [5, 3, 1], tau=0.0), plain)
    torch.testing.assert_close(logit_adjusted_loss(logits, target, [4, 4, 4], tau=2.0), plain)


def test_one_weight_picks_one_objective():
    logits, target = torch.randn(9, 2), (torch.arange(9) < 2).long()
    wanted = [
        reweighted_ce(logits, target, [80, 20]),
        binary_auc_square_loss(logits.softmax(1)[:, 1], target),
        logit_adjusted_loss(logits, target, [80, 20]),
    ]
    for k in range(3):
        objective = ComplementaryObjective([80, 20], [float(j == k) for j in range(3)])
        torch.testing.assert_close(objective(logits, target), wanted[k])
        torch.testing.assert_close(objective.parts, torch.stack(wanted))


def test_separate_heads_get_their_own_loss_only():
    logits = [torch.randn(9, 2, requires_grad=True) for _ in range(3)]
    target = (torch.arange(9) < 2).long()
    ComplementaryObjective([80, 20], (0, 1, 0), heads="separate")(logits, target).backward()
    assert [bool(z.grad is not None and z.grad.abs().sum() > 0) for z in logits] == [False, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binary_auc_square_loss(torch.rand(3), torch.tensor([0, 1, 2])), "target"),
        (lambda: ComplementaryObjective([10, 0]), "no mistake sample in training"),
        (lambda: ComplementaryObjective([10, 1], (1, -1, 1)), "weights"),
        (lambda: ComplementaryObjective([10, 1], (0, 0, 0)), "all zero"),
        (lambda: ComplementaryObjective([10, 1], (1, 1)), "3 numbers"),
        (lambda: ComplementaryObjective([9, 1], heads="separate")(torch.rand(2, 2), torch.tensor([0, 1])), "three"),
        (lambda: reweighted_ce(torch.rand(2, 2), torch.tensor([0, 1]), [3, 2, 1]), "columns"),
    ],
)
def test_bad_input_is_named(plain_inputs, call, message):
    reset_warnings()
    with pytest.raises(ValueError, match=message):
        call()
