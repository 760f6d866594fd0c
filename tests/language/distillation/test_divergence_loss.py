"""Losses of tokens: which count, how they are put together, and what a step must not depend on."""

import pytest
import torch
from torch.nn.functional import kl_div

from equipoise.core.token_divergence.families import AlphaBeta, JensenShannon
from equipoise.core.token_divergence.fused import LinearHead
from equipoise.language import (
    ABDivergenceLoss,
    TokenDivergenceLoss,
    ab_divergence,
    fused_divergence_loss,
    log_mass_ratio,
    token_divergence_loss,
)


def batch(seed=0, shape=(3, 5), vocabulary=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: 2 * torch.randn(*shape, vocabulary, generator=generator, dtype=dtype)  # noqa: E731
    labels = torch.randint(0, vocabulary, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.3] = -100
    return draw(), draw(), labels


def test_forward_kl_is_that_of_torch_with_hintons_factor():
    student, teacher, _ = batch()
    expected = 9 * kl_div(
        (student / 3).log_softmax(-1), (teacher / 3).log_softmax(-1), log_target=True, reduction="sum"
    )
    found = token_divergence_loss(student, teacher, temperature=3.0, scale_by_T2=True, reduction="sum")
    torch.testing.assert_close(found, expected)


def test_tokens_that_do_not_count_have_no_part():
    student, teacher, labels = batch()
    each = token_divergence_loss(student, teacher, "jsd", labels=labels, reduction="none")
    assert each.shape == labels.shape
    assert not each[labels == -100].any()
    assert (each[labels != -100] > 0).all()
    mean = token_divergence_loss(student, teacher, "jsd", labels=labels)
    torch.testing.assert_close(mean, each.sum() / (labels != -100).sum())
    spoilt = student.clone()
    spoilt[labels == -100] = torch.nan
    spoilt.requires_grad_()
    loss = token_divergence_loss(spoilt, teacher, "jsd", labels=labels)
    torch.testing.assert_close(loss.detach(), mean)
    loss.backward()
    assert not spoilt.grad[labels == -100].any()


def test_weights_multiply_and_the_mean_divides_by_the_number_of_tokens():
    student, teacher, labels = batch()
    weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    each = token_divergence_loss(student, teacher, labels=labels, reduction="none")
    found = token_divergence_loss(student, teacher, labels=labels, weight=weight)
    torch.testing.assert_close(found, (each * weight).sum() / (labels != -100).sum())


@pytest.mark.parametrize("cut", [1, 2])
def test_loss_and_gradient_do_not_depend_on_how_a_step_is_cut(cut):
    student, teacher, labels = batch()
    items = int((labels != -100).sum())
    whole = student.clone().requires_grad_()
    loss = token_divergence_loss(whole, teacher, AlphaBeta(0.2, 0.7), labels=labels, num_items_in_batch=items)
    loss.backward()
    parts = student.clone().requires_grad_()
    total = 0.0
    for rows in (slice(0, cut), slice(cut, 3)):
        one = token_divergence_loss(
            parts[rows],
            teacher[rows],
            AlphaBeta(0.2, 0.7),
            labels=labels[rows],
            num_items_in_batch=torch.tensor(items),
        )
        one.backward()
        total += float(one.detach())
    assert float(loss.detach()) == pytest.approx(total)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_a_batch_without_tokens_is_an_attached_zero():
    student, teacher, labels = batch()
    student.requires_grad_()
    loss = token_divergence_loss(student, teacher, labels=torch.full_like(labels, -100))
    assert float(loss.detach()) == 0
    loss.backward()
    assert not student.grad.any()


def test_vocabularies_that_differ_by_padding():
    student, teacher, labels = batch()
    wide = torch.cat([teacher, torch.full((3, 5, 2), 9.0)], -1)
    with pytest.raises(
        ValueError, match="the student's vocabulary has 7 entries, the teacher's 9; if both encode alike"
    ):
        token_divergence_loss(student, wide)
    found = token_divergence_loss(student, wide, labels=labels, allow_vocab_crop=True)
    torch.testing.assert_close(found, token_divergence_loss(student, teacher, labels=labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_logits": torch.zeros(3, 4, 7)}, "batch|tokens|shape"),
        ({"labels": torch.full((3, 5), 7)}, "labels hold 7, wanted classes from 0 to 6"),
        ({"labels": torch.full((3, 5), -1)}, "labels hold -1, wanted classes"),
        ({"temperature": 0.0}, "temperature=0.0 must be a number greater than 0"),
        ({"weight": torch.full((3, 5), -1.0)}, "weight must be at least 0|weight must be a number at least 0|weight"),
        ({"reduction": "sum", "num_items_in_batch": 4}, "num_items_in_batch divides a mean"),
        ({"num_items_in_batch": 0}, "num_items_in_batch=0 must be at least 1"),
        ({"divergence": "kl"}, "divergence='kl' is not known"),
        ({"divergence": None}, "divergence=None is no divergence"),
        (
            {"student_logits": torch.zeros(3, 5, 0), "teacher_logits": torch.zeros(3, 5, 0), "labels": None},
            "over a vocabulary of 0 entries",
        ),
        ({"student_logits": torch.zeros(3, 5, 7, dtype=torch.long)}, "student_logits must be floating point"),
    ],
)
def test_bad_input_is_refused(plain_inputs, change, message):
    student, teacher, labels = batch()
    given = {"student_logits": student, "teacher_logits": teacher, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        token_divergence_loss(**given)


def test_modules_are_their_functions():
    student, teacher, labels = batch()
    assert torch.equal(
        ABDivergenceLoss(0.8, 0.3)(student, teacher, labels), ab_divergence(student, teacher, 0.8, 0.3, labels=labels)
    )
    assert torch.equal(
        TokenDivergenceLoss(JensenShannon(0.1), temperature=2.0)(student, teacher),
        token_divergence_loss(student, teacher, JensenShannon(0.1), temperature=2.0),
    )


def test_hidden_states_give_the_loss_of_their_logits():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    hidden, head, wide, wide_head = draw(3, 5, 4), draw(7, 4), draw(3, 5, 6), draw(7, 6)
    labels = batch()[2]
    found = fused_divergence_loss(hidden, LinearHead(head), wide, LinearHead(wide_head), "jsd", labels=labels)
    torch.testing.assert_close(found, token_divergence_loss(hidden @ head.T, wide @ wide_head.T, "jsd", labels=labels))
    with pytest.raises(ValueError, match="the student's output layer has 7 entries, the teacher's 6"):
        fused_divergence_loss(hidden, LinearHead(head), wide, LinearHead(wide_head[:6]))


def test_log_mass_ratio_is_a_step_taken_and_obeys_the_bound():
    student, teacher, _ = batch()
    alpha, beta, lr = 0.2, 0.7, 0.3
    found = log_mass_ratio(student, teacher, AlphaBeta(alpha, beta), lr)
    leaf = student.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ab_divergence(leaf, teacher, alpha, beta, reduction="sum"), leaf)
    torch.testing.assert_close(found, (student - lr * slope).log_softmax(-1) - student.log_softmax(-1))
    p, q = teacher.softmax(-1), student.softmax(-1)
    error = q**beta * (p**alpha - q**alpha).abs() / alpha
    normaliser = ((student - lr * slope).logsumexp(-1) - student.logsumexp(-1)).abs()[..., None]
    assert (found.abs() <= lr * (error + q * error.sum(-1, keepdim=True)) + normaliser + 1e-12).all()


def test_a_step_is_the_same_under_compile_and_autocast():
    student, teacher, labels = batch(dtype=torch.float32)
    loss = ABDivergenceLoss()
    expected = loss(student, teacher, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(student, teacher, labels), expected)
