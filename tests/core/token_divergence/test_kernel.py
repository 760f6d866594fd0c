"""The row-by-row kernel: chunks, labels, chosen rows, precision, infinities; and the same terms from hidden states."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from equipoise.core.token_divergence.certainty import certainty
from equipoise.core.token_divergence.families import (
    FORWARD_KL,
    AdaptiveKL,
    AlphaBeta,
    JensenShannon,
    LargerAlpha,
    SkewReverseKL,
    TotalVariation,
)
from equipoise.core.token_divergence.fused import LinearHead, fused_certainty, fused_token_terms
from equipoise.core.token_divergence.kernel import token_terms
from equipoise.core.token_divergence.label_terms import label_terms

FAMILIES = [
    AlphaBeta(0.2, 0.7),
    FORWARD_KL,
    JensenShannon(0.3),
    SkewReverseKL(),
    TotalVariation(),
    LargerAlpha(),
    AdaptiveKL(),
]


def logits(rows=7, vocabulary=11, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(rows, vocabulary, generator=generator, dtype=dtype) for _ in range(2))


def gradient(student, teacher, family, **settings):
    z = student.detach().clone().requires_grad_()
    terms = token_terms(z, teacher, family, **settings)
    weight = torch.arange(1.0, len(terms.divergence) + 1, dtype=terms.divergence.dtype)
    (weight * terms.divergence).sum().backward()
    return terms, z.grad


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_values_and_gradients_do_not_depend_on_the_chunks(family):
    student, teacher = logits()
    terms, grad = gradient(student, teacher, family, chunk_rows=7)
    for rows in (1, 2, 3, 100):
        other, other_grad = gradient(student, teacher, family, chunk_rows=rows)
        assert torch.equal(terms.divergence, other.divergence)
        assert torch.equal(grad, other_grad)


def test_only_the_rows_asked_for_are_looked_at_and_get_a_gradient():
    student, teacher = logits()
    spoilt = student.clone()
    spoilt[[1, 4]] = torch.nan
    index = torch.tensor([0, 2, 3, 5, 6])
    terms, grad = gradient(spoilt, teacher, FORWARD_KL, index=index, chunk_rows=2)
    expected, expected_grad = gradient(student[index], teacher[index], FORWARD_KL)
    assert torch.equal(terms.divergence, expected.divergence)
    assert torch.equal(grad[index], expected_grad)
    assert not grad[[1, 4]].any()


def test_hard_terms_are_the_cross_entropy_at_temperature_one():
    student, teacher = logits()
    labels = torch.arange(7) % 11
    z = student.clone().requires_grad_()
    terms = token_terms(z, teacher, FORWARD_KL, labels=labels, temperature=3.0, chunk_rows=3)
    torch.testing.assert_close(terms.hard, cross_entropy(student, labels, reduction="none"))
    (terms.hard.sum() + 2 * terms.divergence.sum()).backward()
    reference = student.clone().requires_grad_()
    kl = torch.nn.functional.kl_div(
        (reference / 3).log_softmax(1), (teacher / 3).log_softmax(1), log_target=True, reduction="sum"
    )
    (cross_entropy(reference, labels, reduction="sum") + 2 * kl).backward()
    torch.testing.assert_close(z.grad, reference.grad)


def test_log_normalizer_and_label_logit_have_gradients_of_their_own():
    student, teacher = logits(3, 4)
    labels = torch.tensor([0, 3, 1])
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: tuple(token_terms(z, teacher, JensenShannon(), labels=labels, temperature=0.7)), (student,)
    )


def test_two_backward_passes_give_the_same_gradient():
    student, teacher = logits()
    student.requires_grad_()
    found = token_terms(student, teacher, FORWARD_KL).divergence.sum()
    first, second = (torch.autograd.grad(found, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_half_precision_is_computed_in_single_and_its_gradient_comes_back_in_half(dtype, family):
    student, teacher = (each.to(dtype) for each in logits())
    terms, grad = gradient(student, teacher, family)
    single, single_grad = gradient(student.float(), teacher.float(), family)
    assert terms.divergence.dtype is torch.float32
    assert torch.equal(terms.divergence, single.divergence)
    assert torch.equal(grad, single_grad.to(dtype))


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_gradients_of_extreme_logits_are_finite(family):
    student, teacher = (150 * each.float().sign() for each in logits())
    for scale in (1, 100):
        assert torch.isfinite(gradient(scale * student, teacher, family)[1]).all()
    if family == FORWARD_KL:
        expected = student.softmax(1) - teacher.softmax(1)
        torch.testing.assert_close(
            gradient(student, teacher, family)[1], torch.arange(1.0, 8)[:, None] * expected, atol=1e-5, rtol=1e-4
        )


def test_a_loss_scale_reaches_small_gradients_before_they_are_rounded():
    student, teacher = torch.zeros(1, 4000, dtype=torch.float16), torch.zeros(1, 4000, dtype=torch.float16)
    teacher[0, 0] = 1e-3
    student.requires_grad_()
    (token_terms(student, teacher, FORWARD_KL).divergence.sum() * 2.0**16).backward()
    assert (student.grad != 0).all()


def test_the_teacher_gets_no_gradient():
    student, teacher = logits()
    teacher.requires_grad_()
    token_terms(student.requires_grad_(), teacher, FORWARD_KL).divergence.sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_entries_that_are_absent_from_both_models_count_nothing(family):
    student, teacher = logits()
    narrow, grad = gradient(student[:, :8], teacher[:, :8], family)
    student[:, 8:], teacher[:, 8:] = -torch.inf, -torch.inf
    wide, wide_grad = gradient(student, teacher, family)
    torch.testing.assert_close(wide.divergence, narrow.divergence)
    torch.testing.assert_close(wide_grad[:, :8], grad)
    assert not wide_grad[:, 8:].any()


def test_an_entry_absent_from_one_model_is_an_error_or_left_out():
    student, teacher = logits()
    student[3, 2] = -torch.inf
    with pytest.raises(ValueError, match="some student_logits are -inf where those of the other model are not"):
        token_terms(student, teacher, AlphaBeta(0.2, 0.7))
    terms, grad = gradient(student, teacher, FORWARD_KL, inf_policy="mask")
    p, q = teacher[3].softmax(0), student[3].softmax(0)
    keep = torch.arange(11) != 2
    expected = (p * (p.log() - q.log()) - p + q)[keep].sum()
    torch.testing.assert_close(terms.divergence[3], expected)
    assert grad[3, 2] == 0
    assert torch.isfinite(grad).all()
    teacher[3, 4] = -torch.inf
    student[3, 2] = 0
    with pytest.raises(ValueError, match="some teacher_logits are -inf"):
        token_terms(student, teacher, FORWARD_KL)


@pytest.mark.parametrize(("value", "words"), [(torch.nan, "NaN"), (torch.inf, r"\+inf")])
def test_bad_logits_are_named_with_their_token(value, words):
    student, teacher = logits()
    teacher[5, 1] = value
    with pytest.raises(ValueError, match=rf"teacher_logits hold {words} at token 5"):
        token_terms(student, teacher, FORWARD_KL, chunk_rows=2)
    student[4] = -torch.inf
    with pytest.raises(ValueError, match="student_logits hold no finite value at token 4"):
        token_terms(student, teacher, FORWARD_KL, chunk_rows=2)


def test_no_rows_are_no_terms():
    student, teacher = logits()
    terms, grad = gradient(student, teacher, FORWARD_KL, index=torch.empty(0, dtype=torch.long))
    assert len(terms.divergence) == len(terms.hard) == 0
    assert not grad.any()


def heads(dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return draw(7, 3), draw(11, 3), draw(11), draw(7, 4), draw(11, 4)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (1.3, 5.0)])
@pytest.mark.parametrize("rows", [None, [0, 2, 3, 6]])
def test_hidden_states_give_the_terms_and_gradients_of_their_logits(family, scale, cap, rows):
    hidden, weight, bias, teacher_hidden, teacher_weight = heads()
    index = None if rows is None else torch.tensor(rows)
    labels = torch.arange(7 if rows is None else len(rows)) * 2 % 11
    leaves = [each.requires_grad_() for each in (hidden, weight, bias)]
    settings = {"index": index, "labels": labels, "temperature": 1.5}
    fused = fused_token_terms(
        hidden, LinearHead(weight, bias, scale, cap), teacher_hidden, LinearHead(teacher_weight), family, **settings
    )
    z = scale * (hidden @ weight.T + bias)
    z = z if cap is None else cap * torch.tanh(z / cap)
    plain = token_terms(z, teacher_hidden @ teacher_weight.T, family, **settings)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other)
    gradients = [
        torch.autograd.grad((terms.divergence * labels).sum() + 2 * terms.hard.sum(), leaves)
        for terms in (fused, plain)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearHead([1.0]), "weight of an output layer must be a floating-point torch.Tensor, got list"),
        (lambda: LinearHead(torch.ones(5, 3).long()), "weight of an output layer must be .*, got torch.int64"),
        (lambda: LinearHead(torch.ones(5)), r"weight .* must have shape \(vocabulary, width\), got \(5,\)"),
        (lambda: LinearHead(torch.ones(0, 3)), r"weight .* must have shape \(vocabulary, width\), got \(0, 3\)"),
        (lambda: LinearHead(torch.ones(5, 3), torch.ones(5, 1)), r"bias .* must have shape \(vocabulary,\)"),
        (lambda: LinearHead(torch.ones(5, 3), torch.ones(1)), "bias has 1 entries and weight 5"),
        (lambda: LinearHead(torch.ones(5, 3), soft_cap=0.0), "soft_cap=0.0 must be greater than 0"),
    ],
)
def test_an_output_layer_of_another_form_is_refused(plain_inputs, make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_hidden_states_of_another_width_than_the_output_layer_are_refused():
    hidden, weight, _, teacher_hidden, teacher_weight = heads()
    student, teacher = LinearHead(weight), LinearHead(teacher_weight)
    with pytest.raises(ValueError, match="student_hidden has 4 features, the student's output layer takes 3"):
        fused_token_terms(teacher_hidden, student, teacher_hidden, teacher, FORWARD_KL)
    with pytest.raises(ValueError, match="teacher_hidden has 3 features, the teacher's output layer takes 4"):
        fused_token_terms(hidden, student, hidden, teacher, FORWARD_KL)
    with pytest.raises(ValueError, match="teacher_hidden has 3 features, the teacher's output layer takes 4"):
        fused_certainty(hidden, teacher)


def test_logits_of_half_precision_weights_are_not_rounded():
    hidden, weight, _, teacher_hidden, teacher_weight = (each.bfloat16() for each in heads())
    found = fused_token_terms(hidden, LinearHead(weight), teacher_hidden, LinearHead(teacher_weight), JensenShannon())
    exact = fused_token_terms(
        hidden.double(),
        LinearHead(weight.double()),
        teacher_hidden.double(),
        LinearHead(teacher_weight.double()),
        JensenShannon(),
    )
    torch.testing.assert_close(found.divergence.double(), exact.divergence, rtol=1e-5, atol=1e-7)


def test_tiles_of_a_larger_vocabulary_join_without_a_seam(monkeypatch):
    from equipoise.core.token_divergence import fused

    hidden, _, _, teacher_hidden, _ = heads()
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(300, 3, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 63, 64, 127, 128, 255, 299])

    def found():
        terms = fused_token_terms(
            hidden, LinearHead(weight), teacher_hidden, LinearHead(teacher), AlphaBeta(0.2, 0.7), labels=labels
        )
        return terms, torch.autograd.grad((terms.divergence + terms.hard).sum(), weight)[0]

    whole, whole_grad = found()
    monkeypatch.setattr(fused, "_CPU_BYTES", 1)
    monkeypatch.setattr(fused, "_WEIGHT_BYTES", 1)
    tiled, tiled_grad = found()
    torch.testing.assert_close(whole.divergence, tiled.divergence)
    torch.testing.assert_close(whole_grad, tiled_grad)


@pytest.mark.parametrize("family", [FORWARD_KL, AdaptiveKL()], ids=str)
def test_no_rows_of_hidden_states_are_no_terms(family):
    hidden, weight, bias, teacher_hidden, teacher_weight = heads()
    leaves = [each.requires_grad_() for each in (hidden, weight, bias)]
    none = torch.empty(0, dtype=torch.long)
    terms = fused_token_terms(
        hidden, LinearHead(weight, bias), teacher_hidden, LinearHead(teacher_weight), family, index=none
    )
    assert len(terms.divergence) == 0
    assert not any(each.any() for each in torch.autograd.grad(terms.divergence.sum(), leaves))


def test_autocast_rounds_neither_values_nor_gradients():
    hidden, weight, _, teacher_hidden, teacher_weight = heads(torch.float32)
    weight.requires_grad_()

    def found():
        terms = fused_token_terms(hidden, LinearHead(weight), teacher_hidden, LinearHead(teacher_weight), FORWARD_KL)
        return terms.divergence, torch.autograd.grad(terms.divergence.sum(), weight)[0]

    plain = found()
    with torch.autocast("cpu", torch.bfloat16):
        under = found()
    for one, other in zip(plain, under, strict=True):
        assert torch.equal(one, other)


def test_certainty_is_that_of_the_softmax():
    _, teacher = logits()
    labels = torch.arange(7)
    p = teacher.softmax(1)
    found = certainty(teacher, labels=labels, power=0.3, chunk_rows=2)
    torch.testing.assert_close(found.largest, p.max(1).values)
    assert torch.equal(found.token, p.argmax(1))
    torch.testing.assert_close(found.entropy, -(p * p.log()).sum(1))
    torch.testing.assert_close(found.power_sum, (p**0.3).sum(1))
    torch.testing.assert_close(found.label_probability, p[labels, labels])
    masked = teacher.clone()
    masked[0, :4] = -torch.inf
    assert certainty(masked).support.tolist() == [7] + [11] * 6
    assert torch.isfinite(certainty(masked).entropy).all()


def test_certainty_from_hidden_states_is_that_of_their_logits(monkeypatch):
    from equipoise.core.token_divergence import fused

    hidden, weight, bias, _, _ = heads()
    index, labels = torch.tensor([0, 2, 5, 6]), torch.tensor([1, 10, 3, 0])
    expected = certainty(hidden @ weight.T + bias, index=index, labels=labels, power=0.4)
    for size in (fused._CPU_BYTES, 1):
        monkeypatch.setattr(fused, "_CPU_BYTES", size)
        found = fused_certainty(hidden, LinearHead(weight, bias), index=index, labels=labels, power=0.4)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    none = fused_certainty(hidden, LinearHead(weight), index=index[:0], labels=labels[:0])
    assert [len(each) for each in none] == [0] * 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_label_terms_alone_are_those_of_the_whole_walk(dtype):
    student, teacher = (each.to(dtype) for each in logits())
    index, labels = torch.tensor([0, 2, 3, 6]), torch.tensor([1, 10, 3, 0])
    student[[1, 4]] = torch.nan
    gradients = []
    for rows in (1, 3, None):
        z = student.clone().requires_grad_()
        norm, logit = label_terms(z, labels, index=index, chunk_rows=rows)
        (norm.square().sum() - 2 * logit.sum()).backward()
        gradients.append(z.grad)
    z = student.clone().requires_grad_()
    terms = token_terms(z, teacher, FORWARD_KL, index=index, labels=labels)
    assert torch.equal(norm, terms.log_normalizer)
    assert torch.equal(logit, terms.label_logit)
    (terms.log_normalizer.square().sum() - 2 * terms.label_logit.sum()).backward()
    for each in gradients:
        torch.testing.assert_close(each, z.grad)
    assert z.grad.dtype is dtype
    with pytest.raises(ValueError, match="logits hold NaN at token 1"):
        label_terms(student, labels[:1], index=torch.tensor([1]))


def test_label_terms_have_the_gradient_of_finite_differences():
    z = logits(4, 5)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: tuple(label_terms(z, torch.tensor([0, 4, 2, 2]))), (z,))
