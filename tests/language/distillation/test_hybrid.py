"""Hard and soft labels: weights by brute force, the loss by definition, its gradient, and how batches are cut."""

import io
import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from equipoise.core.token_divergence.families import AlphaBeta
from equipoise.core.token_divergence.fused import LinearHead
from equipoise.language import (
    CurriculumSchedule,
    HybridKDLoss,
    curriculum_soft_weight,
    hybrid_kd_loss,
    hybrid_soft_weight,
)
from equipoise.language.distillation.divergence_loss import token_divergence_loss

MODES = ["static", "confidence", "confidence_label", "entropy", "power_entropy", "ambiguity", "wsl"]


def batch(seed=0, b=3, t=5, v=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(b, t, v, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    labels = torch.randint(v, (b, t), generator=generator)
    labels[0, 0] = labels[1, 3:] = labels[2, 2] = -100
    return student, teacher, labels


def weight_by_hand(p, q, label, mode, lam=1.0, gamma=0.1):
    """Of one token, from plain lists."""
    v = len(p)
    supported = sum(x > 0 for x in p)
    share = {
        "static": lambda: 1.0,
        "confidence": lambda: 1 - max(p),
        "confidence_label": lambda: 1 - p[label],
        "entropy": lambda: -sum(x * math.log(x) for x in p if x > 0) / math.log(v),
        "power_entropy": lambda: (sum(x**gamma for x in p) - 1) / (v ** (1 - gamma) - 1),
        "ambiguity": lambda: (1 - max(p)) / (1 - 1 / supported),
        "wsl": lambda: 1 - math.exp(-math.log(q[label]) / math.log(p[label])),
    }[mode]()
    return lam * min(max(share, 0.0), 1.0)


@pytest.mark.parametrize("mode", MODES)
def test_weight_and_loss_are_those_of_the_definition(mode):
    student, teacher, labels = batch()
    p, q = teacher.softmax(-1), student.softmax(-1)
    total, weights = 0.0, torch.zeros(labels.shape, dtype=torch.float64)
    for i, j in (labels != -100).nonzero().tolist():
        label = int(labels[i, j])
        weights[i, j] = w = weight_by_hand(p[i, j].tolist(), q[i, j].tolist(), label, mode, lam=0.8)
        soft = float((p[i, j] * (p[i, j].log() - q[i, j].log())).sum())
        hard = -math.log(q[i, j, label])
        total += w * soft + (1.0 if mode == "wsl" else 1 - w) * hard
    given = {"student_logits": student} if mode == "wsl" else {}
    found = hybrid_soft_weight(teacher, mode, labels=labels, lam=0.8, **given)
    torch.testing.assert_close(found, weights)
    loss = hybrid_kd_loss(student, teacher, labels, mode=mode, lam=0.8)
    torch.testing.assert_close(loss, torch.tensor(total / int((labels != -100).sum()), dtype=torch.float64))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hard", ["labels", "argmax"])
def test_the_gradient_is_that_of_finite_differences_with_the_weight_held(mode, hard):
    student, teacher, labels = (each[:2, :3] for each in batch())
    leaf = student.clone().requires_grad_()
    hybrid_kd_loss(leaf, teacher, labels, mode=mode, hard=hard, divergence="jsd").backward()
    token = teacher.argmax(-1) if hard == "argmax" else labels
    token = torch.where(labels == -100, -100, token)
    weight = hybrid_soft_weight(
        teacher, mode, labels=token, **({"student_logits": leaf.detach()} if mode == "wsl" else {})
    )

    def value(z):
        soft = token_divergence_loss(z, teacher, "jsd", labels=labels, reduction="none")
        ce = cross_entropy(z.flatten(0, 1), token.flatten(), reduction="none").view(labels.shape)
        return (weight * soft + (1 if mode == "wsl" else 1 - weight) * ce).sum() / (labels != -100).sum()

    with torch.no_grad():
        steps = 1e-5 * torch.eye(leaf.numel(), dtype=torch.float64).view(-1, *leaf.shape)
        numeric = torch.stack([(value(leaf + step) - value(leaf - step)) / 2e-5 for step in steps]).view_as(leaf)
    torch.testing.assert_close(leaf.grad, numeric, rtol=1e-6, atol=1e-9)


def test_the_ends_are_distillation_and_cross_entropy():
    student, teacher, labels = batch()
    soft = hybrid_kd_loss(student, teacher, labels, mode="static", lam=1.0, divergence=AlphaBeta(0.3, 0.4))
    torch.testing.assert_close(soft, token_divergence_loss(student, teacher, AlphaBeta(0.3, 0.4), labels=labels))
    hard = hybrid_kd_loss(student, teacher, labels, mode="static", lam=0.0)
    torch.testing.assert_close(hard, cross_entropy(student.flatten(0, 1), labels.flatten()))
    alone = hybrid_kd_loss(student, teacher, mode="static", lam=0.0, hard="argmax")
    torch.testing.assert_close(alone, cross_entropy(student.flatten(0, 1), teacher.flatten(0, 1).argmax(1)))


def test_a_sure_teacher_is_learned_hard_and_an_unsure_one_soft():
    sure = torch.full((1, 1, 6), -60.0)
    sure[..., 2] = 0
    for mode in ("confidence", "entropy", "power_entropy", "ambiguity"):
        torch.testing.assert_close(hybrid_soft_weight(sure, mode, power_gamma=0.5), torch.zeros(1, 1))
        whole = 1 - 1 / 6 if mode == "confidence" else 1.0
        torch.testing.assert_close(hybrid_soft_weight(torch.zeros(1, 1, 6), mode), torch.full((1, 1), whole))
    one_hot = sure.masked_fill(sure < 0, -torch.inf)
    assert hybrid_soft_weight(one_hot, "ambiguity") == hybrid_soft_weight(one_hot, "entropy") == 0
    off = hybrid_soft_weight(sure, "confidence_label", labels=torch.tensor([[4]]))
    torch.testing.assert_close(off, torch.ones(1, 1))


def test_ambiguity_counts_the_support_only():
    teacher = torch.tensor([[0.0, 0.0, 0.0, -torch.inf, -torch.inf]])
    torch.testing.assert_close(hybrid_soft_weight(teacher, "ambiguity"), torch.ones(1))
    torch.testing.assert_close(hybrid_soft_weight(teacher, "entropy"), torch.tensor([math.log(3) / math.log(5)]))


def test_one_token_leaves_nothing_to_weigh():
    for mode in ("static", "confidence", "entropy", "power_entropy", "ambiguity"):
        assert hybrid_soft_weight(torch.zeros(2, 1), mode).tolist() == [0, 0]
    assert hybrid_kd_loss(torch.zeros(2, 1), torch.ones(2, 1), torch.zeros(2, dtype=torch.long)) == 0


def test_wsl_where_teacher_and_student_are_both_sure_has_nothing_to_learn():
    sure = torch.tensor([[200.0, 0.0], [200.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[200.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found = hybrid_soft_weight(sure, "wsl", labels=torch.zeros(2, dtype=torch.long), student_logits=student)
    assert found.tolist() == [0, 1]


def test_reverse_weights_add_up_to_the_largest():
    _, teacher, labels = batch()
    for mode in ("confidence", "confidence_label", "entropy", "power_entropy", "ambiguity"):
        both = [hybrid_soft_weight(teacher, mode, labels=labels, lam=0.6, reverse=each) for each in (False, True)]
        torch.testing.assert_close(sum(both), 0.6 * (labels != -100).double())
    with pytest.raises(ValueError, match="reverse=True has no meaning with mode='static'"):
        hybrid_soft_weight(teacher, "static", reverse=True)


def test_weights_carry_no_gradient_and_the_teacher_gets_none():
    student, teacher, labels = batch()
    teacher.requires_grad_()
    assert not hybrid_soft_weight(teacher, "entropy").requires_grad
    hybrid_kd_loss(student.requires_grad_(), teacher, labels, mode="entropy").backward()
    assert teacher.grad is None


@pytest.mark.parametrize("mode", MODES)
def test_accumulated_batches_give_the_gradient_of_the_whole(mode):
    student, teacher, labels = batch(b=4)
    items = int((labels != -100).sum())
    whole = student.clone().requires_grad_()
    hybrid_kd_loss(whole, teacher, labels, mode=mode).backward()
    for cut in ([1, 3], [2, 2], [1, 1, 1, 1]):
        parts = student.clone().requires_grad_()
        for s, t, y in zip(parts.split(cut), teacher.split(cut), labels.split(cut), strict=True):
            hybrid_kd_loss(s, t, y, mode=mode, num_items_in_batch=torch.tensor(items)).backward()
        torch.testing.assert_close(parts.grad, whole.grad)


def test_tokens_that_do_not_count_are_not_looked_at():
    student, teacher, labels = batch()
    spoilt, spoilt_teacher = student.clone(), teacher.clone()
    spoilt[labels == -100] = torch.nan
    spoilt_teacher[labels == -100] = torch.inf
    assert hybrid_kd_loss(spoilt, spoilt_teacher, labels) == hybrid_kd_loss(student, teacher, labels)
    per_token = hybrid_kd_loss(student, teacher, labels, reduction="none")
    assert per_token.shape == labels.shape
    assert not per_token[labels == -100].any()
    torch.testing.assert_close(per_token.sum(), hybrid_kd_loss(student, teacher, labels, reduction="sum"))


def test_no_tokens_are_an_attached_zero():
    student, teacher, labels = batch(dtype=torch.float16)
    student.requires_grad_()
    loss = HybridKDLoss()
    value = loss(student, teacher, torch.full_like(labels, -100), num_items_in_batch=8)
    value.backward()
    assert value == 0
    assert not student.grad.any()
    assert loss.logs["tokens"] == loss.logs["soft"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    student, teacher, labels = batch(dtype=dtype)
    student.requires_grad_()
    loss = hybrid_kd_loss(student, teacher, labels, mode="entropy")
    single = hybrid_kd_loss(student.detach().float(), teacher.float(), labels, mode="entropy")
    assert loss.dtype is torch.float32
    assert torch.equal(loss, single)
    loss.backward()
    assert student.grad.dtype is dtype


@pytest.mark.parametrize("settings", [{}, {"mode": "static", "lam": 0.3}, {"mode": "wsl"}, {"hard": "argmax"}])
def test_hidden_states_give_the_loss_of_their_logits(settings):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    hidden, weight, bias, other, other_weight = draw(3, 5, 4), draw(7, 4), draw(7), draw(3, 5, 6), draw(7, 6)
    *_, labels = batch()
    leaves = [each.requires_grad_() for each in (hidden, weight, bias)]
    loss = HybridKDLoss(**settings)
    fused = loss.from_hidden(hidden, LinearHead(weight, bias), other, LinearHead(other_weight), labels)
    logs = loss.logs
    plain = loss(hidden @ weight.T + bias, other @ other_weight.T, labels)
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(logs, loss.logs)
    for one, two in zip(*(torch.autograd.grad(each, leaves) for each in (fused, plain)), strict=True):
        torch.testing.assert_close(one, two)
    nothing = loss.from_hidden(
        hidden, LinearHead(weight), other, LinearHead(other_weight), torch.full_like(labels, -100)
    )
    assert nothing == 0
    with pytest.raises(ValueError, match="output layer has 7 entries, the teacher's 6"):
        loss.from_hidden(hidden, LinearHead(weight), other, LinearHead(other_weight[:6]), labels)


def test_logs_are_means_over_the_tokens_that_count():
    student, teacher, labels = batch()
    loss = HybridKDLoss("confidence", lam=0.7)
    value = loss(student, teacher, labels)
    valid, p = labels != -100, teacher.softmax(-1)
    weight = hybrid_soft_weight(teacher, "confidence", lam=0.7)[valid]
    soft = kl_div(student.log_softmax(-1), p, reduction="none").sum(-1)[valid]
    hard = cross_entropy(student.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)[valid]
    expected = {
        "tokens": valid.sum().double(),
        "soft_weight": weight.mean(),
        "soft": soft.mean(),
        "hard": hard.mean(),
        "teacher_entropy": -(p * p.log()).sum(-1)[valid].mean(),
    }
    torch.testing.assert_close(loss.logs, expected)
    torch.testing.assert_close(value, (weight * soft + (1 - weight) * hard).mean())


def test_a_curriculum_goes_from_hard_to_soft_and_is_saved_with_its_step():
    student, teacher, labels = batch()
    loss = HybridKDLoss("static", curriculum=CurriculumSchedule(10, 0.4, 0.5))
    found = []
    for step in (0, 1, 4, 9):
        loss.set_step(step)
        loss(student, teacher, labels)
        found.append(round(float(loss.logs["soft_weight"]), 6))
    assert found == [0, 0.125, 0.5, 0.5]
    loss.set_step(1)
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    other = HybridKDLoss("static", curriculum=CurriculumSchedule(10, 0.4, 0.5))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert other(student, teacher, labels) == loss(student, teacher, labels)
    with pytest.raises(ValueError, match="takes mode='static', got mode='entropy'"):
        HybridKDLoss("entropy", curriculum=CurriculumSchedule(10))


@pytest.mark.parametrize("policy", ["error", "mask"])
def test_a_masked_label_has_no_part_where_hard_labels_have_no_weight(policy):
    student, teacher, labels = batch()
    at = (0, 1, int(labels[0, 1]))
    student[at] = -torch.inf
    if policy == "error":
        teacher[at] = -torch.inf
    leaf = student.requires_grad_()
    found = HybridKDLoss("static", lam=1.0, inf_policy=policy)(leaf, teacher, labels)
    expected = token_divergence_loss(leaf, teacher, "forward_kl", labels=labels, inf_policy=policy)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(each, leaf)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert torch.isfinite(gradients[0]).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_masked_label_that_has_a_weight_is_refused(mode):
    student, teacher, labels = batch()
    for each in (student, teacher):
        each[1, 2, labels[1, 2]] = -torch.inf
    with pytest.raises(ValueError, match=r"the hard label of token 7 has a student logit of -inf.*ignore_index"):
        hybrid_kd_loss(student, teacher, labels, mode=mode, lam=0.9)
    labels[1, 2] = -100
    assert torch.isfinite(hybrid_kd_loss(student, teacher, labels, mode=mode, lam=0.9))


def test_curriculum_weights_by_hand():
    assert [curriculum_soft_weight(k, 7, 0.5, 0.9) for k in range(5)] == pytest.approx([0, 0.3, 0.6, 0.9, 0.9])
    assert curriculum_soft_weight(0, 3, 0.3) == 1  # ⌊0.9⌋ steps of warm-up are none
    assert curriculum_soft_weight(0, 10, 0.0, 0.8) == 0.8


def test_vocabularies_that_differ_by_padding_are_cropped_when_asked():
    student, teacher, labels = batch()
    wide = torch.cat([teacher, torch.full((3, 5, 2), 50.0, dtype=torch.float64)], -1)
    with pytest.raises(ValueError, match="allow_vocab_crop=True"):
        hybrid_kd_loss(student, wide, labels)
    found = hybrid_kd_loss(student, wide, labels, mode="entropy", allow_vocab_crop=True)
    assert found == hybrid_kd_loss(student, teacher, labels, mode="entropy")


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "much"}, "mode='much' is not known"),
        ({"lam": 1.5}, r"lam=1.5 must lie in \[0, 1\]"),
        ({"power_gamma": 1.0}, r"power_gamma=1.0 must lie in \(0, 1\)"),
        ({"hard": "all"}, "hard='all' is not known"),
        ({"labels": None}, "hard='labels' needs labels"),
        ({"labels": torch.full((3, 5), 7)}, "labels hold 7, wanted classes from 0 to 6"),
        ({"labels": torch.zeros(3, 4, dtype=torch.long)}, r"labels must have shape .* got \(3, 4\)"),
        ({"divergence": "earth_mover"}, "earth_mover"),
        ({"divergence": None}, "divergence=None is no divergence"),
        ({"student_logits": torch.zeros(3, 5, 0), "teacher_logits": torch.zeros(3, 5, 0)}, "vocabulary of 0 entries"),
        ({"num_items_in_batch": 4, "reduction": "sum"}, "num_items_in_batch divides a mean"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(changes, words):
    student, teacher, labels = batch()
    good = {"student_logits": student, "teacher_logits": teacher, "labels": labels}
    with pytest.raises(ValueError, match=words):
        hybrid_kd_loss(**{**good, **changes})


@pytest.mark.usefixtures("plain_inputs")
def test_weights_refuse_what_they_cannot_use():
    student, teacher, labels = batch()
    with pytest.raises(ValueError, match="pass labels"):
        hybrid_soft_weight(teacher, "confidence_label")
    with pytest.raises(ValueError, match="pass student_logits"):
        hybrid_soft_weight(teacher, "wsl", labels=labels)
    with pytest.raises(ValueError, match="leave it out"):
        hybrid_soft_weight(teacher, "entropy", student_logits=student)
    for bad in ({"step": -1, "total": 4}, {"step": 1, "total": 0}, {"step": 1, "total": 4, "warmup_ratio": 1.2}):
        with pytest.raises(ValueError, match="must"):
            curriculum_soft_weight(**bad)
