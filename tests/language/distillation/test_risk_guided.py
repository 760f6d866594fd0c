"""The risk-guided loss: a plain loop, its closed gradient, holes, packed sequences, and how batches are cut."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from equipoise.core.token_divergence.fused import LinearHead
from equipoise.language import RiskGuidedHybridLoss, risk_guided_hard_loss

PAIRS = [(0.1, 1.0), (0.05, 0.9999), (0.7, 0.8), (0.0, 0.9), (0.3, 1 - 1e-7)]


def batch(seed=0, dtype=torch.float64):
    """One sequence with holes at both ends and inside, one with nothing that counts, one that is whole."""
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)).to(dtype)
    labels = torch.randint(5, (3, 6), generator=generator)
    labels[0, [0, 3, 5]] = -100
    labels[1] = -100
    return logits, labels


def by_hand(logits, labels, alpha, gamma):
    """Loss, parts and gradient by a loop over sequences and the closed form."""
    per_token, gradient, ends = torch.zeros(labels.shape), torch.zeros_like(logits), []
    count = int((labels != -100).sum())
    number = int((labels != -100).any(1).sum())
    for i, row in enumerate(labels.tolist()):
        valid = [t for t, label in enumerate(row) if label != -100]
        value = logits[i].logsumexp(-1)
        q = logits[i].softmax(-1)
        for step, t in enumerate(valid):
            chosen = logits[i, t, row[t]]
            follows = t + 1 < len(row) and row[t + 1] != -100
            delta = gamma * (value[t + 1] if follows else 0) - chosen
            per_token[i, t] = gamma**step * (value[t] - chosen + alpha / 4 * delta**2)
            pull = gamma**step * alpha / 2 * delta
            gradient[i, t] += gamma**step * q[t] / count
            gradient[i, t, row[t]] -= (gamma**step + pull) / count
            if follows:
                gradient[i, t + 1] += gamma * pull * q[t + 1] / count
        if valid and 1 - gamma >= 1e-6:
            factor = gamma ** (len(valid) - 1) * alpha * (1 - gamma) / 4
            ends.append(factor * value[valid[-1]] ** 2)
            gradient[i, valid[-1]] += 2 * factor * value[valid[-1]] * q[valid[-1]] / number
    data, terminal = per_token.sum() / count, sum(ends) / number if ends else torch.tensor(0.0)
    return data, terminal, per_token, gradient


@pytest.mark.parametrize(("alpha", "gamma"), PAIRS)
def test_it_is_the_loop_over_steps_with_its_closed_gradient(alpha, gamma):
    logits, labels = batch()
    data, terminal, per_token, gradient = by_hand(logits, labels, alpha, gamma)
    leaf = logits.clone().requires_grad_()
    found = risk_guided_hard_loss(leaf, labels, alpha=alpha, gamma=gamma, return_parts=True)
    found.loss.backward()
    close = {"rtol": 1e-6, "atol": 1e-7, "check_dtype": False}
    torch.testing.assert_close(found.data, data, **close)
    torch.testing.assert_close(found.terminal, terminal, **close)
    torch.testing.assert_close(found.per_token, per_token, **close)
    torch.testing.assert_close(found.loss, found.data + found.terminal)
    torch.testing.assert_close(leaf.grad, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("alpha", "gamma"), PAIRS)
def test_the_gradient_is_that_of_finite_differences(alpha, gamma):
    logits, labels = batch()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: risk_guided_hard_loss(z, labels, alpha=alpha, gamma=gamma), (logits,))


def test_without_the_square_it_is_cross_entropy():
    logits, labels = batch()
    found = risk_guided_hard_loss(logits, labels, alpha=0)
    torch.testing.assert_close(found, cross_entropy(logits.flatten(0, 1), labels.flatten()))


def test_a_constant_added_to_the_logits_changes_it():
    logits, labels = batch()
    assert risk_guided_hard_loss(logits + 5, labels) > risk_guided_hard_loss(logits, labels) + 0.1


@pytest.mark.parametrize(("alpha", "gamma"), PAIRS)
def test_packed_sequences_are_separate_ones(alpha, gamma):
    generator = torch.Generator().manual_seed(3)
    pieces = [
        (torch.randn(1, n, 5, generator=generator), torch.randint(5, (1, n), generator=generator)) for n in (2, 4, 3)
    ]
    pieces[1][1][0, 2] = -100
    packed = [torch.cat(each, 1) for each in zip(*pieces, strict=True)]
    ids = torch.tensor([[7, 7, 0, 0, 0, 0, 7, 7, 7]])  # runs of equal ids, not their values, are sequences
    packed[0].requires_grad_()
    found = risk_guided_hard_loss(*packed, alpha=alpha, gamma=gamma, segment_ids=ids, return_parts=True)
    logits = torch.zeros(3, 4, 5)
    labels = torch.full((3, 4), -100)
    for i, (z, y) in enumerate(pieces):
        logits[i, : z.shape[1]], labels[i, : z.shape[1]] = z[0], y[0]
    logits.requires_grad_()
    apart = risk_guided_hard_loss(logits, labels, alpha=alpha, gamma=gamma, return_parts=True)
    torch.testing.assert_close(found[:3], apart[:3])
    found.loss.backward()
    apart.loss.backward()
    unpacked = torch.cat([logits.grad[i, : z.shape[1]] for i, (z, _) in enumerate(pieces)])
    torch.testing.assert_close(packed[0].grad[0], unpacked)


def test_steps_are_counted_on_across_a_hole():
    logits, labels = batch()
    gamma = 0.5
    found = risk_guided_hard_loss(logits, labels, alpha=0, gamma=gamma, return_parts=True).per_token[0]
    ce = cross_entropy(logits[0], labels[0], reduction="none")
    torch.testing.assert_close(found, ce * torch.tensor([0, 1, gamma, 0, gamma**2, 0], dtype=torch.float64))


def test_accumulated_batches_give_the_gradient_of_the_whole():
    logits, labels = batch()
    labels[1] = 2
    items = int((labels != -100).sum())
    whole = logits.clone().requires_grad_()
    risk_guided_hard_loss(whole, labels).backward()
    parts = logits.clone().requires_grad_()
    for z, y in zip(parts.split([1, 2]), labels.split([1, 2]), strict=True):
        risk_guided_hard_loss(z, y, num_items_in_batch=items).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_terminal_parts_of_accumulated_batches_weigh_as_their_tokens():
    logits, labels = batch()
    both = [
        risk_guided_hard_loss(logits, labels, gamma=0.5, num_items_in_batch=each, return_parts=True).terminal
        for each in (None, 18)
    ]
    torch.testing.assert_close(both[1], both[0] * int((labels != -100).sum()) / 18)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_no_tokens_are_an_attached_zero(gamma):
    logits, labels = batch(dtype=torch.float16)
    logits.requires_grad_()
    for nothing in (torch.full_like(labels, -100), labels[:0]):
        found = risk_guided_hard_loss(logits[: len(nothing)], nothing, gamma=gamma, return_parts=True)
        found.loss.backward()
        assert found.loss == found.data == found.terminal == 0
        assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    logits, labels = batch(dtype=dtype)
    logits.requires_grad_()
    found = risk_guided_hard_loss(logits, labels, gamma=0.9)
    assert found.dtype is torch.float32
    assert torch.equal(found, risk_guided_hard_loss(logits.detach().float(), labels, gamma=0.9))
    found.backward()
    assert logits.grad.dtype is dtype


def test_a_long_sequence_is_discounted_to_nothing_without_an_accident():
    logits = torch.zeros(1, 5000, 3)
    found = risk_guided_hard_loss(logits, torch.zeros(1, 5000, dtype=torch.long), gamma=0.5, return_parts=True)
    assert torch.isfinite(found.loss)
    assert found.per_token[0, -1] == 0


def test_the_mixture_is_the_weighted_sum_of_both_and_says_so():
    student, labels = batch()
    teacher = batch(1)[0]
    loss = RiskGuidedHybridLoss(0.3, alpha=0.2, gamma=0.9)
    value = loss(student, teacher, labels)
    valid = labels != -100
    soft = kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)[valid].mean()
    parts = risk_guided_hard_loss(student, labels, alpha=0.2, gamma=0.9, return_parts=True)
    torch.testing.assert_close(value, 0.7 * parts.loss + 0.3 * soft)
    torch.testing.assert_close(
        loss.logs,
        {
            "tokens": valid.sum().double(),
            "soft": soft,
            "hard": cross_entropy(student[valid], labels[valid]),
            "soft_weight": torch.tensor(0.3, dtype=torch.float64),
            "data": parts.data,
            "terminal": parts.terminal,
        },
    )


def test_hidden_states_give_the_loss_of_their_logits():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    hidden, weight, other, other_weight = draw(3, 6, 4), draw(5, 4), draw(3, 6, 2), draw(5, 2)
    _, labels = batch()
    leaves = [each.requires_grad_() for each in (hidden, weight)]
    loss = RiskGuidedHybridLoss(gamma=0.95)
    ids = torch.tensor([0, 0, 0, 0, 1, 1]).expand(3, 6)
    fused = loss.from_hidden(hidden, LinearHead(weight), other, LinearHead(other_weight), labels, segment_ids=ids)
    plain = loss(hidden @ weight.T, other @ other_weight.T, labels, segment_ids=ids)
    torch.testing.assert_close(fused, plain)
    for one, two in zip(*(torch.autograd.grad(each, leaves) for each in (fused, plain)), strict=True):
        torch.testing.assert_close(one, two)


def test_it_matches_the_formula_of_the_paper_at_one_step():
    logits = torch.tensor([[[1.0, -0.5], [0.3, 0.2]]], dtype=torch.float64)
    found = risk_guided_hard_loss(logits, torch.tensor([[1, -100]]), alpha=0.1, return_parts=True).per_token
    expected = math.log(math.exp(1.0) + math.exp(-0.5)) + 0.5 + 0.1 / 4 * 0.5**2
    assert found[0].tolist() == pytest.approx([expected, 0])


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": -0.1}, "alpha=-0.1 must be a number at least 0|alpha=-0.1 must be at least 0"),
        ({"gamma": 0.0}, r"gamma=0.0 must lie in \(0, 1\]"),
        ({"gamma": 1.1}, r"gamma=1.1 must lie in \(0, 1\]"),
        ({"labels": torch.zeros(3, 5, dtype=torch.long)}, r"labels must have shape .*\(3, 5\)"),
        ({"labels": torch.full((3, 6), 5)}, "labels hold 5"),
        ({"logits": torch.zeros(18, 5)}, r"logits must have shape .*\(18, 5\)"),
        ({"logits": torch.full((3, 6, 5), torch.nan)}, "logits hold NaN at token 1"),
        ({"segment_ids": torch.zeros(3, 5, dtype=torch.long)}, "segment_ids must have shape"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(changes, words):
    logits, labels = batch()
    with pytest.raises(ValueError, match=words):
        risk_guided_hard_loss(**{"logits": logits, "labels": labels, **changes})
