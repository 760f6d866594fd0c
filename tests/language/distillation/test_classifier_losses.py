"""Standardised, transformed and decoupled logits, against their definitions."""

import pytest
import torch

from equipoise.language import (
    ab_divergence,
    decoupled_ab_loss,
    standardized_ab_loss,
    transformed_teacher_ab_loss,
)


def logits(seed=0, n=6, classes=5):
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(n, classes, generator=generator, dtype=torch.float64) for _ in range(2))


def test_standardised_logits_do_not_see_scale_and_shift():
    student, teacher = logits()
    found = standardized_ab_loss(student, teacher)
    torch.testing.assert_close(standardized_ab_loss(3 * student + 1, 0.1 * teacher - 4), found, rtol=1e-5, atol=1e-6)
    scaled = [(z - z.mean(1, keepdim=True)) / (1e-7 + z.std(1, keepdim=True)) / 2 for z in (student, teacher)]
    torch.testing.assert_close(found, 4 * ab_divergence(scaled[0], scaled[1], 0.9, 0.3))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_teacher_is_raised_to_a_power(weighted):
    student, teacher = logits()
    power = teacher.softmax(1) ** 0.3
    each = ab_divergence(student, (power / power.sum(1, keepdim=True)).log(), 0.8, 0.3, reduction="none")
    expected = (each * (power.sum(1) if weighted else 1)).mean()
    torch.testing.assert_close(transformed_teacher_ab_loss(student, teacher, exponent=0.3, weighted=weighted), expected)


def test_the_true_class_and_the_others_are_taken_apart():
    student, teacher = logits()
    target = torch.arange(6) % 5
    found = decoupled_ab_loss(student, teacher, target, 0.8, 0.3, other_weight=3.0, warm_up=0.5)
    p, q = (z.div(4).softmax(1) for z in (teacher, student))
    of_target, of_others = [], []
    for row, own in enumerate(target.tolist()):
        others = [k for k in range(5) if k != own]
        one, two = p[row, own], q[row, own]
        of_target.append(one * (one / two).log() + (1 - one) * ((1 - one) / (1 - two)).log())
        rest = [(each[row, others] / each[row, others].sum()).log()[None] for each in (q, p)]
        of_others.append(ab_divergence(rest[0], rest[1], 0.8, 0.3))
    torch.testing.assert_close(found.target_class, 16 * torch.stack(of_target).mean())
    torch.testing.assert_close(found.other_classes, 16 * torch.stack(of_others).mean())
    torch.testing.assert_close(found.total, 0.5 * (found.target_class + 3 * found.other_classes))


@pytest.mark.parametrize("loss", [standardized_ab_loss, transformed_teacher_ab_loss])
def test_gradients_are_those_of_finite_differences(loss):
    student, teacher = logits(n=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher), (student.requires_grad_(),))


def test_the_gradient_of_the_decoupled_loss_is_that_of_finite_differences():
    student, teacher = logits(n=3)
    target = torch.tensor([0, 4, 2])
    assert torch.autograd.gradcheck(lambda z: decoupled_ab_loss(z, teacher, target).total, (student.requires_grad_(),))


def test_a_target_that_is_no_class_is_refused(plain_inputs):
    student, teacher = logits()
    with pytest.raises(ValueError, match="target"):
        decoupled_ab_loss(student, teacher, torch.full((6,), -100))
